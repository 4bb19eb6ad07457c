"""The loop of one training worker: batches in, steps, a line of metrics now and then, checkpoints.

A worker begins at the newest whole checkpoint of OUTPUT, if there is one, whatever was killed before. All workers take
the same steps and agree on how the run ends; worker 0 alone writes.
"""

import hashlib
import json
import logging
import math
import os
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any, TypedDict, TypeVar

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from driftrec.errors import DriftRecError, InvalidInput
from driftrec.models import checkpoint as inference
from driftrec.networks.ncsnpp import parameter_count
from driftrec.training.learner import Learner
from pipeline.cpus import usable_cpus
from pipeline.inputs.pairing import Pairing
from pipeline.inputs.shards import Shard
from pipeline.runs.integrity import Noted
from pipeline.runs.ledger import RUN
from pipeline.runs.verify import MODEL
from pipeline.settings import Values
from pipeline.storage.base import Store
from pipeline.train import checkpoints, trackers
from pipeline.train.checkpoints import Mark
from pipeline.train.feed import NAMED, Feed, drawers, looked_at, merged, too_many_skipped
from pipeline.train.halt import Requests
from pipeline.train.metrics_log import Interval, Journal, Line
from pipeline.train.model_card import make_card, render
from pipeline.train.settings import TrainSettings, flat
from pipeline.train.validation import Scores, Source, load_samples, validate
from pipeline.train.windows import Drawing, Position

log = logging.getLogger(__name__)

T = TypeVar("T")

CARD = "MODEL_CARD.md"
GRIDS = "validation"  # folder of the picture grids


