"""Kill anything at any moment, run the same command again: nothing lost, nothing twice, the undisturbed run's bytes."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest

from pipeline.runs.crashes import UNEXPLAINED
from tests import made
from tests.chaos.processes import (
    alive,
    descendants,
    end,
    images,
    kill_whole,
    parts,
    rows,
    start,
    times_of_committed,
    until,
    workers,
)

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800)]

IMAGES = 400


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 images, one of them broken."""
    folder = made.folder(tmp_path_factory.mktemp("kills") / "in", IMAGES - 1)
    (folder / "b/broken.jpg").write_bytes(made.jpeg(1)[:-200])
    return folder


@pytest.fixture(scope="module")
def flags(small_model: Path) -> list[str]:
    more = ["--set", "report=false", "--set", "shard_images=16", "--max-failed", "1"]
    return ["--model", str(small_model), "--actors", "2", *more]


@pytest.fixture(scope="module")
def undisturbed(source: Path, flags: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    result = end(start(source, output, *flags))
    assert result["status"] == {"ok": IMAGES - 1, "failed": 1, "skipped": 0}
    return output


def check_equal(output: Path, undisturbed: Path) -> None:
    """The promise: each key once, and everything as without the disturbance."""
    assert len({row["key"] for row in rows(output)}) == len(rows(output)) == IMAGES
    assert rows(output) == rows(undisturbed)
    assert images(output) == images(undisturbed)
    leftovers = [path for path in output.rglob(".*") if path.is_file()]
    assert leftovers == []


def test_driver_killed_at_five_random_moments(
    source: Path, flags: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    output, dice = tmp_path / "out", random.Random(5)
    total = len(parts(undisturbed))
    committed: dict[str, int] = {}
    for kill in range(5):
        process = start(source, output, *flags)
        # After a random number of further shards, and then within the next one; the fourth time while Ray starts.
        further = len(parts(output)) + dice.randint(1, max(1, (total - len(parts(output))) // (5 - kill) - 1))
        if kill == 3:
            time.sleep(dice.uniform(2, 6))
        else:
            until(lambda wanted=further: len(parts(output)) >= wanted, process)
            time.sleep(dice.uniform(0, 0.5))
        assert process.poll() is None, "the job ended before it could be killed"
        kill_whole(process.pid)
        now = times_of_committed(output)
        assert committed.items() <= now.items(), "a finished shard was computed again"
        committed = now
    result = end(start(source, output, *flags))
    assert committed.items() <= times_of_committed(output).items()
    assert result["shards"]["resumed"] == sum(path.endswith(".parquet") for path in committed) > 4
    assert result["images_this_attempt"] < IMAGES
    check_equal(output, undisturbed)


@pytest.mark.parametrize("actors", [True, False], ids=["actor", "task worker"])
def test_workers_killed_while_the_run_goes_on(
    source: Path, flags: list[str], undisturbed: Path, tmp_path: Path, actors: bool
) -> None:
    output, dice = tmp_path / "out", random.Random(7)
    process = start(source, output, *flags)
    killed = 0
    for shards in range(1, len(parts(undisturbed)) - 3, 5):
        until(lambda wanted=shards: len(parts(output)) >= wanted, process)
        time.sleep(dice.uniform(0, 0.3))
        if victims := until(lambda: workers(process.pid, actors), process):
            os.kill(dice.choice(victims), signal.SIGKILL)
            killed += 1
    result = end(process)
    assert killed >= 4
    assert result["shards"]["resumed"] == 0
    check_equal(output, undisturbed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(source: Path, flags: list[str], undisturbed: Path, tmp_path: Path, number: signal.Signals) -> None:
    output = tmp_path / "out"
    process = start(source, output, *flags)
    until(lambda: len(parts(output)) >= 3, process)
    process.send_signal(number)
    begun = time.monotonic()
    until((output / "_RESULT.json").exists, limit_s=30)
    assert time.monotonic() - begun < 3  # seconds that a stopped Ray job has
    result = end(process, code=130)
    assert result["interrupted"]
    assert json.loads((output / "_RESULT.json").read_text()) == result
    assert 3 <= len(parts(output)) < len(parts(undisturbed))
    assert end(start(source, output, *flags))["interrupted"] is False
    check_equal(output, undisturbed)


def test_two_runs_at_once(source: Path, flags: list[str], undisturbed: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    one, other = start(source, output, *flags), start(source, output, *flags)
    results = [end(one), end(other)]
    assert [result["status"]["ok"] for result in results] == [IMAGES - 1] * 2
    check_equal(output, undisturbed)


def test_a_shard_whose_worker_always_dies_ends_the_run(small_model: Path, tmp_path: Path) -> None:
    """Finite retries, whatever the killer hits: Ray's default is to try for ever."""
    source = tmp_path / "in"
    source.mkdir()
    images = {f"{number}.jpg": made.jpeg(number, 256, 256) for number in range(60)}
    (source / "t.tar").write_bytes(made.tar(images))
    process = start(source, tmp_path / "out", "--model", small_model, "--actors", "1")

    def busy() -> list[int]:
        return [child for child, title in descendants(process.pid) if "MapWorker" in title and "submit" in title]

    killed = 0
    while victims := until(busy, process):
        os.kill(victims[0], signal.SIGKILL)
        killed += 1
        until(lambda pid=victims[0]: not alive(pid), limit_s=30)
    result = end(process, code=1)
    assert killed >= UNEXPLAINED
    assert "times on the same shard, and not of one image" in result["error"]
    assert parts(tmp_path / "out") == set()
