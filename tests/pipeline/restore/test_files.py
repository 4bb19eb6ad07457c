"""A few files, restored in the process of the command: the bytes of a run, wherever they come from and go to; and what
is refused before anything is written.
"""

import io
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TextIO

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from jobs.restore import main
from pipeline.restore import without_ray
from pipeline.restore.files import File
from pipeline.restore.settings import RestoreSettings
from pipeline.restore.without_ray import ARCHIVES_ONLY, BETWEEN
from tests import made
from tests.pipeline import offline

SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "tiff": ".tif"}
SIZES = {"small": (40, 56), "odd": (157, 201), "of tiles": (150, 420)}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number, (name, size) in enumerate(SIZES.items()):
        (folder / f"{name}.jpg").write_bytes(made.jpeg(number, *size))
    return folder


def restore(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict]:
    code = main([str(argument) for argument in arguments])
    told = capsys.readouterr()
    return code, json.loads(told.err.splitlines()[-1] if arguments[-1] == "-" else told.out)


@pytest.mark.parametrize(("kind", "threads"), [("png", 1), *((kind, 3) for kind in SUFFIXES)])
def test_bytes_are_those_of_a_run(
    photos: Path,
    small_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    threads: int,
) -> None:
    """One by one into files, or all into a folder; whatever the number of cores."""
    settings = {"model": str(small_model), "seed": 3, "tile": 128, "steps": 2}
    flags = [text for name, value in settings.items() for text in (f"--{name}", value)]
    offline.restore(photos, tmp_path / "run", format=kind, **settings)
    monkeypatch.setattr("pipeline.restore.single.usable_cpus", lambda: threads)
    folder = tmp_path / "of several"
    code, told = restore(capsys, *sorted(photos.iterdir()), folder, "--format", kind, *flags)
    assert (code, len(told["images"])) == (0, len(SIZES))
    for source in photos.iterdir():
        alone = tmp_path / f"alone{SUFFIXES[kind]}"
        code, told = restore(capsys, source, alone, "--overwrite", *flags)
        assert (code, told["exit_code"], told["images"][0]["status"]) == (0, 0, "ok")
        expected = (tmp_path / "run/images" / source.name).with_suffix(SUFFIXES[kind]).read_bytes()
        assert alone.read_bytes() == expected
        assert (folder / source.name).with_suffix(SUFFIXES[kind]).read_bytes() == expected
    assert not list(tmp_path.glob("**/*.part"))


def piped(source: bytes, *flags: object) -> tuple[int, bytes, dict]:
    """Exit code, stdout, and what stderr tells last."""
    command = [sys.executable, "-m", "jobs.cli", "restore", "-", "-", *map(str, flags)]
    done = subprocess.run(command, input=source, capture_output=True)
    return done.returncode, done.stdout, json.loads(done.stderr.splitlines()[-1])


@pytest.mark.parametrize("kind", [None, "webp", "same"])
def test_a_pipe_carries_the_picture_alone(photos: Path, small_model: Path, tmp_path: Path, kind: str | None) -> None:
    source = (photos / "small.jpg").read_bytes()
    flags = ["--model", small_model, *(["--format", kind] if kind else [])]
    code, stdout, told = piped(source, *flags)
    assert (code, told["images"][0]["status"]) == (0, "ok")
    (tmp_path / "stdin").write_bytes(source)  # the noise goes by the name
    target = tmp_path / f"out{SUFFIXES.get(kind or '', '.png')}"
    assert main([str(tmp_path / "stdin"), str(target), *map(str, flags)]) == 0
    assert stdout == target.read_bytes()


def test_a_pipe_carries_nothing_where_there_is_no_picture(photos: Path) -> None:
    for source, expected in ((b"no picture", 3), ((photos / "small.jpg").read_bytes()[:300], 3)):
        code, stdout, told = piped(source, "--model", "identity")
        assert (code, stdout, told["exit_code"]) == (expected, b"", expected)
    whole = (photos / "small.jpg").read_bytes()
    for flags in (["--actors", 2], ["--model", "identity", "--max-file-bytes", len(whole) - 1]):
        code, stdout, told = piped(whole, *flags)
        assert (code, stdout, told["state"]) == (2, b"", "refused")