@dataclass(frozen=True)
class Group:
    """The workers of a run, and this one among them."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    drawers: int = 1  # drawing tasks of this worker at once

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


@dataclass(frozen=True)
class Task:
    """What every worker is given; picklable."""

    settings: Values
    store: Store  # of OUTPUT
    shards: Sequence[Shard]
    pairings: Sequence[Pairing] | None = None  # of each shard
    validation: Source | None = None
    environment: dict[str, str] = field(default_factory=dict[str, str])  # for the trackers


class Ended(TypedDict):
    """What workers say of their end, and _RESULT.json of a finished training."""

    workers: int
    skipped: dict[str, int]  # images that gave no patches, by reason
    skipped_images: list[str]  # the first NAMED of them, and why
    not_tracked: list[str]  # trackers that failed, and why
    checkpoint: str | None  # the last whole one; None: none yet
    metrics: Line | None  # the last line


class Outcome(Ended):
    """How the workers ended."""

    state: str  # done | halted | diverged | unwritable | spoilt
    step: int
    epoch: int
    loss: float  # where it diverged
    error: str  # where it could not go on


class Trained(Ended):
    """What _RESULT.json says of a finished training beside how it ended."""

    steps: int
    epochs: int
    model: str  # where it is
    model_bytes: int
    model_sha256: str
    card: str  # where it is
    leaves: dict[str, Noted]  # files beside the model
    fingerprint: str


def train_worker(config: Values) -> Outcome:
    """What Ray Train runs on each worker; returns the outcome. config: the fields of a Task."""
    task = Task(**config)
    settings = TrainSettings.model_validate(task.settings)
    context = ray.train.get_context()
    world, mine = context.get_world_size(), ray.get_runtime_context().get_assigned_resources().get("CPU", 0.0)
    at_once = drawers(ray.cluster_resources().get("CPU", 0.0), mine, world)
    group = Group(context.get_world_rank(), world, ray.train.torch.get_device(), at_once)
    torch.set_num_threads(settings.threads or max(1, usable_cpus() // context.get_local_world_size()))
    if group.device.type == "cuda":
        torch.cuda.set_device(group.device)  # which is what objects are gathered through
    os.environ.update(task.environment)
    return Worker(settings, task, group).run()


class Worker:
    """One worker's learner, data and journal."""

    def __init__(self, settings: TrainSettings, task: Task, group: Group) -> None:
        self.settings, self.task, self.group = settings, task, group
        self.store = task.store
        self.learner = make_learner(settings, group)
        self.mark = checkpoints.latest(self.store)
        if self.mark:
            checkpoints.load(self.store, self.mark, self.learner)
        if group.world > 1:
            on_gpu = [group.device] if group.device.type == "cuda" else None
            self.learner.objective = DistributedDataParallel(self.learner.objective, device_ids=on_gpu)
        start = start_position(self.mark, group.rank, group.world)
        sizes = self.batch, settings.shuffle_buffer
        order = group.rank, group.world, start
        self.feed = Feed(task.shards, drawing_of(settings), *sizes, *order, task.pairings, group.drawers)
        interval = open_interval(self.mark, group.rank, group.world)
        self.waited_s = -interval.waited_s  # when the open interval of the journal began
        self.journal = Journal(self.store, self.learner.step_count, interval)
        self.requests = Requests(self.store, looks=group.rank == 0)
        if group.rank == 0:
            self.open_for_others()

    @property
    def batch(self) -> int:
        """Patches this worker takes in one step."""
        return self.settings.batch_size * self.settings.optimizer.accumulate

    def open_for_others(self) -> None:
        """What worker 0 alone needs: run.json, whoever listens to the journal, the validation set."""
        self.document = json.loads(self.store.read(RUN))
        named = f"{self.store.url} {self.document['fingerprint']}"
        identity = hashlib.sha256(named.encode()).hexdigest()[:16]
        arguments = self.store.url, identity, flat(self.settings.public())
        self.trackers = [trackers.Cautious(name, *arguments) for name in self.settings.track]
        self.journal.listeners = [trackers.TensorBoard(self.store, self.journal.lines), *self.trackers]
        source = self.task.validation
        self.samples = load_samples(source, self.settings) if source else []

    def run(self) -> Outcome:
        """Train to the last step, or to where it diverges, too much is skipped or storage is full."""
        settings, steps = self.settings, self.settings.optimizer.steps
        batches = iter(self.feed)
        try:
            while self.learner.step_count < steps:
                result = self.learner.step(*next(batches))
                if not math.isfinite(result.gradient_norm):  # the same on all workers, where losses differ
                    return self.outcome("diverged", loss=result.loss)
                self.journal.add(result)
                to_save = result.step % settings.checkpoint_every == 0 or result.step == steps
                to_score = self.task.validation is not None and (
                    result.step % settings.validate_every == 0 or result.step == steps
                )
                if to_save or to_score or result.step % settings.log_every == 0:
                    # no interval spans a planned checkpoint, so no kill cuts one; that of a halt carries it on
                    self.close_interval(to_score)
                    if error := self.too_many_skipped():
                        return self.outcome("spoilt", error=error)
                if to_save and (ended := self.save()):
                    return ended
                if result.step < steps and self.is_to_halt():
                    return self.halt(saved=to_save)
            if self.group.rank == 0 and not self.store.exists(MODEL):  # taken away since the last step
                self.save_model(count_reasons([self.feed.counts]))
            return self.outcome("done")
        finally:
            self.feed.close()
            if self.group.rank == 0:
                self.journal.close()

    def is_to_halt(self) -> bool:
        """Whether any worker was asked to, the same on all of them."""
        return any(flag for (flag,) in self.group.gather(float(self.requests.asked())))

    def halt(self, saved: bool) -> Outcome:
        """The outcome after a checkpoint of this step, which may be there already."""
        ended = None if saved else self.save()
        self.requests.answer()
        return ended or self.outcome("halted")

    def close_interval(self, to_score: bool) -> None:
        """A line on the steps since the last one, over all workers; worker 0 scores and writes. All must call it."""
        seconds, taken = self.journal.seconds, len(self.journal.losses)
        share = (self.feed.waited_s - self.waited_s) / seconds
        losses, shares = zip(*self.group.gather(self.journal.mean_loss, share), strict=True)
        values: Values = {
            "epoch": self.feed.epoch,
            "loss": sum(losses) / self.group.world,
            "images_per_s": round(taken * self.batch * self.group.world / seconds, 2),
            "waiting_for_data": round(sum(shares) / self.group.world, 4),
        }
        if to_score and self.group.rank == 0:
            values |= self.validate()
        self.group.gather(0.0)  # the others wait here, and not inside a step
        self.waited_s = self.feed.waited_s
        self.journal.close_interval(**values)
        if self.group.rank == 0:
            self.journal.write_if_due()

    def validate(self) -> dict[str, Scores]:
        """The validation set restored and scored, its picture grid written; nothing if all its images are unusable."""
        if not self.samples:
            return {}
        scores, grid = validate(self.learner, self.samples, self.settings)
        try:
            self.store.put(f"{GRIDS}/step-{self.learner.step_count:08d}.png", grid)
        except DriftRecError as error:  # the next checkpoint decides whether the run can go on
            log.warning("%s", error)
        return {"validation": scores}

    def too_many_skipped(self) -> str:
        """What to say if more images than max_skipped cannot be used, the same on all workers; "" if not."""
        limit, shards = self.settings.max_skipped, len(self.task.shards)
        images, spoilt, seen = map(sum, zip(*self.group.gather(*self.feed.spoilt), strict=True))
        if not too_many_skipped(limit, images, spoilt, seen, shards):
            return ""  # of sums, in which a shard that two workers have looked at is twice
        counts = merged(self.group.gather_objects(self.feed.counts))
        images, spoilt = looked_at(sum(counts.values(), Counter[str]()))
        if not too_many_skipped(limit, images, spoilt, len(counts), shards):
            return ""
        return f"{spoilt} of {images} images looked at so far cannot be used, max_skipped is {limit}"

    @property
    def interval(self) -> Interval:
        """The open one of the journal."""
        if not self.journal.losses:
            return Interval()
        return Interval(self.journal.losses, self.journal.seconds, self.feed.waited_s - self.waited_s)

    def save(self) -> Outcome | None:
        """Write a checkpoint. The outcome if that ends the run, the same on all workers."""
        position = self.feed.position
        positions = [
            Position(int(item), int(batch)) for item, batch in self.group.gather(position.item, position.batch)
        ]
        counts, intervals = zip(*self.group.gather_objects((self.feed.counts, self.interval)), strict=True)
        error, unfit = "", False
        if self.group.rank == 0:
            try:
                self.journal.write()
                self.save_model(count_reasons(counts))
                self.mark = checkpoints.save(self.store, self.learner, positions, self.settings.keep, intervals)
            except InvalidInput:  # weights that are of no use: the checkpoint before stays the last one
                unfit = True
            except (DriftRecError, OSError) as failure:  # the store's, or the temporary folder's
                error = str(failure)
        unwritable, diverged = map(any, zip(*self.group.gather(float(bool(error)), float(unfit)), strict=True))
        if diverged:
            return self.outcome("diverged", loss=self.journal.last.loss if self.journal.last else math.nan)
        return self.outcome("unwritable", error=error or "worker 0 could not write") if unwritable else None

    def save_model(self, skipped: Mapping[str, int]) -> None:
        """The averaged weights as a file for inference, and its card."""
        network, settings = self.learner.denoiser.network, self.settings.public()
        batch = self.batch * self.group.world
        card = make_card(
            *(self.document, settings, self.journal.lines, self.learner.step_count, batch, skipped),
            device=f"{self.group.world} x {device_name(self.group.device)}",
            parameters=parameter_count(network),
        )
        with TemporaryDirectory(prefix="driftrec-") as folder:
            path = Path(folder) / MODEL
            weights, recommended = self.learner.ema.state_of(network), self.settings.recommend
            dtype = getattr(torch, self.settings.weights_dtype)
            inference.save(path, self.learner.denoiser, weights, recommended, card, dtype)
            self.store.put(MODEL, path.read_bytes())
        self.store.put(CARD, render(card, self.store.where(MODEL), recommended).encode())

    def outcome(self, state: str, loss: float = math.nan, error: str = "") -> Outcome:
        """How the run ended. All workers must call it; what worker 0 returns is what the driver gets."""
        everyone = self.group.gather_objects((self.feed.counts, self.feed.named))
        return {
            "state": state,
            "step": self.learner.step_count,
            "epoch": self.feed.epoch,
            "workers": self.group.world,
            "skipped": count_reasons([counts for counts, _ in everyone]),
            "skipped_images": sorted({name for _, named in everyone for name in named})[:NAMED],
            "not_tracked": [t.failure for t in self.trackers if t.failure] if self.group.rank == 0 else [],
            "checkpoint": self.store.where(self.mark.state) if self.mark else None,
            "metrics": self.journal.lines[-1] if self.journal.lines else None,
            "loss": loss,
            "error": error,
        }


