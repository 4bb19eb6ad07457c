"""The train job: open OUTPUT, start Ray Train, follow its metrics, end with _RESULT.json.

Ray starts the workers anew when one dies; they go on from the newest whole checkpoint in OUTPUT, as does the same
command after a kill of this process. Ray's own checkpoints and run names play no part: its files lie in a scratch
folder that is new each time, so that no earlier run can be continued by chance.
"""

import contextlib
import hashlib
import json
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from driftrec.errors import DriftRecError, InvalidInput, StorageFull, TrainingDiverged, one_line
from pipeline.cluster import connection
from pipeline.cluster.shared_storage import check_shared
from pipeline.inputs.listing import Listing, list_input
from pipeline.inputs.location import check_apart
from pipeline.inputs.pairing import Pairing, join
from pipeline.job import dry_run
from pipeline.runs import claiming
from pipeline.runs.documents import put_result, read_result
from pipeline.runs.ends import Answer, Exit, Interrupted, attempt
from pipeline.runs.integrity import MISSING, noted
from pipeline.runs.ledger import RESULT, Ledger
from pipeline.runs.verify import MODEL, model_fault
from pipeline.storage import locate, open_store
from pipeline.storage.base import StorageError, Store, redact
from pipeline.train import checkpoints, trackers
from pipeline.train.feed import DRAW_CPUS
from pipeline.train.halt import STOP, CheckpointBeforeChange, SigtermNoted, halt
from pipeline.train.metrics_log import METRICS, Line
from pipeline.train.settings import TrainSettings, flat
from pipeline.train.validation import list_validation
from pipeline.train.windows import draw_shard, no_patches, why_skipped
from pipeline.train.worker import CARD, Outcome, Task, Trained, drawing_of, make_learner, train_worker

log = logging.getLogger(__name__)

JOB = "train"
PROBE_SHARDS = 8  # looked at before anything starts, for one image that can be used
CLEANER = "PlacementGroupCleanerCallback"  # of Ray Train
FOLLOW_S = 5.0  # seconds between two looks at the metrics
SILENT_S = 60.0  # without a new line of metrics, until it is said what there is to wait for


def run_train(settings: TrainSettings) -> Answer:
    """Train to the last step, or go on with it. Gives what stands in _RESULT.json.

    Raises InvalidInput before anything is started; TrainingDiverged, StorageFull or another DriftRecError if the run
    fails, of which _RESULT.json tells too.
    """
    started = time.monotonic()
    trackers.check_trackers(settings.track)
    data, scored = list_data(settings), list_validation(settings)
    initial = initial_state(settings)
    store = open_output(settings, data, initial)
    if finished := earlier_result(store):
        log.info("trained already: %s", store.url)
        return finished
    values = settings.model_dump(mode="json")
    task = Task(values, store, data.clean.shards, data.pairings, scored, trackers.environment())
    stopped = partial(stop, store, started)

    def work() -> Answer:
        check_shared(data.clean, store, settings.allow_local)
        if initial and not checkpoints.latest(store):
            checkpoints.put(store, initial.step, initial.data)
        outcome = fit_through(settings, task, store, partial(stopped, Exit.INTERRUPTED))
        check(outcome)
        return put_result(store, JOB, Exit.DONE, {"seconds": since(started), **summary(outcome, store)})

    return attempt(work, stopped, connection.connected(partial(stopped, Exit.FAILED)))


def plan_train(settings: TrainSettings) -> Answer:
    """What a dry run tells: the resolved settings, the data, where the run stands. Writes nothing."""
    data = list_data(settings)
    list_validation(settings)
    initial_state(settings)
    store = _output(settings, data)
    claiming.check_output(store)
    mark = checkpoints.latest(store)
    extra = {
        "parameters": sum(p.numel() for p in settings.denoiser().network.parameters()),
        "patches": settings.optimizer.steps * settings.batch_size * settings.optimizer.accumulate * settings.workers,
        "steps_done": mark.step if mark else 0,
    }
    return dry_run(JOB, settings, data.clean, set(), **extra)


