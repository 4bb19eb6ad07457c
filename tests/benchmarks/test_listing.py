"""What an archive of a million loose files costs the driver, held to twice what was measured."""

import json
import subprocess
import sys
from typing import Any

import pytest

from benchmarks.listing import count_requests

KEYS = 1_000_000
MIB = {"listing and shards": 30, "resume check": 19, "final pass and sweep": 80}  # measured: growth of the driver
CPU_US = {"listing and shards": 10, "resume check": 26, "final pass and sweep": 30}  # measured: per image


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_million_images_cost_the_driver_what_was_measured() -> None:
    command = [sys.executable, "-m", "benchmarks.listing", "--keys", str(KEYS)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    rows: dict[str, dict[str, Any]] = {}
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            row = json.loads(line)
            rows[row["step"]] = row
    for step, most in MIB.items():
        assert rows[step]["peak_mib"] < 2 * most, rows[step]
        assert rows[step]["cpu_s"] / KEYS * 1e6 < 2 * CPU_US[step], rows[step]
    assert rows["listing and shards"]["requests"] == {"LIST": KEYS // 1000, "GET": 1}
    assert rows["listing and shards"]["shards"] < 40_000


def test_an_image_is_read_once_and_written_once() -> None:
    images = 64
    _, read, written, end = count_requests(images)
    shards = read["shards"]
    assert read["requests"] == {"GET": images, "PUT": shards, "DELETE": shards}
    assert written["requests"]["PUT"] == images + 2 * shards
    assert written["requests"]["HEAD"] == shards  # whether another run has done it
    assert "LIST" not in written["requests"]
    assert end["requests"]["GET"] <= shards + 2
