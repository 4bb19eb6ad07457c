"""Ray's own processes killed under a run, its temporary folder full, a signal to the run's whole group: it ends with a
message, a result and an exit code, and the next attempt goes on."""

import json
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.cluster import watch
from tests import made
from tests.chaos.processes import descendants, end, images, parts, start, until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]

IMAGES = 100
WORKS = re.compile(r"ray::(?!IDLE|DashboardAgent|RuntimeEnvAgent)")  # a process title, once the driver is connected
ENDED_S = 60.0  # within so long, on a slow machine too


def first_word(title: str) -> str:
    return title.split(" ")[0].rpartition("/")[2]


@pytest.mark.parametrize("victims", [["gcs_server"], ["raylet"], ["gcs_server", "raylet"]], ids="+".join)
def test_a_run_whose_ray_is_killed_ends_with_a_word(small_model: Path, tmp_path: Path, victims: list[str]) -> None:
    source, output = made.folder(tmp_path / "in", IMAGES), tmp_path / "out"
    flags = ["--model", small_model, "--actors", "1", "--set", "report=false", "--set", "shard_images=2"]
    process = start(source, output, *flags)
    until(lambda: parts(output), process)
    below = list(descendants(process.pid))
    found = [child for child, title in below if first_word(title) in victims]
    assert len(found) == len(victims)
    for child in found:
        os.kill(child, signal.SIGKILL)
    until(lambda: False, process, limit_s=watch.PATIENCE_S + ENDED_S)
    assert process.poll() is not None, "it hangs"
    result = end(process, code=1)
    assert result["state"] == "failed"
    assert "the same command goes on" in result["error"]
    assert json.loads((output / "_RESULT.json").read_text()) == result
    assert 0 < len(parts(output)) < IMAGES / 2
    assert end(start(source, output, *flags))["status"]["ok"] == IMAGES == len(images(output))


@pytest.fixture
def small_folder() -> Iterator[Path]:
    """48 MiB for Ray's temporary folder, of a short path."""
    place = Path(tempfile.mkdtemp(prefix="dr-"))
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", place], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)
    place.rmdir()


@pytest.mark.parametrize("later", [False, True], ids=["before the start", "in the middle"])
def test_a_full_temporary_folder_ends_the_run_or_does_not_matter(
    small_model: Path, tmp_path: Path, small_folder: Path, monkeypatch: pytest.MonkeyPatch, later: bool
) -> None:
    """Ray cannot start in it; under way it may do without, unless it wants to spill."""
    source, output = made.folder(tmp_path / "in", IMAGES), tmp_path / "out"
    flags = ["--model", small_model, "--actors", "1", "--set", "report=false", "--set", "shard_images=2"]
    monkeypatch.setenv("RAY_TMPDIR", str(small_folder))
    if not later:
        fill(small_folder)
    process = start(source, output, *flags)
    if later:
        until(lambda: parts(output), process)
        fill(small_folder)
    until(lambda: False, process, limit_s=240)
    assert process.poll() is not None, "it hangs"
    out, err = process.communicate()
    result = json.loads(out)
    assert result.items() <= json.loads((output / "_RESULT.json").read_text()).items()
    if process.returncode == 0:
        assert result["status"]["ok"] == IMAGES == len(images(output))
    else:
        assert (process.returncode, result["state"]) == (1, "failed"), err
        assert result["error"] in err
        (small_folder / "full").unlink()
        assert end(start(source, output, *flags))["status"]["ok"] == IMAGES == len(images(output))


def fill(folder: Path) -> None:
    with (folder / "full").open("wb") as file:
        try:
            while True:
                file.write(bytes(2**16))
                file.flush()
        except OSError:
            return


@pytest.mark.parametrize("job", ["survey", "degrade", "evaluate", "train"])
def test_whatever_the_job(small_model: Path, tmp_path: Path, job: str) -> None:
    source, output = made.folder(tmp_path / "in", 60), tmp_path / "out"
    flags = {
        "survey": ["--calibration", "300", "--model", small_model],
        "degrade": ["--set", "shard_images=1", "--quality", "10,20,30"],
        "evaluate": ["--model", small_model, "--set", "shard_images=1", "--quality", "10"],
        "train": ["--set", "network.width=8", "--set", "optimizer.steps=100000"],
    }[job]
    process = start(source, output, *flags, job=job)
    assert until(lambda: [title for _, title in descendants(process.pid) if WORKS.match(title)], process)
    os.kill(next(pid for pid, title in descendants(process.pid) if first_word(title) == "gcs_server"), signal.SIGKILL)
    until(lambda: False, process, limit_s=watch.PATIENCE_S + ENDED_S)
    assert process.poll() is not None, "it hangs"
    assert "the same command goes on" in end(process, code=1)["error"]
    assert json.loads((output / "_RESULT.json").read_text())["state"] == "failed"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("moment", ["while Ray starts", "in the middle"])
def test_a_signal_to_the_whole_group_is_an_interruption(
    small_model: Path, tmp_path: Path, number: signal.Signals, moment: str
) -> None:
    """As `timeout`, and Ctrl-C in a terminal, send it."""
    source, output = made.folder(tmp_path / "in", IMAGES), tmp_path / "out"
    flags = ["--model", small_model, "--actors", "1", "--set", "report=false", "--set", "shard_images=2"]
    process = start(source, output, *flags, group=True)
    if moment == "in the middle":
        until(lambda: parts(output), process)
    else:
        until(lambda: [title for _, title in descendants(process.pid) if first_word(title) == "gcs_server"], process)
    os.killpg(process.pid, number)
    result = end(process, code=130)
    assert result["state"] == "interrupted"
    assert json.loads((output / "_RESULT.json").read_text()) == result
    assert end(start(source, output, *flags))["status"]["ok"] == IMAGES == len(images(output))
