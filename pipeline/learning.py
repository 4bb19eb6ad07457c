"""The loop of one training worker: batches in, steps, a line of metrics now and then, checkpoints.

A worker begins at the newest whole checkpoint of OUTPUT, if there is one, whatever was killed before. All workers take
the same steps and agree on how the run ends; worker 0 alone writes.
"""

import json
import logging
import math
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import ray.train
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from driftrec import checkpoint as inference
from driftrec.errors import DriftRecError
from driftrec.learner import Learner, StepResult
from pipeline import checkpoints
from pipeline.checkpoints import Mark
from pipeline.ingest import Feed
from pipeline.shards import Shard
from pipeline.store import Store
from pipeline.train_settings import TrainSettings
from pipeline.windows import Drawing, Position

log = logging.getLogger(__name__)

T = TypeVar("T")

METRICS, MODEL = "metrics.jsonl", "model.safetensors"
METRICS_S = 10.0  # seconds between two writes of metrics.jsonl, which is put as a whole


@dataclass(frozen=True)
class Group:
    """The workers of a run, and this one among them."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def gather(self, *values: float) -> list[list[float]]:
        """The values of every worker, in the order of ranks. All must call it."""
        mine = torch.tensor(values, dtype=torch.float64, device=self.device)
        if self.world == 1:
            return [mine.tolist()]
        everyone = [torch.empty_like(mine) for _ in range(self.world)]
        dist.all_gather(everyone, mine)
        return [theirs.tolist() for theirs in everyone]

    def gather_objects(self, mine: T) -> list[T]:
        """Any object of every worker, in the order of ranks. All must call it."""
        if self.world == 1:
            return [mine]
        everyone: list[Any] = [None] * self.world
        dist.all_gather_object(everyone, mine)
        return everyone


def train_worker(config: dict[str, Any]) -> dict[str, Any]:
    """What Ray Train runs on each worker; returns the outcome.

    config: "settings" (JSON values), "store" (of OUTPUT), "shards".
    """
    settings = TrainSettings.model_validate(config["settings"])
    context = ray.train.get_context()
    group = Group(context.get_world_rank(), context.get_world_size(), ray.train.torch.get_device())
    torch.set_num_threads(settings.threads or max(1, (os.cpu_count() or 1) // context.get_local_world_size()))
    return Worker(settings, config["store"], config["shards"], group).run()


class Worker:
    """One worker's learner, data and journal."""

    def __init__(self, settings: TrainSettings, store: Store, shards: Sequence[Shard], group: Group) -> None:
        self.settings, self.store, self.group = settings, store, group
        self.learner = make_learner(settings, group)
        self.mark = checkpoints.latest(store)
        if self.mark:
            checkpoints.load(store, self.mark, self.learner)
        if group.world > 1:
            on_gpu = [group.device] if group.device.type == "cuda" else None
            self.learner.objective = DistributedDataParallel(self.learner.objective, device_ids=on_gpu)
        start = start_position(self.mark, group.rank, group.world)
        sizes = settings.batch_size, settings.shuffle_buffer
        self.feed = Feed(shards, drawing_of(settings), *sizes, group.rank, group.world, start)
        self.journal = Journal(store, self.learner.step_count)

    def run(self) -> dict[str, Any]:
        """Train to the last step, or to where it diverges or storage is full."""
        settings, steps = self.settings, self.settings.optimizer.steps
        batches = iter(self.feed)
        try:
            while self.learner.step_count < steps:
                result = self.learner.step(*next(batches))
                if not math.isfinite(result.gradient_norm):  # the same on all workers, where losses differ
                    return self.outcome("diverged", loss=result.loss)
                self.journal.add(result)
                to_save = result.step % settings.checkpoint_every == 0 or result.step == steps
                if (
                    to_save or result.step % settings.log_every == 0
                ):  # no interval spans a checkpoint, so none is ever cut
                    self.journal.close_interval(self.group, self.feed, settings.batch_size)
                if to_save and (error := self.save()):
                    return self.outcome("unwritable", error=error)
            return self.outcome("done")
        finally:
            self.feed.close()

    def save(self) -> str:
        """Write a checkpoint; the error if it could not be written, the same on all workers."""
        position = self.feed.position
        positions = [
            Position(int(item), int(batch)) for item, batch in self.group.gather(position.item, position.batch)
        ]
        error = ""
        if self.group.rank == 0:
            try:
                self.journal.write()
                self.store.put(MODEL, self.weights())
                self.mark = checkpoints.save(self.store, self.learner, positions, self.settings.keep)
            except DriftRecError as failure:
                error = str(failure)
        failed = any(flag for (flag,) in self.group.gather(float(bool(error))))
        return error or ("worker 0 could not write" if failed else "")

    def weights(self) -> bytes:
        """The averaged weights as a file for inference."""
        with TemporaryDirectory(prefix="driftrec-") as folder:
            path = Path(folder) / MODEL
            network = self.learner.denoiser.network
            card = {"steps": self.learner.step_count, "batch": self.settings.batch_size * self.group.world}
            inference.save(path, self.learner.denoiser, self.learner.ema.state_of(network), card=card)
            return path.read_bytes()

    def outcome(self, state: str, **more: Any) -> dict[str, Any]:
        """How the run ended. All workers must call it; what worker 0 returns is what the driver gets."""
        skipped: dict[str, str] = {}
        for theirs in self.group.gather_objects(self.feed.skipped):
            skipped |= theirs
        return {
            "state": state,
            "step": self.learner.step_count,
            "epoch": self.feed.epoch,
            "skipped": dict(Counter(why.partition(":")[0] for why in skipped.values())),
            "checkpoint": self.store.where(self.mark.state) if self.mark else None,
            "metrics": self.journal.lines[-1] if self.journal.lines else None,
            **more,
        }


