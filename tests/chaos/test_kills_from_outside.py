"""Ten SIGKILLs of busy workers in each run: no verdict on any image, and no image lost, whatever they hit.

A few runs by default; DRIFTREC_KILL_RUNS=20 for the count that is promised.
"""

import os
import random
import signal
from pathlib import Path

import pytest

from tests import made
from tests.chaos.processes import descendants, end, images, parts, rows, start, until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]

IMAGES, SHARD, KILLS = 120, 6, 10
RUNS = int(os.environ.get("DRIFTREC_KILL_RUNS", "3"))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.folder(tmp_path_factory.mktemp("kills") / "in", IMAGES)


def busy(pid: int) -> list[int]:
    """Workers that have a shard in work, or read one."""
    titles = ("MapWorker", "ReadShardSource")
    return [child for child, title in descendants(pid) if title.startswith("ray::") and _works(title, titles)]


def _works(title: str, titles: tuple[str, ...]) -> bool:
    return any(name in title for name in titles) and "__init__" not in title


@pytest.mark.parametrize("seed", range(RUNS))
def test_ten_kills_of_busy_workers_lose_nothing(source: Path, small_model: Path, tmp_path: Path, seed: int) -> None:
    output, dice = tmp_path / "out", random.Random(seed)
    flags = ["--model", small_model, "--actors", "2", "--set", "report=false", "--set", f"shard_images={SHARD}"]
    process = start(source, output, *flags)
    killed: set[int] = set()
    for kill in range(KILLS):
        until(lambda kill=kill: len(parts(output)) >= kill, process)
        until(lambda: False, process, limit_s=dice.uniform(0, 0.5))
        victims = until(lambda: set(busy(process.pid)) - killed, process)
        assert victims, f"the run ended after {kill} kills"
        victim = dice.choice(sorted(victims))
        os.kill(victim, signal.SIGKILL)
        killed.add(victim)
    result = end(process)
    assert result["status"] == {"ok": IMAGES, "failed": 0, "skipped": 0}
    assert len({row["key"] for row in rows(output)}) == len(rows(output)) == IMAGES == len(images(output))