def count_reasons(counts: Sequence[Mapping[int, Counter[str]]]) -> dict[str, int]:
    """How many images gave no patches, by reason; each shard counts once, whoever has looked at it."""
    total = sum(merged(counts).values(), Counter[str]())
    return {reason: count for reason, count in sorted(total.items()) if reason}


def device_name(device: torch.device) -> str:
    """What the model card calls it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"


def make_learner(settings: TrainSettings, group: Group = Group()) -> Learner:
    """A learner with fresh weights from the seed: the same on all workers."""
    torch.manual_seed(settings.seed)
    denoiser = settings.denoiser().to(group.device)
    density, optimisation = settings.density.build(), settings.optimizer.build()
    loss = settings.blocking, settings.loss
    return Learner(denoiser, density, optimisation, settings.seed, group.rank, *loss)


def drawing_of(settings: TrainSettings) -> Drawing:
    """How patches are drawn."""
    return Drawing(settings.patches.build(), settings.seed, settings.max_pixels)


def open_interval(mark: Mark | None, rank: int, world: int) -> Interval:
    """The journal's, with which a worker goes on. With another number of workers than before: the mean of all."""
    if mark is None or not mark.open:
        return Interval()
    if len(mark.open) == world:
        return mark.open[rank]
    losses = [fmean(theirs) for theirs in zip(*(each.losses for each in mark.open), strict=True)]
    return Interval(losses, mark.open[0].seconds, fmean(each.waited_s for each in mark.open))


def start_position(mark: Mark | None, rank: int, world: int) -> Position:
    """Where a worker goes on. With another number of workers than before: near where the foremost of them was."""
    if mark is None or not mark.positions:
        return Position()
    if len(mark.positions) == world:
        return mark.positions[rank]
    items = max(position.item for position in mark.positions) * len(mark.positions)
    return Position(-(-items // world))
