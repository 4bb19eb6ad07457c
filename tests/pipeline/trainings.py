"""What the tests of trainings share: a small run of one worker, in this process and without Ray."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from pipeline.runs.documents import put_result
from pipeline.runs.ends import Exit
from pipeline.storage import open_store
from pipeline.train import feed
from pipeline.train.feed import Item
from pipeline.train.job import JOB, list_data, open_output, summary
from pipeline.train.settings import TrainSettings
from pipeline.train.validation import list_validation
from pipeline.train.windows import Drawing, draw_shard
from pipeline.train.worker import Group, Task, Worker

STEPS = 6
SMALL: dict[str, Any] = {
    "network": {"preset": "tiny", "width": 8},
    "optimizer": {"steps": STEPS, "lr": 1e-3, "warmup": 2},
    "patches": {"size": 16, "per_image": 3},
    "batch_size": 4,
    "shuffle_buffer": 12,
    "checkpoint_every": 3,
    "log_every": 2,
    "weights_dtype": "float32",
    "recommend": {"steps": 2, "fidelity": 0.5},
}


def draw_here(items: Sequence[Item], drawing: Drawing, *_: int) -> Iterator[pa.Table]:
    """In place of `feed.read_items`."""
    return (draw_shard(shard, epoch, number, drawing, pairing) for number, epoch, shard, pairing in items)


def small(data: Path, output: Path, **changes: Any) -> TrainSettings:
    return TrainSettings.model_validate(SMALL | {"data": str(data), "output": str(output)} | changes)


def work(settings: TrainSettings) -> dict[str, Any]:
    """The outcome of a run of one worker."""
    torch.set_num_threads(1)
    listed = list_data(settings)
    store = open_output(settings, listed, None)
    values, scored = settings.model_dump(mode="json"), list_validation(settings)
    return Worker(settings, Task(values, store, listed.clean.shards, listed.pairings, scored), Group()).run()


def apart(data: Path, output: Path) -> None:
    """A run from start to end in a process of its own: PyTorch's threads would be in the way of tests that fork."""
    command = [sys.executable, "-m", "tests.pipeline.trainings", data, output]
    subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parents[2])


if __name__ == "__main__":
    feed.read_items = draw_here
    outcome, store = work(small(Path(sys.argv[1]), Path(sys.argv[2]))), open_store(sys.argv[2])
    put_result(store, JOB, Exit.DONE, summary(outcome, store))
