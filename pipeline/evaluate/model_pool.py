"""Models at work for an evaluation: damaged files in, pixels out; in this process, or in a pool of Ray actors.

The actors stand beside the graph, and its scoring actors call them: so that each pool is as large as its work, and an
image's pixels cross from one to the other once, a few at a time, however large its shard.
"""

import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import ray
import ray.exceptions
import torch
from numpy.typing import NDArray

from driftrec.errors import DriftRecError, Failed, Reason, StorageFull
from driftrec.restoration.opening import open_picture
from driftrec.restoration.restorer import Restored, Restorer
from pipeline.cluster.graph import DIED, Pool
from pipeline.evaluate.candidates import Model
from pipeline.runs.stage import explain

log = logging.getLogger(__name__)

GONE = (*DIED, ray.exceptions.NodeDiedError, ray.exceptions.ObjectLostError)  # the actor, or its answer
DEATHS = 3  # of actors at work on the same files, on nodes that live on: then it is the files
LOOK_S, TOLD_S = 0.5, 60.0  # seconds between two looks for actors that are up, and between two words about it


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

    def __init__(self, models: Sequence[Model], seed: int, max_pixels: int) -> None:
        torch.set_num_threads(1)  # more actors use more cores; and sums in one order give the same bytes everywhere
        self._models, self._seed = {model.name: model for model in models}, seed
        self._max_pixels = max_pixels
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
            return [Failed(key, "restore", *explain(error, key))]

    def _together(self, model: Model, files: Sequence[bytes], key: str) -> Outputs:
        begun = time.perf_counter()
        pictures = [open_picture(file, "", self._max_pixels, projection=model.sampling.projection) for file in files]
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

    def __init__(self, models: Sequence[Model], seed: int, max_pixels: int) -> None:
        self._broken: DriftRecError | None = None
        try:
            self._restoring = Restoring(models, seed, max_pixels)
        except DriftRecError as error:
            self._broken = error

    def ready(self) -> bool:
        """Answered as soon as the models are loaded."""
        return True

    def restore(self, model: str, files: Sequence[bytes], key: str) -> Iterator[str | Outputs | tuple[str, bool]]:
        """First the node that this is on, when the call's turn has come; then the outputs, or (why the run cannot go
        on, whether for want of room).
        """
        yield ray.get_runtime_context().get_node_id()
        try:
            if self._broken:
                raise self._broken
            yield self._restoring.restore(model, files, key)
        except DriftRecError as error:
            yield str(error), isinstance(error, StorageFull)


class RestoringPool:
    """Hands files to the actors that are up, each time to the one that has least to do for this process. Picklable.

    Actors may come late, when a cluster grows, and go with their node. Ray starts those that died again; files whose
    actor died are given to another. That is no verdict on them, unless actors die of them again and again while their
    nodes live on.
    """

    def __init__(self, actors: Sequence[Any]) -> None:
        self.actors = list(actors)
        self._up: set[int] = set()
        self._asked: dict[int, Any] = {}  # of those that are not up: an answer when they are
        self._busy: Counter[int] = Counter()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return RestoringPool, (self.actors,)

    def restore(self, model: str, files: Sequence[bytes], key: str) -> Outputs:
        """One output a file. Raises DriftRecError if the run cannot go on."""
        nodes: list[str] = []  # on which an actor died while it was at work on these files
        while True:
            chosen = self._choose(key)
            try:
                answers: Iterator[ray.ObjectRef[Any]] = self.actors[chosen].restore.remote(model, list(files), key)
                node = ray.get(next(answers))
                try:
                    answer = ray.get(next(answers))
                except GONE:
                    nodes.append(node)
                    raise
            except GONE as error:
                self._down(chosen)
                if nodes and len(files) > 1:  # one of them may be to blame
                    return [output for file in files for output in self.restore(model, [file], key)]
                if len(nodes) >= DEATHS and len(_alive(nodes)) >= DEATHS:
                    return [_ended(key, error)]
                continue
            finally:
                with self._lock:
                    self._busy[chosen] -= 1
            if isinstance(answer, tuple):
                raise (StorageFull if answer[1] else DriftRecError)(answer[0])
            return answer

    def _choose(self, key: str) -> int:
        """An actor that is up, and one more call for it; waits until there is one."""
        first, said_at = hash(key), time.monotonic()  # processes that begin do not all begin with the same actor
        while True:
            with self._lock:
                self._look()
                order = [(first + i) % len(self.actors) for i in range(len(self.actors))]
                if up := [i for i in order if i in self._up]:
                    chosen = min(up, key=lambda i: self._busy[i])
                    self._busy[chosen] += 1
                    return chosen
            if time.monotonic() - said_at > TOLD_S:
                log.warning("waiting for one of %d restoring actors to be up", len(self.actors))
                said_at = time.monotonic()
            time.sleep(LOOK_S)

    def _look(self) -> None:
        """Which of the others have come up by now."""
        for i in set(range(len(self.actors))) - self._up:
            if i not in self._asked:
                self._asked[i] = self.actors[i].ready.remote()
            answer = self._asked[i]
            if not ray.wait([answer], timeout=0)[0]:
                continue
            del self._asked[i]
            with contextlib.suppress(*GONE):  # not yet: asked anew when we look again
                ray.get(answer)
                self._up.add(i)

    def _down(self, actor: int) -> None:
        with self._lock:
            self._up.discard(actor)


def _alive(nodes: Sequence[str]) -> list[str]:
    """Those of the nodes that have not gone."""
    there = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    return [node for node in nodes if node in there]


def _ended(key: str, error: Exception) -> Failed:
    """Files of which actors die."""
    problem = f"{DEATHS} restoring actors ended while they worked on it"
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return Failed(key, "restore", Reason.out_of_memory, f"{problem}, for want of memory")
    return Failed(key, "restore", Reason.crashed, f"{problem}: a crash, or out of memory")


def start_pool(models: Sequence[Model], seed: int, max_pixels: int, pool: Pool) -> RestoringPool:
    """Actors with all models. They end with the driver, or by `stop_pool`."""
    actor = ray.remote(RestoringActor).options(
        num_cpus=pool.cpus, num_gpus=pool.gpus, max_restarts=-1, max_task_retries=0
    )
    return RestoringPool([actor.remote(list(models), seed, max_pixels) for _ in range(pool.actors)])


def stop_pool(pool: RestoringPool) -> None:
    """End its actors."""
    for actor in pool.actors:
        ray.kill(actor)
