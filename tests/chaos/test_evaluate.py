"""Evaluations under kills, and at scale: the report is that of an undisturbed run, and memory does not grow with it."""

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests import made
from tests.chaos.processes import descendants, end, kill_whole, parts, start, until
from tests.chaos.test_memory import memory_bytes
from tests.pipeline.evaluations import clean

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(3600)]

IMAGES = 96


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """96 clean images, one of them broken."""
    folder = clean(tmp_path_factory.mktemp("evaluate") / "in", IMAGES - 1, 72, 88)
    (folder / "b/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder


@pytest.fixture(scope="module")
def flags(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    tool = tmp_path_factory.mktemp("tool")
    for slug in ("q10-420", "q30-q10-shift4-420"):
        clean(tool / slug, IMAGES // 2, 72, 88)  # every other image has no partner
    common = ["--quality", "10,30/10", "--model", f"mean={small_model}?fidelity=1", "--model", f"sample={small_model}"]
    return [*common, "--candidate", f"tool={tool}", "--max-failed", "100%", "--actors", "2", "--set", "shard_images=4"]


def rows(output: Path) -> list[dict[str, Any]]:
    """report.parquet, sorted."""
    found = pq.read_table(output / "report.parquet").to_pylist()
    return sorted(found, key=lambda row: (row["key"], row["condition"], row["candidate"]))


@pytest.fixture(scope="module")
def undisturbed(source: Path, flags: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    assert end(start(source, output, *flags, job="evaluate"))["images"] == IMAGES
    return output


def check_equal(output: Path, undisturbed: Path) -> None:
    """Byte-equal values, every row once, and no leftovers."""
    assert repr(rows(output)) == repr(rows(undisturbed))  # as text: equal to the last bit, nan and -0.0 included
    assert len(rows(output)) == IMAGES * 2 * 4
    assert {path.name for path in parts(output)} == {path.name for path in parts(undisturbed)}
    assert [path for path in output.rglob(".*") if path.is_file()] == []


def test_driver_killed_at_five_random_moments(
    source: Path, flags: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    output, dice = tmp_path / "out", random.Random(11)
    total = len(parts(undisturbed))
    committed: dict[Path, int] = {}
    for kill in range(5):
        process = start(source, output, *flags, job="evaluate")
        if kill == 4:  # while the last shard is worked on, or the reports are written
            until(lambda: len(parts(output)) >= total - 1, process)
        else:
            further = len(parts(output)) + dice.randint(1, max(1, (total - len(parts(output))) // (5 - kill) - 1))
            until(lambda wanted=further: len(parts(output)) >= wanted, process)
        time.sleep(dice.uniform(0, 0.5))
        assert process.poll() is None, "the job ended before it could be killed"
        kill_whole(process.pid)
        now = {path: path.stat().st_mtime_ns for path in parts(output)}
        assert committed.items() <= now.items(), "a finished shard was computed again"
        committed = now
    result = end(start(source, output, *flags, job="evaluate"))
    assert result["shards"]["resumed"] == len(committed) > 4
    assert committed.items() <= {path: path.stat().st_mtime_ns for path in parts(output)}.items()
    check_equal(output, undisturbed)


@pytest.mark.parametrize("title", ["RestoringActor", "MapWorker"])
def test_workers_killed_while_the_run_goes_on(
    source: Path, flags: list[str], undisturbed: Path, tmp_path: Path, title: str
) -> None:
    output, dice = tmp_path / "out", random.Random(13)
    process = start(source, output, *flags, job="evaluate")
    killed = 0
    for wanted in range(1, len(parts(undisturbed)) - 3, 6):
        until(lambda wanted=wanted: len(parts(output)) >= wanted, process)
        if victims := until(lambda: [pid for pid, name in descendants(process.pid) if title in name], process):
            os.kill(dice.choice(victims), signal.SIGKILL)
            killed += 1
    result = end(process)
    assert killed >= 3
    assert result["shards"]["resumed"] == 0
    check_equal(output, undisturbed)


def test_interrupted(source: Path, flags: list[str], undisturbed: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    process = start(source, output, *flags, job="evaluate")
    until(lambda: len(parts(output)) >= 3, process)
    process.send_signal(signal.SIGTERM)
    assert end(process, code=130)["interrupted"]
    assert end(start(source, output, *flags, job="evaluate"))["interrupted"] is False
    check_equal(output, undisturbed)


def peak(source: Path, output: Path, images: int) -> tuple[int, float]:
    """(peak memory in bytes, seconds an image from the first finished shard to the last) of cheap metrics."""
    flags = ["--quality", "10,30", "--limit", str(images), "--actors", "2", "--set", "report=true"]
    process, most = start(source, output, *flags, job="evaluate"), 0
    while process.poll() is None:
        most = max(most, memory_bytes(process.pid))
        time.sleep(0.5)
    result = end(process)
    assert result["images"] == images
    assert pq.read_metadata(output / "report.parquet").num_rows == 2 * images
    finished = sorted(path.stat().st_mtime_ns for path in parts(output))
    return most, (finished[-1] - finished[0]) / 1e9 / images


@pytest.mark.slow
def test_memory_and_speed_do_not_depend_on_the_number_of_images(tmp_path: Path) -> None:
    source = made.folder(tmp_path / "in", 20_000, 64, 96)
    few, many = peak(source, tmp_path / "few", 2000), peak(source, tmp_path / "many", 20_000)
    told = f"2,000: {few[0] / 2**20:.0f} MiB, {few[1]:.4f} s; 20,000: {many[0] / 2**20:.0f} MiB, {many[1]:.4f} s"
    assert many[0] < 1.15 * few[0], told
    assert many[1] < 1.15 * few[1], told
