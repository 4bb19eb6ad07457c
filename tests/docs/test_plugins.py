"""The page "Add your own": its module, word for word, as a file and as a package, with the command line and the
library.
"""

import json
import os
import re
import subprocess
import sys
import textwrap
import time
import zipfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests import made

PAGE = Path("docs/guides/plugins.md")
ROOT = Path.cwd()


def code() -> str:
    """The module that the page writes."""
    blocks = re.findall(r"(?:^(?:    .*)?\n)+", PAGE.read_text().partition("are one module")[2], re.MULTILINE)
    shown = [textwrap.dedent(block) for block in blocks if block.strip()]
    return "\n".join(block for block in shown if not block.strip().startswith("driftrec "))


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """The module as a file."""
    path = tmp_path / "own" / "mine.py"
    path.parent.mkdir()
    path.write_text(code())
    return path


def driftrec(*arguments: object, **environment: str) -> tuple[int, dict, str]:
    """Exit code, result and talk of a command."""
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=250,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 1, done.stderr
    return done.returncode, json.loads(lines[0]), done.stderr


def python(words: str, **environment: str) -> str:
    """What a program prints that knows the packages of this checkout."""
    done = subprocess.run(
        [sys.executable, "-c", words], capture_output=True, text=True, timeout=100, env=os.environ | environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.timeout(600)
def test_all_six_serve_every_job(plugin: Path, tmp_path: Path) -> None:
    clean, archive = tmp_path / "clean", tmp_path / "archive.zip"
    (clean / "archive").mkdir(parents=True)
    with zipfile.ZipFile(archive, "w") as packed:
        for name in ("a", "b", "c"):
            Image.fromarray(made.pixels(ord(name), 96, 80)).save(clean / "archive" / f"{name}.png")
            packed.writestr(f"{name}.jpg", made.jpeg(ord(name), 96, 80))
        packed.writestr("left-out.jpg", made.jpeg(1))
        packed.writestr("readme.txt", "no image")
    own = ("--plugin", plugin)
    code_, result, talk = driftrec(
        *("train", clean, tmp_path / "trained", *own, "--steps", 2, "--batch-size", 2, "--set", "patches.size=64"),
        *("--set", "architecture.name=plain", "--set", "architecture.width=8", "--set", "process.name=line"),
    )
    assert (code_, result["state"]) == (0, "done"), talk
    model = Path(result["model"])
    code_, result, _ = driftrec("models", "show", model, DRIFTREC_PLUGINS=str(plugin))
    assert (code_, result["network"]) == (0, {"name": "plain", "width": 8, "depth": 2})
    assert result["process"] == {"name": "line", "sigma": 0.1}
    code_, result, _ = driftrec("models", "show", model)
    assert code_ == 2
    assert "unknown network 'plain'; known: ncsnpp" in result["error"]

    out = tmp_path / "out"
    own += ("--exclude", "left-*")
    restore = ("restore", archive, out, *own, "--sampler", "restart", "--steps", 3, "--no-adaptive", "--model", model)
    restore += ("--format", "avif")
    code_, result, talk = driftrec(*restore)
    assert (code_, result["status"]["ok"], result["evaluations_per_image"]) == (0, 3, 3.0), talk
    run = json.loads((out / "run.json").read_text())
    assert run["identity"]["plugins"]["mine"].startswith("sha256 ")

    own, report = own[:2], tmp_path / "report"
    code_, result, talk = driftrec(
        *("evaluate", clean, report, *own, "--quality", 20, "--metrics", "mae,psnr"),
        *("--candidate", f"mine={out / 'images'}"),
    )
    assert (code_, result["status"]["ok"]) == (0, 3), talk
    rows = pq.read_table(report / "report.parquet").to_pylist()
    scores = {row["key"]: row["mae"] for row in rows if row["candidate"] == "mine"}
    png = tmp_path / "png"
    (png / "archive").mkdir(parents=True)
    for name in ("a", "b", "c"):
        with Image.open(out / "images" / "archive" / f"{name}.avif") as found:
            assert (found.format, found.size) == ("AVIF", (80, 96))
            assert b"driftrec" in found.info["xmp"]
            found.convert("RGB").save(png / "archive" / f"{name}.png")
        x, y = (
            np.asarray(Image.open(folder / "archive" / f"{name}.png").convert("RGB"), np.float64) / 255
            for folder in (clean, png)
        )
        assert scores[f"archive/{name}.png"] == pytest.approx(np.abs(x - y).mean(), rel=1e-5)
    assert "Mean absolute error" in (report / "report.html").read_text()

    plugin.write_text(code() + "\n# changed\n")
    code_, result, _ = driftrec(*restore)
    assert code_ == 2
    assert "plugins" in result["error"]


def test_a_package_is_found_by_its_entry_point(plugin: Path) -> None:
    site = plugin.parent
    told = site / "mine-1.2.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.2\n")
    (told / "entry_points.txt").write_text("[driftrec.plugins]\nmine = mine\n")
    words = (
        "import sys; from driftrec import METRICS, PROCESSES, SAMPLERS, plugins; before = 'mine' in sys.modules;"
        "from driftrec.networks import NETWORKS; from pipeline.inputs.containers import CONTAINERS;"
        "from driftrec.image import ENCODERS;"
        "print(before, 'line' in PROCESSES, 'restart' in SAMPLERS, 'mae' in METRICS, 'plain' in NETWORKS,"
        "      '.zip' in CONTAINERS, 'avif' in ENCODERS, plugins.versions())"
    )
    path = os.pathsep.join([str(site), str(ROOT)])
    assert python(words, PYTHONPATH=path) == "False True True True True True True {'mine': 'mine 1.2'}"
    assert python(words, PYTHONPATH=str(ROOT)) == "False False False False False False False {}"


