"""Training from tar shards on S3: the workers hardly wait for data, and memory stays where it is."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.storage import open_store
from tests import made
from tests.chaos.test_memory import memory_bytes

ROOT = Path(__file__).parents[2]
STEPS = 2000
TIMEOUT_S = 5400  # on a busy machine

pytestmark = [pytest.mark.chaos, pytest.mark.s3, pytest.mark.timeout(TIMEOUT_S)]


def test_tars_on_s3_keep_the_worker_busy_and_memory_flat(bucket: str, tmp_path: Path):
    """The data path is that of configs/tiny.yaml; the network is narrower, hence asks for its patches sooner."""
    store = open_store(f"{bucket}/shards")
    for shard in range(12):
        images = {f"{i:02}.jpg": made.jpeg(16 * shard + i, 512, 512, quality=95) for i in range(16)}
        store.put(f"{shard:03}.tar", made.tar(images))
    command = [sys.executable, "-m", "jobs.train", f"{bucket}/shards/*.tar", str(tmp_path / "run")]
    command += ["--config", "configs/tiny.yaml", "--steps", str(STEPS)]
    for setting in ("network.width=24", "threads=1", "log_every=20", "optimizer.decay_steps=0"):
        command += ["--set", setting]
    with (tmp_path / "talk.log").open("wb") as talk:
        process = subprocess.Popen(command, cwd=ROOT, stdout=talk, stderr=talk, env=os.environ.copy())
        memory: list[tuple[int, int]] = []  # step, bytes of all processes
        while process.poll() is None:
            if step := newest_step(tmp_path / "run/metrics.jsonl"):
                memory.append((step, memory_bytes(process.pid)))
            time.sleep(2)
    assert process.returncode == 0, (tmp_path / "talk.log").read_text()

    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    later = [line for line in lines if line["step"] > 100]  # the first window is waited for, whoever reads it
    seconds = sum(line["seconds"] for line in later)
    waited = sum(line["waiting_for_data"] * line["seconds"] for line in later) / seconds
    assert waited <= 0.1
    quarters = [
        [size for step, size in memory if low < step <= low + STEPS // 4] for low in range(0, STEPS, STEPS // 4)
    ]
    assert all(len(quarter) >= 3 for quarter in quarters[:3]), memory
    told = ", ".join(f"{max(quarter) / 2**20:.0f}" for quarter in quarters if quarter)
    print(f"waiting {100 * waited:.1f} %, {seconds:.0f} s; MiB by quarter: {told}")  # noqa: T201
    assert max(max(quarter) for quarter in quarters[2:] if quarter) < 1.05 * max(quarters[1]), told


def newest_step(metrics: Path) -> int:
    """Of the last line, 0 while there is none."""
    try:
        return json.loads(metrics.read_text().splitlines()[-1])["step"]
    except (FileNotFoundError, IndexError):
        return 0
