"""Memory is bounded by settings: four times the images do not need more of it."""

import time
from pathlib import Path

import pytest

from tests import made
from tests.chaos.processes import descendants, end, start

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800)]


def memory_bytes(pid: int) -> int:
    """Proportional memory of a process and all below it: what they share, Ray's object store say, counts once."""
    total = 0
    for child in [pid, *(child for child, _ in descendants(pid))]:
        try:
            rollup = Path(f"/proc/{child}/smaps_rollup").read_text()
        except OSError:
            continue  # it has just ended
        total += next((int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:")), 0)
    return total


def peak_bytes(source: Path, output: Path) -> int:
    flags = ["--model", "identity", "--actors", "2", "--set", "report=false"]
    process, peak = start(source, output, *flags), 0
    while process.poll() is None:
        peak = max(peak, memory_bytes(process.pid))
        time.sleep(0.3)
    end(process)
    return peak


def test_memory_does_not_grow_with_the_archive(tmp_path: Path) -> None:
    few = made.folder(tmp_path / "few", 1000, 256, 256)
    many = made.folder(tmp_path / "many", 4000, 256, 256)
    one, four = peak_bytes(few, tmp_path / "out1"), peak_bytes(many, tmp_path / "out4")
    assert four < 1.15 * one, f"{one / 2**20:.0f} MiB at 1,000 images, {four / 2**20:.0f} MiB at 4,000"