class Journal:
    """metrics.jsonl: one line an interval, each step in one line only, whatever was killed and repeated."""

    def __init__(self, store: Store, step: int) -> None:
        self.store = store
        kept = store.read(METRICS).splitlines() if step and store.exists(METRICS) else []
        self.lines: list[dict[str, Any]] = [line for line in map(json.loads, kept) if line["step"] <= step]
        self.losses: list[float] = []
        self.last: StepResult | None = None
        self.begun = self.written = time.monotonic()
        self.waited_s = 0.0

    def add(self, result: StepResult) -> None:
        """Take in a step."""
        self.losses.append(result.loss)
        self.last = result

    def close_interval(self, group: Group, feed: Feed, batch_size: int) -> None:
        """A line on the steps since the last one, over all workers; worker 0 writes it. All must call it."""
        assert self.last is not None
        seconds = time.monotonic() - self.begun
        share = (feed.waited_s - self.waited_s) / seconds
        everyone = group.gather(sum(self.losses) / len(self.losses), share)
        losses, shares = zip(*everyone, strict=True)
        line = {
            "step": self.last.step,
            "epoch": feed.epoch,
            "loss": sum(losses) / group.world,
            "gradient_norm": self.last.gradient_norm,
            "lr": self.last.lr,
            "images_per_s": round(len(self.losses) * batch_size * group.world / seconds, 2),
            "waiting_for_data": round(sum(shares) / group.world, 4),
        }
        self.lines.append(line)
        self.losses, self.begun, self.waited_s = [], time.monotonic(), feed.waited_s
        if group.rank == 0 and time.monotonic() - self.written > METRICS_S:
            try:
                self.write()
            except DriftRecError as error:  # the next checkpoint decides whether the run can go on
                log.warning("%s", error)

    def write(self) -> None:
        """Put the file. Raises StorageFull, StorageError."""
        self.store.put(METRICS, "".join(json.dumps(line) + "\n" for line in self.lines).encode())
        self.written = time.monotonic()


def make_learner(settings: TrainSettings, group: Group = Group()) -> Learner:
    """A learner with fresh weights from the seed: the same on all workers."""
    torch.manual_seed(settings.seed)
    denoiser = settings.denoiser().to(group.device)
    return Learner(denoiser, settings.density.build(), settings.optimizer.build(), settings.seed, group.rank)


def drawing_of(settings: TrainSettings) -> Drawing:
    """How patches are drawn."""
    return Drawing(settings.patches.build(), settings.seed, settings.max_pixels)


def start_position(mark: Mark | None, rank: int, world: int) -> Position:
    """Where a worker goes on. With another number of workers than before: near where the foremost of them was."""
    if mark is None or not mark.positions:
        return Position()
    if len(mark.positions) == world:
        return mark.positions[rank]
    items = max(position.item for position in mark.positions) * len(mark.positions)
    return Position(-(-items // world))
