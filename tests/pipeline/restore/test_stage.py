"""The restore stage without Ray: one shard in, files and one part out; bad images are rows, bad runs are exceptions."""

import hashlib
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from driftrec.diffusion.baselines import I2SB
from driftrec.diffusion.denoiser import Denoiser
from driftrec.errors import InvalidInput, StorageFull
from driftrec.image import decode
from driftrec.jpeg.constraint import constraint, project
from driftrec.models.checkpoint import save
from driftrec.networks.config import NetworkConfig
from driftrec.restoration.restorer import Restored, Restorer
from pipeline.cluster.datasource import ShardSource
from pipeline.inputs.blocks import images_of
from pipeline.inputs.listing import list_shards
from pipeline.inputs.shards import read_shard
from pipeline.model_source import find
from pipeline.restore.settings import RestoreSettings
from pipeline.restore.stage import RestoreShard, resolve
from pipeline.runs.ledger import SCHEMA, Ledger
from pipeline.storage.local import LocalStore
from tests import made


def make(output: Path, **changes: Any) -> RestoreShard:
    settings = RestoreSettings(input="in", output=str(output), **({"model": "identity"} | changes))
    return RestoreShard(settings, find(settings.model), LocalStore(str(output)))


def run(stage: RestoreShard, source: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Restore all of `source` as one shard. Gives the part's rows and the summary."""
    shards = list_shards(str(source))
    summary = stage(pa.concat_tables([read_shard(shard) for shard in shards])).to_pylist()[0]
    return stage.ledger.read_part(shards[0].id).to_pylist(), summary


def restore(source: Path, output: Path, **changes: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    return run(make(output, **changes), source)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_shard_becomes_files_and_rows(tmp_path: Path) -> None:
    source = made.folder(tmp_path / "in", 7)
    rows, summary = restore(source, tmp_path / "out")
    assert (summary["ok"], summary["failed"], summary["computed"]) == (7, 0, True)
    assert [row["key"] for row in rows] == sorted(row["key"] for row in rows)
    for row in rows:
        data, output = (source / row["key"]).read_bytes(), (tmp_path / "out" / row["output"]).read_bytes()
        assert row["output"] == f"images/{row['key'][:-4]}.png"
        assert row["input_sha256"] == hashlib.sha256(data).hexdigest()
        assert row["output_sha256"] == hashlib.sha256(output).hexdigest()
        assert np.array_equal(decode(output).rgb, decode(data).rgb)
        picture = Image.open(io.BytesIO(data))
        assert (row["width"], row["height"], row["mode"], row["depth"]) == (*picture.size, "RGB", 8)
        assert (row["quality"], row["nfe"]) == (20, 0)
        assert row["bef_before"] == row["bef_after"] > 0
        assert (row["status"], row["reason"], row["detail"], row["stage"]) == ("ok", None, None, None)
        assert 0 < row["seconds"] < 60
    assert summary["pixels"] == sum(row["width"] * row["height"] for row in rows)


def test_bad_images_are_rows_and_their_neighbours_are_unchanged(tmp_path: Path) -> None:
    source = made.folder(tmp_path / "in", 6)
    clean, _ = restore(source, tmp_path / "clean")
    bad = {
        "a/empty.jpg": (b"", "empty"),
        "a/page.jpg": (b"<html><body>404</body></html>", "not_an_image"),
        "b/cut.jpg": (made.jpeg(1, 200, 200)[:-900], "truncated"),
        "c/z.png": (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "corrupt"),
    }
    for name, (data, _) in bad.items():
        (source / name).write_bytes(data)
    (source / "c/huge.jpg").write_bytes(made.jpeg(2, 300, 300))
    rows, summary = restore(source, tmp_path / "out", max_pixels=89_999)
    assert (summary["ok"], summary["failed"]) == (6, 5)
    failed = {row["key"]: row for row in rows if row["status"] == "failed"}
    assert {key: row["reason"] for key, row in failed.items()} == {
        **{name: reason for name, (_, reason) in bad.items()},
        "c/huge.jpg": "too_large",
    }
    for row in failed.values():
        assert row["detail"]
        assert row["stage"] == "decode"
        assert row["input_sha256"]
        assert row["output"] is row["output_sha256"] is None
    for one in clean:
        other = next(row for row in rows if row["key"] == one["key"])
        assert {**one, "seconds": 0, "done": 0} == {**other, "seconds": 0, "done": 0}
    assert len(files(tmp_path / "out/images")) == 6


def test_a_lying_suffix_is_decoded_by_content_and_noted(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/x.png").write_bytes(made.jpeg(0))
    rows, _ = restore(tmp_path / "in", tmp_path / "out")
    assert (rows[0]["status"], rows[0]["quality"]) == ("ok", 20)
    assert "JPEG" in rows[0]["detail"]


def test_formats(tmp_path: Path) -> None:
    source = made.folder(tmp_path / "in", 3)
    for wanted, kind in {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP", "tiff": "TIFF", "same": "JPEG"}.items():
        rows, _ = restore(source, tmp_path / wanted, format=wanted)
        for row in rows:
            assert Image.open(tmp_path / wanted / row["output"]).format == kind


def test_a_shard_with_a_part_is_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = made.folder(tmp_path / "in", 4)
    stage = make(tmp_path / "out")
    rows, _ = run(stage, source)
    before = files(tmp_path / "out")
    monkeypatch.setattr(stage.restorer, "begin", lambda *_: pytest.fail("computed again"))
    again, summary = run(stage, source)
    assert again == rows
    assert (summary["computed"], summary["ok"]) == (False, 0)
    assert files(tmp_path / "out") == before


def test_an_attempt_that_was_cut_before_its_part_is_repeated_to_the_same_bytes(tmp_path: Path) -> None:
    source = made.folder(tmp_path / "in", 4)
    stage = make(tmp_path / "out")
    run(stage, source)
    images = files(tmp_path / "out/images")
    for part in (tmp_path / "out/ledger").iterdir():
        part.unlink()
    (tmp_path / "out/images/a/0000.png").write_bytes(b"half")
    run(stage, source)
    assert files(tmp_path / "out/images") == images


class Picky(Restorer):
    """Fails on batches that hold certain pictures, or later, when those are finished."""

    def __init__(self, height: int, error: Exception, late: bool) -> None:
        super().__init__(None, "cpu")
        self.height, self.error, self.late = height, error, late

    def begin(self, pictures: Any, *rest: Any) -> list[Callable[[], Restored]]:
        bad = [picture.height == self.height for picture in pictures]
        if any(bad) and not self.late:
            raise self.error
        begun = super().begin(pictures, *rest)
        return [self.fail if no else one for no, one in zip(bad, begun, strict=True)]

    def fail(self) -> Restored:
        raise self.error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("odd\nshape"), "internal"),
        (MemoryError(), "out_of_memory"),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"), "out_of_memory"),
    ],
)
@pytest.mark.parametrize("late", [False, True])
def test_an_image_that_the_network_cannot_take_does_not_take_others_along(
    tmp_path: Path, error: Exception, reason: str, late: bool
) -> None:
    source = made.folder(tmp_path / "in", 10)  # heights 48 to 80 by 8: two are 64
    stage = make(tmp_path / "out", batch_size=4)
    stage.restorer = Picky(64, error, late)
    rows, summary = run(stage, source)
    assert (summary["ok"], summary["failed"]) == (8, 2)
    failed = [row for row in rows if row["status"] == "failed"]
    assert {(row["height"], row["stage"], row["reason"]) for row in failed} == {(64, "restore", reason)}
    assert all("\n" not in row["detail"] for row in failed)


class Watched(Restorer):
    """Knows the heights of what it was given together."""

    def __init__(self) -> None:
        super().__init__(None, "cpu")
        self.batches: list[list[int]] = []

    def begin(self, pictures: Any, *rest: Any) -> list[Callable[[], Restored]]:
        self.batches.append([picture.height for picture in pictures])
        return super().begin(pictures, *rest)


@pytest.mark.parametrize("batch_size", [2, 4])
def test_images_of_one_size_share_batches_and_rows_keep_their_order(tmp_path: Path, batch_size: int) -> None:
    source = made.folder(tmp_path / "in", 20)  # heights 48 to 80 by 8, one after the other
    stage = make(tmp_path / "out", batch_size=batch_size)
    stage.restorer = watched = Watched()
    rows, _ = run(stage, source)
    batches = [(height,) * batch_size for height in range(48, 81, 8) for _ in range(4 // batch_size)]
    assert [tuple(batch) for batch in watched.batches] == batches
    assert [row["key"] for row in rows] == sorted(row["key"] for row in rows)


def test_a_full_disk_ends_the_run_and_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = made.folder(tmp_path / "in", 6)
    put = LocalStore.put

    def full(self: LocalStore, name: str, data: bytes) -> None:
        if name.endswith("0003.png"):
            raise StorageFull("no room")
        put(self, name, data)

    monkeypatch.setattr(LocalStore, "put", full)
    table = pa.concat_tables([read_shard(shard) for shard in list_shards(str(source))])
    summary = make(tmp_path / "out")(table).to_pylist()[0]
    assert (summary["error"], summary["full"], summary["computed"]) == ("no room", True, False)
    assert Ledger(LocalStore(str(tmp_path / "out"))).committed() == set()


def test_few_pictures_are_in_flight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoded pixels wait in bounded number, however many images a shard has."""
    source = made.folder(tmp_path / "in", 64)
    monkeypatch.setattr("pipeline.restore.stage.PIXELS_AHEAD", 4 * 64 * 64)
    alive = worst = 0
    stage = make(tmp_path / "out", batch_size=2)
    load, finish = stage._load, stage._finish

    def count_load(*arguments: Any) -> Any:
        nonlocal alive, worst
        alive += 1
        worst = max(worst, alive)
        return load(*arguments)

    def count_finish(*arguments: Any) -> Any:
        nonlocal alive
        alive -= 1
        return finish(*arguments)

    stage._load, stage._finish = count_load, count_finish  # type: ignore[method-assign]
    run(stage, source)
    assert worst <= 2 * 4 + 2 * 2 + 2 + 2  # both waiting rooms, both pools, a batch, and the races between


def test_large_pictures_are_decoded_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Headers tell how large they are before they are decoded: a decoder waits until those before are restored."""
    source = made.folder(tmp_path / "in", 8)
    monkeypatch.setattr("pipeline.restore.stage.PIXELS_AHEAD", 1)
    begun: list[str] = []
    decoded: list[int] = []
    stage = make(tmp_path / "out", codec_threads=2)
    load, restore_all = stage._load, stage._restore_all

    def note_load(table: pa.Table, row: int, pixels: int) -> Any:
        begun.append("decode")
        decoded.append(row)
        return load(table, row, pixels)

    def note_restore(items: Any) -> Any:
        begun.append("restore")
        return restore_all(items)

    stage._load, stage._restore_all = note_load, note_restore  # type: ignore[method-assign]
    run(stage, source)
    assert begun == ["decode", "restore"] * 8
    assert sorted(decoded) == list(range(8))


def test_an_empty_shard_gets_an_empty_part(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/t.tar").write_bytes(made.tar({"readme.txt": b"nothing to see"}))
    shard = list_shards(str(tmp_path / "in"))[0]
    stage = make(tmp_path / "out")
    (row,) = ShardSource([shard], stage.store).get_read_tasks(1)[0]()
    assert stage(images_of(row)).to_pylist()[0]["ok"] == 0
    assert stage.ledger.committed() == {shard.id}
    assert stage.ledger.read_part(shard.id).schema.equals(SCHEMA)


def test_bytes_do_not_depend_on_batches_threads_or_company(tmp_path: Path, small_model: Path) -> None:
    source = made.folder(tmp_path / "in", 9)
    outputs = []
    for number, (batch, threads) in enumerate([(1, 1), (8, 2), (3, 4)]):
        restore(source, tmp_path / f"{number}", model=str(small_model), batch_size=batch, codec_threads=threads)
        outputs.append(files(tmp_path / f"{number}/images"))
    assert outputs[0] == outputs[1] == outputs[2]
    assert len(outputs[0]) == 9
    for path in list(source.rglob("*.jpg"))[::2]:
        path.unlink()
    restore(source, tmp_path / "fewer", model=str(small_model), batch_size=8)
    assert files(tmp_path / "fewer/images").items() < outputs[0].items()
    restore(source, tmp_path / "seed", model=str(small_model), seed=1)
    assert not files(tmp_path / "seed/images").items() & outputs[0].items()


def test_a_model_is_told_what_it_cannot_be_sampled_by(tmp_path: Path) -> None:
    path = tmp_path / "bridge.safetensors"
    save(path, Denoiser.create(replace(NetworkConfig.tiny(), width=8), I2SB()))
    weights, settings = find(str(path)), RestoreSettings(input="in", output="out", sampler="ode")
    with pytest.raises(InvalidInput, match=r"bridge\.safetensors: i2sb has no reverse SDE .* multistep"):
        resolve(settings, weights)
    assert resolve(settings.model_copy(update={"sampler": "multistep"}), weights).steps == 8


def test_outputs_keep_to_what_their_files_say(tmp_path: Path, small_model: Path) -> None:
    source = made.folder(tmp_path / "in", 1)
    (source / "a/0001.jpg").write_bytes(made.jpeg(1, quality=80))
    for projection, agrees in [(True, True), (False, False)]:
        output = tmp_path / f"out-{projection}"
        restore(source, output, model=str(small_model), projection=projection)
        known = constraint((source / "a/0001.jpg").read_bytes())
        restored = decode((output / "images/a/0001.png").read_bytes()).rgb
        assert known is not None
        assert (np.abs(project(restored, known).astype(int) - restored).max() <= 1) == agrees