@dataclass(frozen=True)
class Data:
    """What is trained on."""

    clean: Listing
    damaged: Listing | None = None  # of pairs
    pairings: list[Pairing] | None = None  # of each clean shard, in `damaged`


def list_data(settings: TrainSettings) -> Data:
    """The shards of DATA. Raises InvalidInput if there are none, or if none of the first images can be used."""
    clean = _list(settings.data, "DATA", settings)
    data = Data(clean)
    if settings.corrupted:
        damaged = _list(settings.corrupted, "corrupted", settings, whole=True)
        data = Data(clean, damaged, join(clean, damaged))
    skipped: dict[str, str] = {}
    pairings = data.pairings or [None] * len(clean.shards)
    for shard, pairing in list(zip(clean.shards, pairings, strict=True))[:PROBE_SHARDS]:
        table = draw_shard(shard, 0, 0, drawing_of(settings), pairing)
        skipped |= why_skipped(table)
        if table["clean"].null_count < len(table):
            return data
    raise no_patches(skipped)


def _list(url: str, name: str, settings: TrainSettings, whole: bool = False) -> Listing:
    try:
        limit = None if whole else settings.limit
        return list_input(url, settings.shard_bytes, settings.shard_images, limit, image_column=settings.image_column)
    except InvalidInput as error:
        raise InvalidInput(str(error).replace("INPUT", name, 1)) from None


@dataclass(frozen=True)
class Initial:
    """The training state of another run, to go on from."""

    step: int
    data: bytes


def initial_state(settings: TrainSettings) -> Initial | None:
    """What init_from names. Raises InvalidInput if it is not there, does not fit the network or has no step to do."""
    if settings.init_from is None:
        return None
    shown, steps = redact(settings.init_from), settings.optimizer.steps
    store, name = locate(settings.init_from)
    learner = make_learner(settings)
    try:
        data = store.read(name)
        checkpoints.load_state(data, learner)
    except StorageError as error:
        raise InvalidInput(f"init_from: {error}") from None
    except InvalidInput as error:
        cause = one_line(error.__cause__ or error, 500)
        raise InvalidInput(f"init_from {shown} is no training state of this network: {cause}") from None
    if learner.step_count >= steps:
        raise InvalidInput(
            f"init_from {shown} is at step {learner.step_count}; set optimizer.steps above it, not to {steps}"
        )
    return Initial(learner.step_count, data)


def open_output(settings: TrainSettings, data: Data, initial: Initial | None) -> Store:
    """OUTPUT, made this run's. Raises InvalidInput if it cannot be written or belongs to a run of other settings."""
    identity = flat(settings.determining()) | {
        "init_from": hashlib.sha256(initial.data).hexdigest() if initial else None,
        "corrupted": data.damaged.digest if data.damaged else None,
    }
    plain = TrainSettings.model_validate({"data": ".", "output": "."})
    defaults = flat(plain.determining()) | {"init_from": None, "corrupted": None}
    store = _output(settings, data)
    try:
        claiming.claim(store, claiming.describe("train", data.clean, settings.public(), identity), defaults)
    except StorageError as error:
        raise InvalidInput(f"OUTPUT {error}") from None
    return store


def _output(settings: TrainSettings, data: Data) -> Store:
    """OUTPUT, apart from what is trained on."""
    store = open_store(settings.output)
    for listing in filter(None, (data.clean, data.damaged)):
        check_apart(listing.source, store)
    return store


def earlier_result(store: Store) -> Answer | None:
    """The result of the run if it is finished; "incomplete" if its model was changed. That of an attempt that did not
    get through is removed, and so is one whose model is gone: the last checkpoint gives it.
    """
    result = read_result(store)
    fault = model_fault(store, result)
    if result.get("state") != "done" or fault == MISSING:
        store.remove(RESULT)
        return None
    if fault:
        log.warning("%s was changed: move it away, and the same command writes it anew", store.where(MODEL))
        return result | {"state": "incomplete", "exit_code": int(Exit.INCOMPLETE), "first": {fault: [MODEL]}}
    return result


