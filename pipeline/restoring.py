"""Models at work for an evaluation: damaged files in, pixels out; in this process, or in a pool of Ray actors.

The actors stand beside the graph, and its scoring actors call them: so that each pool is as large as its work, and an
image's pixels cross from one to the other once, a few at a time, however large its shard.
"""

import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import ray
import torch
from numpy.typing import NDArray

from driftrec.errors import DriftRecError, Failed, Reason, StorageFull
from driftrec.opening import open_picture
from driftrec.restoration import Restored, Restorer
from pipeline.candidates import Model
from pipeline.graph import DIED, RETRIES, Pool
from pipeline.shard_stage import explain


@dataclass(frozen=True)
class Output:
    """What a model made of one file."""

    rgb: NDArray[np.uint8]  # (H, W, 3)
    nfe: int  # evaluations of the network
    seconds: float


Outputs = list[Output | Failed]


class Restores(Protocol):
    """Whatever restores files."""

    def restore(self, model: str, files: Sequence[bytes], key: str) -> Outputs:
        """One output a file, all of one image; `key` chooses the noise. Raises DriftRecError to end the run."""
        ...


class Restoring:
    """Restores with models that are loaded here."""

    def __init__(self, models: Sequence[Model], seed: int) -> None:
        torch.set_num_threads(1)  # more actors use more cores; and sums in one order give the same bytes everywhere
        self._models, self._seed = {model.name: model for model in models}, seed
        self._restorers: dict[str, Restorer] = {}
        for model in models:
            if model.weights.source not in self._restorers:
                self._restorers[model.weights.source] = model.weights.load()

    def restore(self, model: str, files: Sequence[bytes], key: str) -> Outputs:
        """One output a file. If a batch fails, its files go one by one: none can take the others along."""
        try:
            return self._together(self._models[model], files, key)
        except DriftRecError:
            raise
        except Exception as error:
            if len(files) > 1:
                return [output for file in files for output in self.restore(model, [file], key)]
            return [Failed(key, "restore", *explain(error))]

    def _together(self, model: Model, files: Sequence[bytes], key: str) -> Outputs:
        begun = time.perf_counter()
        pictures = [open_picture(file, projection=model.sampling.projection) for file in files]
        restorer = self._restorers[model.weights.source]
        done: list[Restored] = restorer.restore(pictures, [key] * len(files), self._seed, model.sampling)
        seconds = (time.perf_counter() - begun) / len(files)
        return [_output(one, key, seconds) for one in done]


def _output(done: Restored, key: str, seconds: float) -> Output | Failed:
    """However bad: how bad is what an evaluation measures. Only what is no picture has no measure."""
    if not done.finite:
        return Failed(key, "restore", Reason.implausible, done.fault or "")
    return Output(done.picture.rgb8, done.nfe, seconds)


class RestoringActor:
    """Restoring in a process of its own; what ends the run is data, for Ray would bury an exception in its own."""

    def __init__(self, models: Sequence[Model], seed: int) -> None:
        self._broken: DriftRecError | None = None
        try:
            self._restoring = Restoring(models, seed)
        except DriftRecError as error:
            self._broken = error

    def restore(self, model: str, files: Sequence[bytes], key: str) -> Outputs | tuple[str, bool]:
        """The outputs, or (why the run cannot go on, whether for want of room)."""
        try:
            if self._broken:
                raise self._broken
            return self._restoring.restore(model, files, key)
        except DriftRecError as error:
            return str(error), isinstance(error, StorageFull)


class RestoringPool:
    """Hands files to the actors, each time to the one that has least to do for this process. Picklable."""

    def __init__(self, actors: Sequence[Any]) -> None:
        self._actors = list(actors)
        self._busy: Counter[int] = Counter()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return RestoringPool, (self._actors,)

    def restore(self, model: str, files: Sequence[bytes], key: str) -> Outputs:
        """One output a file. Raises DriftRecError if the run cannot go on."""
        first = hash(key)  # processes that begin do not all begin with the same actor
        with self._lock:
            order = ((first + i) % len(self._actors) for i in range(len(self._actors)))
            chosen = min(order, key=lambda i: self._busy[i])
            self._busy[chosen] += 1
        try:
            answer = ray.get(self._actors[chosen].restore.remote(model, list(files), key))
        except DIED:
            what = f"a restoring worker died {RETRIES + 1} times on {key}, out of memory or of an image that crashes it"
            raise DriftRecError(f"{what}; finished shards are valid, the same command goes on with the rest") from None
        finally:
            with self._lock:
                self._busy[chosen] -= 1
        if isinstance(answer, tuple):
            raise (StorageFull if answer[1] else DriftRecError)(answer[0])
        return answer


def start_pool(models: Sequence[Model], seed: int, pool: Pool) -> RestoringPool:
    """Actors with all models. They end with the driver, or by `stop_pool`."""
    actor = ray.remote(RestoringActor).options(
        num_cpus=pool.cpus, num_gpus=pool.gpus, max_restarts=-1, max_task_retries=RETRIES
    )
    return RestoringPool([actor.remote(list(models), seed) for _ in range(pool.actors)])


def stop_pool(pool: RestoringPool) -> None:
    """End its actors."""
    for actor in pool._actors:
        ray.kill(actor)