def test_what_is_done_when_it_is_interrupted_stays_and_is_told(
    photos: Path, small_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = without_ray._write

    def signalled(file: File, data: bytes, stdout: TextIO) -> None:
        if file.source and file.source.name == "odd.jpg":
            os.kill(os.getpid(), signal.SIGTERM)
        write(file, data, stdout)

    monkeypatch.setattr(without_ray, "_write", signalled)
    code, told = restore(capsys, *(photos / f"{name}.jpg" for name in SIZES), tmp_path / "out", "--model", small_model)
    assert code == told["exit_code"] == 130
    assert told["error"] == f"interrupted: {len(told['images'])} of {len(SIZES)} files are done"
    assert {Path(row["output"]) for row in told["images"]} <= set((tmp_path / "out").iterdir())
    assert 1 <= len(told["images"]) < len(SIZES)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_it_comes_out_upright(
    tmp_path: Path, small_model: Path, capsys: pytest.CaptureFixture[str], orientation: int
) -> None:
    stored = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 72, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.jpg", quality=90, exif=exif)
    assert restore(capsys, tmp_path / "a.jpg", tmp_path / "b.png", "--model", small_model)[0] == 0
    assert Image.open(tmp_path / "b.png").size == ((40, 72) if orientation > 4 else (72, 40))


@pytest.mark.parametrize("name", [b"n\xff.jpg", "n\u00e4.jpg".encode(), b"a\nb.jpg"])
@pytest.mark.parametrize("target", ["b.png", "out/"])
def test_any_name_is_taken(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: bytes, target: str
) -> None:
    source = photos / os.fsdecode(name)
    shutil.copy(photos / "small.jpg", source)
    code, told = restore(capsys, source, f"{tmp_path}/{target}", "--model", "identity")
    assert (code, told["images"][0]["status"]) == (0, "ok")
    assert Image.open(told["images"][0]["output"]).size == (56, 40)


def test_one_that_fails_takes_no_other_along(
    photos: Path, small_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = photos / "cut.jpg"
    cut.write_bytes((photos / "odd.jpg").read_bytes()[:700])
    out = tmp_path / "out"
    code, told = restore(capsys, photos / "small.jpg", cut, photos / "odd.jpg", out, "--model", small_model)
    assert code == told["exit_code"] == 3
    assert [image["status"] for image in told["images"]] == ["ok", "failed", "ok"]
    assert str(cut) in told["error"]
    assert sorted(path.name for path in out.iterdir()) == ["odd.png", "small.png"]


def test_nothing_that_is_there_is_lost_unasked(
    photos: Path, small_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, source = tmp_path / "there.png", photos / "small.jpg"
    target.write_bytes(b"mine")
    flags = ["--model", small_model]
    code, told = restore(capsys, source, target, *flags)
    assert (code, target.read_bytes()) == (2, b"mine")
    assert f"{target} exists; --overwrite replaces it" in told["error"]
    before = source.read_bytes()
    for itself in (source, photos / "link.jpg"):
        (photos / "link.jpg").unlink(missing_ok=True)
        (photos / "link.jpg").symlink_to(source)
        assert restore(capsys, source, itself, "--overwrite", *flags)[0] == 2
        assert source.read_bytes() == before
    assert restore(capsys, source, target, "--overwrite", *flags)[0] == 0
    assert Image.open(target).size == SIZES["small"][::-1]


def absent_devices() -> list[str]:
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return [kind for kind, found in there.items() if not found]


def test_what_cannot_be_meant_is_refused_before_anything_is_written(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = photos / "small.jpg", photos / "odd.jpg"
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "a.tar").touch()
    (tmp_path / "run").mkdir()
    (tmp_path / "run/run.json").touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "twin").mkdir()
    (tmp_path / "twin/small.png").write_bytes(one.read_bytes())
    out = tmp_path / "out.png"
    cases = {
        "text.jpg: not_an_image": [tmp_path / "text.jpg", out],
        "empty.jpg: empty": [tmp_path / "empty.jpg", out],
        "none.jpg: No such file": [tmp_path / "none.jpg", one, tmp_path / "out"],
        "is no single file": [tmp_path / "a.tar", one, tmp_path / "out"],
        f"INPUT {photos} is no single file": [photos, one, tmp_path / "out"],
        "out.gif: no image is written": [one, tmp_path / "out.gif"],
        "out.png is no webp": [one, out, "--format", "webp"],
        "several INPUTs would become": [one, tmp_path / "twin/small.png", tmp_path / "out"],
        "run is a run's": [one, tmp_path / "run"],
        "- takes one picture": [one, other, "-"],
        "more than max_file_bytes=100": [one, out, "--max-file-bytes", 100],
        "below.png: nothing can be written": [one, one / "below.png"],
        **{f"device {kind}: PyTorch finds none here": [one, out, "--device", kind] for kind in absent_devices()},
        "setting 'device' is 'tpu'": [one, out, "--device", "tpu"],
        "none.safetensors": [one, tmp_path / "folder.png", "--model", tmp_path / "none.safetensors"],  # a folder: fine
    }
    before = sorted(tmp_path.rglob("*"))
    for message, arguments in cases.items():
        code, told = restore(capsys, *arguments)
        assert (code, message in told["error"]) == (2, True), told["error"]
        assert sorted(tmp_path.rglob("*")) == before, message


def test_what_is_for_archives_is_named(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert set(ARCHIVES_ONLY) < RestoreSettings.model_fields.keys()
    values = {"max_failed": "5%", "only_listed": "a", "include": "*", "exclude": "*", "frames": "skip", "layout": "tar"}
    values |= {"retry_failed": "all", "skipped": "list", "max_cost": "1", "image_column": "a", "on_clash": "row"}
    values |= {"encode_by": "task"}
    switches = {"report": "--no-report", "repair": "--repair", "copy_failed": "--copy-failed"}
    switches |= {"allow_local": "--allow-local"}
    for name in ARCHIVES_ONLY:
        flag = [f"--set={name}={values.get(name, 90)}"] if name not in switches else [switches[name]]
        flag += ["--price-per-hour", "1"] if name == "max_cost" else []
        code, told = restore(capsys, photos / "small.jpg", tmp_path / "a.png", *flag)
        assert (code, name in told["error"], "is for archives" in told["error"]) == (2, True, True)
    for flag in (["--dry-run"], ["--submit", "http://127.0.0.1:1"]):
        assert restore(capsys, photos / "small.jpg", tmp_path / "a.png", *flag)[0] == 2
    assert not (tmp_path / "a.png").exists()


def test_positions_and_flags_in_any_order(
    photos: Path, small_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, out = photos / "small.jpg", tmp_path / "a.png"
    found = set()
    for order in itertools.permutations([[one], [out], ["--seed", 3], ["--model", small_model]]):
        arguments = [part for group in order for part in group]
        if arguments.index(one) < arguments.index(out):
            assert restore(capsys, *arguments, "--overwrite")[0] == 0
            found.add(out.read_bytes())
    assert len(found) == 1


@pytest.mark.parametrize("kind", SUFFIXES)
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_before_and_after_stand_side_by_side(
    small_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, mode: str, orientation: int
) -> None:
    source, target, both = (tmp_path / name for name in ("a.png", "b.png", f"both{SUFFIXES[kind]}"))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.open(io.BytesIO(made.jpeg(2, 48, 72))).convert(mode)
    image.save(source, exif=exif)
    code, _ = restore(capsys, source, target, "--compare", both, "--model", small_model, "--no-adaptive")
    assert code == 0
    shown = np.asarray(Image.open(both).convert("RGB")).astype(int)
    upright = ImageOps.exif_transpose(image.copy() if orientation == 1 else Image.open(source))
    before, after = (np.asarray(picture.convert("RGB")) for picture in (upright, Image.open(target)))
    height, width = before.shape[:2]
    assert shown.shape == (height, 2 * width + BETWEEN, 3)
    within = 60 if kind == "jpeg" else 0
    assert np.abs(shown[:, :width] - before).max() <= within
    assert np.abs(shown[:, -width:] - after).max() <= within
    assert (shown[:, width + 2 : width + BETWEEN - 2] > 255 - within - 1).all()
    assert not np.array_equal(before, after)


def test_a_comparison_is_of_one_file_and_takes_no_other_place(
    photos: Path, small_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other, out = photos / "small.jpg", photos / "odd.jpg", tmp_path / "out.png"
    (tmp_path / "there.png").write_bytes(b"mine")
    for message, arguments in {
        "of one picture": [one, other, tmp_path / "folder", "--compare", tmp_path / "c.png"],
        "is OUTPUT itself": [one, out, "--compare", out],
        "no image is written": [one, out, "--compare", tmp_path / "c.gif"],
        "exists; --overwrite replaces it": [one, out, "--compare", tmp_path / "there.png"],
        "is an INPUT itself": [one, out, "--compare", one],
        "compare is for a single file": [photos, tmp_path / "run", "--compare", tmp_path / "c.png"],
    }.items():
        code, told = restore(capsys, *arguments, "--model", small_model)
        assert (code, message in told["error"]) == (2, True), told["error"]
    assert not out.exists() and not (tmp_path / "run").exists()
    assert (tmp_path / "there.png").read_bytes() == b"mine"


def test_a_terminal_sees_how_far_a_large_picture_is(
    photos: Path, small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Shares that rise, and a line that vanishes; nothing where stderr is no terminal, nor of a picture of one tile."""
    flags = ["--model", str(small_model), "--tile", "128", "--steps", "1"]
    for terminal, name in itertools.product((False, True), SIZES):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
        assert main([str(photos / f"{name}.jpg"), str(tmp_path / f"{name}-{terminal}.png"), *flags]) == 0
        shown = capsys.readouterr().err.split("\r\x1b[K")
        shares = [int(part.removesuffix(" %")) for part in shown if part.endswith(" %")]
        assert shares == sorted(shares)
        assert bool(shares) == (terminal and name != "small")
        assert not shares or not shown[-1].endswith("%")