class Trainer(TorchTrainer):
    """Ray's trainer without its placement group cleaner.

    That actor asks "the" Ray of this machine whether our controller lives. Where a second cluster runs here it may ask
    that one, is told no, and kills our workers (seen with Ray 2.60). All it would clean ends with this process anyway.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if type(callback).__name__ != CLEANER]


def fit_through(settings: TrainSettings, task: Task, store: Store, at_signal: Callable[[], Any]) -> Outcome:
    """What `fit` gives in the end: where workers halt because one of them or its node is to go, others follow."""
    while (outcome := fit(settings, task, store, at_signal))["state"] == "halted":
        log.warning("halted with a checkpoint of step %d, for a worker is to go; going on", outcome["step"])
    return outcome


def fit(settings: TrainSettings, task: Task, store: Store, at_signal: Callable[[], Any]) -> Outcome:
    """Run Ray Train on `task`; what worker 0 reports. Raises DriftRecError if the workers died too often.

    At a signal it calls `at_signal` at once, has the workers halt, and raises what the signal raised.
    """
    sizes = scaling(settings)
    callbacks: list[Any] = [SigtermNoted(), CheckpointBeforeChange(store, settings.halt_s)]  # Ray's type names one kind
    with tempfile.TemporaryDirectory(prefix="driftrec-train-") as scratch:
        trainer = Trainer(
            train_worker,
            train_loop_config={field.name: getattr(task, field.name) for field in fields(task)},
            scaling_config=sizes,
            run_config=RunConfig(
                name="run",
                storage_path=scratch,
                failure_config=FailureConfig(max_failures=settings.max_failures),
                logging_config=LoggingConfig(log_level="WARNING"),
                callbacks=callbacks,
            ),
        )
        store.remove(STOP)
        training = in_thread(trainer.fit)
        try:
            follow(training, store, settings.optimizer.steps, wants(sizes))
        except (KeyboardInterrupt, Interrupted):
            at_signal()  # before the wait: whoever stops a job may give it less time
            log.info("waiting %g s at most for a checkpoint; a second signal ends at once", settings.halt_s)
            halt(store, training.done, settings.halt_s)
            if training.done() and not training.exception():
                log.info("halted with a checkpoint of step %d", training.result().return_value["step"])
            raise
        try:
            return training.result().return_value
        except Exception as error:
            raise DriftRecError(
                f"training failed: {cause_of(error)}; the same command goes on from the last checkpoint"
            ) from error


def scaling(settings: TrainSettings) -> ScalingConfig:
    """The workers and what each reserves: not all CPUs, so that the drawing tasks find theirs. Raises InvalidInput if
    there is not even room for min_workers.
    """
    workers, (cpus, gpus, *_) = settings.workers, connection.reach()
    least = settings.min_workers or workers
    gpu = settings.gpus_per_worker if settings.gpus_per_worker is not None else int(gpus > 0)
    if gpu and connection.resources()[1] and not connection.has_cuda():
        log.warning("Ray has GPUs, but PyTorch finds none where they are: training on CPUs; check the driver there")
        gpu = 0
    fair = 1.0 if cpus == 0 else min(1.0, (cpus - DRAW_CPUS) / workers)  # 0: all machines are still to come
    cpu = settings.cpus_per_worker or fair
    if least * gpu > gpus or least * cpu + DRAW_CPUS > cpus:
        wanted = (
            f"{least} workers want {gpu} GPUs and {cpu:g} CPUs each, and {DRAW_CPUS:g} CPUs are for drawing patches"
        )
        there = f"{gpus:g} GPUs and {cpus:g} CPUs are there"
        if not os.environ.get("RAY_ADDRESS"):
            raise InvalidInput(f"{wanted}; {there}; set workers, gpus_per_worker or cpus_per_worker lower")
        log.warning("%s; %s: waiting for the cluster to grow", wanted, there)
    count = workers if least == workers else (least, workers)
    return ScalingConfig(num_workers=count, use_gpu=gpu > 0, resources_per_worker={"CPU": cpu, "GPU": gpu})


def wants(sizes: ScalingConfig) -> str:
    """What the workers want, in words."""
    count = sizes.num_workers if isinstance(sizes.num_workers, int) else "{} to {}".format(*sizes.num_workers)
    each = sizes.resources_per_worker if isinstance(sizes.resources_per_worker, dict) else {}
    return f"{count} workers want {each.get('CPU', 0):g} CPUs and {each.get('GPU', 0):g} GPUs each"


def in_thread(function: Callable[[], Any]) -> Future[Any]:
    """Run a function in a thread of its own: in the main thread Ray Train would take SIGINT for itself."""
    future: Future[Any] = Future()

    def target() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=target, name="train", daemon=True).start()
    return future


def follow(training: Future[Any], store: Store, steps: int, wanted: str) -> None:
    """Until the training ends, tell the newest line of its metrics every now and then, or what it may wait for."""
    last, moved = newest_line(store), time.monotonic()
    while not training.done():
        with contextlib.suppress(TimeoutError):
            training.exception(timeout=FOLLOW_S)
        if time.monotonic() - moved > SILENT_S and not training.done():
            log.warning("no news of the training for %d s: %s; %s", SILENT_S, wanted, connection.room())
            moved = time.monotonic()
        if (line := newest_line(store)) and line != last:
            if last and line["step"] <= last["step"]:
                log.warning("started anew from the last checkpoint before step %d", line["step"])
            log.info(
                "step %d of %d, epoch %d: loss %.4f, rate %.2g, %.1f images/s, %.1f %% of the time waiting for data",
                *(line["step"], steps, line["epoch"], line["loss"], line["lr"]),
                *(line["images_per_s"], 100 * line["waiting_for_data"]),
            )
            last, moved = line, time.monotonic()


def newest_line(store: Store) -> Line | None:
    """The last line of metrics; None if there is none, or none that can be read: progress is no reason to stop."""
    try:
        return json.loads(store.read(METRICS).splitlines()[-1])
    except (StorageError, IndexError, ValueError):
        return None


def check(outcome: Outcome) -> None:
    """Raise what the workers found: TrainingDiverged, StorageFull, too many images that cannot be used."""
    if outcome["state"] == "diverged":
        raise TrainingDiverged(outcome["step"], outcome["loss"], outcome["checkpoint"])
    if outcome["state"] == "unwritable":
        kept = outcome["checkpoint"] or "none yet"
        raise StorageFull(f"{outcome['error']} (at step {outcome['step']}; the last whole checkpoint is {kept})")
    if outcome["state"] == "spoilt":
        reasons = ", ".join(f"{count} {reason}" for reason, count in outcome["skipped"].items())
        raise DriftRecError(
            f"{outcome['error']} ({reasons}; one of them is {outcome['skipped_images'][0]}); take them out of DATA, or "
            "set max_skipped higher: the same command goes on from the last checkpoint"
        )


def cause_of(error: BaseException) -> str:
    """One line on what the workers died of."""
    failures: dict[int, BaseException] = getattr(error, "worker_failures", {})
    cause = next(iter(failures.values()), error)
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return f"{type(cause).__name__}: {(str(cause).strip().splitlines() or [''])[-1]}"


def summary(outcome: Outcome, store: Store) -> Trained:
    """What the result tells of a finished training."""
    model = noted(store, MODEL)
    return {
        "steps": outcome["step"],
        "epochs": outcome["epoch"],
        "model": store.where(MODEL),
        "model_bytes": model["bytes"],
        "model_sha256": model["sha256"],
        "card": store.where(CARD),
        "leaves": {CARD: noted(store, CARD)},
        "fingerprint": Ledger(store).run.fingerprint,
        "workers": outcome["workers"],
        "skipped": outcome["skipped"],
        "skipped_images": outcome["skipped_images"],
        "not_tracked": outcome["not_tracked"],
        "metrics": outcome["metrics"],
        "checkpoint": outcome["checkpoint"],
    }


def stop(store: Store, started: float, code: Exit, error: str | None = None) -> Answer:
    """Write and return the result of a run that did not get through."""
    if code == Exit.INTERRUPTED:
        error = "interrupted; the same command goes on from the last checkpoint"
    return put_result(store, JOB, code, {"seconds": since(started)}, error)


def since(started: float) -> float:
    """Seconds."""
    return round(time.monotonic() - started, 2)