def test_a_sampler_of_a_plugin_is_named_in_a_refusal(plugin: Path) -> None:
    code_, result, _ = driftrec("restore", "a", "b", "--plugin", plugin, "--sampler", "restrat")
    assert code_ == 2
    assert "ode, restart" in result["error"]
    code_, result, _ = driftrec("restore", "a", "b", "--plugin", plugin, "--format", "avi")
    assert code_ == 2
    assert "known: png, jpeg, webp, tiff, avif, same" in result["error"]


def test_a_format_serves_single_files_and_the_library(plugin: Path, tmp_path: Path) -> None:
    given = tmp_path / "a.avif"
    Image.fromarray(made.pixels(1, 40, 64)).save(given, quality=30)
    own = ("--plugin", plugin, "--model", "identity", "--overwrite")
    for name, more in (("b.avif", ()), ("out/", ("--format", "same"))):
        code_, result, talk = driftrec("restore", given, f"{tmp_path}/{name}", *own, *more)
        assert code_ == 0, talk
        with Image.open(result["images"][0]["output"]) as found:
            assert (found.format, found.size) == ("AVIF", (64, 40))
    words = f"""
from pathlib import Path
from driftrec.image import decode, encode
print(encode(decode(Path({str(given)!r}).read_bytes()), "avif"))
"""
    twice = [python(words, DRIFTREC_PLUGINS=str(plugin), PYTHONPATH=str(ROOT)) for _ in range(2)]
    assert twice[0] == twice[1]
    code_, result, _ = driftrec("restore", given, tmp_path / "c.avif", "--model", "identity")
    assert code_ == 2
    assert "end it in .png, .jpg, .webp or .tif" in result["error"]


WRONG = {
    "that is not there": (None, "ModuleNotFoundError: No module named 'mine'"),
    "that is no Python": ("def", "SyntaxError"),
    "that raises": ("raise RuntimeError('no GPU')", "RuntimeError: no GPU"),
    "that wants our name": (
        "from driftrec.diffusion import SAMPLERS\nSAMPLERS['ode'] = 1",
        "there is a sampler 'ode' already",
    ),
    "that writes what is written": (
        "from driftrec.image import ENCODERS, Encoder\nENCODERS['mine'] = Encoder('.jpeg', bytes)",
        "there is jpeg already",
    ),
    "that writes what is not read": (
        "from driftrec.image import ENCODERS, Encoder\nENCODERS['mine'] = Encoder('.qoi', bytes)",
        ".qoi is not read",
    ),
    "that wants a setting's name": (
        "from driftrec.image import ENCODERS, Encoder\nENCODERS['same'] = Encoder('.avif', bytes)",
        "there is same already",
    ),
    "that wants a metric's name": (
        "from driftrec.metrics import add_metric\nadd_metric('lpips', abs, 'x', higher_is_better=True)",
        "there is a metric 'lpips' already",
    ),
    "that wants a loaded module's name": ("", "there is a module json already"),
}


@pytest.mark.parametrize("words", WRONG)
@pytest.mark.parametrize("job", ["restore", "survey"])
def test_a_plugin_is_refused(job: str, words: str, tmp_path: Path) -> None:
    text, told = WRONG[words]
    path = tmp_path / ("json.py" if "json" in told else "mine.py")
    if text is not None:
        path.write_text(text)
    begun = time.perf_counter()
    code_, result, talk = driftrec(job, tmp_path, tmp_path / "out", "--plugin", path)
    assert code_ == 2
    assert told in result["error"]
    assert str(path) in result["error"]
    assert talk.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert time.perf_counter() - begun < 20  # without Ray


def test_what_did_not_import_is_told_again(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("from driftrec.diffusion import SAMPLERS\nSAMPLERS['once'] = 1\nraise OSError('why')")
    words = """
from driftrec import SAMPLERS
from driftrec.errors import InvalidInput
for _ in range(2):
    try:
        "ode" in SAMPLERS
    except InvalidInput as error:
        print(error)
"""
    first, second = python(words, DRIFTREC_PLUGINS=str(broken), PYTHONPATH=str(ROOT)).splitlines()
    assert first == second
    assert "OSError: why" in first
