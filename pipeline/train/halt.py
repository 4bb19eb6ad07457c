"""How a training is asked to halt: its workers write a checkpoint after their present step, and end.

Whoever ends workers on purpose asks by a small object in OUTPUT, which worker 0 looks for now and then: the driver at a
signal, Ray's controller before it changes their number or when it hears that a node is to go. The SIGTERM that a worker
gets itself asks too. Must not know what a checkpoint holds.
"""

import contextlib
import signal
import threading
import time
from collections.abc import Callable

from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerCallback
from ray.train.v2._internal.execution.controller.state import PreemptingState, ResizingState, TrainControllerState

from driftrec.errors import DriftRecError
from pipeline.storage.base import Store

STOP = "stop"  # the object; removed by worker 0 when the checkpoint is written, or by whoever has put it
LOOK_S = 1.0  # seconds between two looks for it
POLL_S = 0.2  # seconds between two looks of whoever waits for the end

terminated = threading.Event()  # this worker has got SIGTERM


def halt(store: Store, ended: Callable[[], bool], limit_s: float) -> None:
    """Ask the workers to halt, and wait until `ended` says that they have, for at most `limit_s` seconds."""
    until = time.monotonic() + limit_s
    with contextlib.suppress(DriftRecError):  # without the checkpoint the one before holds
        store.put(STOP, b"")
        while not ended() and time.monotonic() < until:
            time.sleep(POLL_S)
        store.remove(STOP)


def note_sigterm() -> None:
    """Let the first SIGTERM of this process be noted, and a second one do what the first would have done.

    Must be called in the main thread.
    """
    before = signal.getsignal(signal.SIGTERM)

    def note(number: int, _: object) -> None:
        terminated.set()
        signal.signal(number, before)

    signal.signal(signal.SIGTERM, note)


class Requests:
    """What one worker knows of requests to halt."""

    def __init__(self, store: Store, looks: bool) -> None:
        """looks: whether this is the worker that looks for the object."""
        self.store, self.looks = store, looks
        self.looked = 0.0

    def asked(self) -> bool:
        """Whether this worker was asked, itself or by the object."""
        if terminated.is_set():
            return True
        if not self.looks or time.monotonic() - self.looked < LOOK_S:
            return False
        self.looked = time.monotonic()
        try:
            return self.store.exists(STOP)
        except DriftRecError:  # a store that cannot be reached is told of by the next checkpoint
            return False

    def answer(self) -> None:
        """The checkpoint is written, or could not be."""
        if self.looks:
            with contextlib.suppress(DriftRecError):
                self.store.remove(STOP)


class SigtermNoted(WorkerCallback):
    """Runs in the main thread of each worker; the training runs in another."""

    def after_init_train_context(self) -> None:
        note_sigterm()


class CheckpointBeforeChange(ControllerCallback):
    """Runs in Ray's controller, which ends workers without a word when it resizes them or when their node is to go."""

    def __init__(self, store: Store, limit_s: float) -> None:
        self.store, self.limit_s = store, limit_s

    def after_controller_state_update(
        self, previous_state: TrainControllerState, current_state: TrainControllerState
    ) -> None:
        """Before a resize wait for the checkpoint; when a node is to go the controller must go on polling."""
        if isinstance(current_state, ResizingState):
            halt(self.store, lambda: not self.store.exists(STOP), self.limit_s)
        if isinstance(current_state, PreemptingState) and not isinstance(previous_state, PreemptingState):
            with contextlib.suppress(DriftRecError):
                self.store.put(STOP, b"")
