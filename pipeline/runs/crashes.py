"""Deaths of workers, noted beside the ledger: an image that ends its worker each time becomes a row, not the run's end.

The first attempt at a shard works on several images at once and notes only that it has begun. If its worker dies, the
next attempt finds that note and takes the images one by one, noting each before it begins: who dies then is known. That
a worker died is no verdict on the image: it may have been killed from outside. An image is to blame that ended its
worker in each of `ALONE` attempts, and came through in none. That it hung is what the watchdog itself has written down,
in this node's temporary folder. Knows a store; no Ray, no pixels.
"""

import faulthandler
import hashlib
import json
import math
import sys
import tempfile
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from driftrec.errors import DriftRecError, Reason
from pipeline.runs.ledger import FOLDER, TRYING
from pipeline.storage.base import NotFound, Store

LEAST_S = 0.01
ALONE = 4  # attempts in a row in which an image, alone in its worker, did not outlive it: then it is a row
UNEXPLAINED = 4  # deaths on one shard while no image was alone: they end the run
MOST = 16  # and so many, however they are explained: it is not the images


class Trial:
    """One attempt at one shard.

    Args:
        store: OUTPUT.
        shard: its id.
        limit_s: seconds that a step on one image may take, for messages.

    Raises DriftRecError if too many workers have died on the shard.
    """

    def __init__(self, store: Store, shard: str, limit_s: float) -> None:
        self._store, self._name, self._limit_s = store, f"{FOLDER}/{shard}{TRYING}", limit_s
        self._deaths: dict[str, int] = {}  # of workers, by the image that was alone in them
        self._late: list[str] = []  # images that were alone and hung
        self._died = self._unexplained = 0
        digest = hashlib.blake2b(f"{store.url}\0{shard}".encode(), digest_size=12).hexdigest()
        self.hung = Path(tempfile.gettempdir()) / f"driftrec-{digest}.hung"  # what the watchdog says before it ends us
        self.first = store.create(self._name, self._note())
        if not self.first:
            try:
                self._learn(json.loads(store.read(self._name)))
            except NotFound:  # another run on this OUTPUT has just finished the shard
                self.first = True

    def _learn(self, note: dict[str, Any]) -> None:
        """Take over what the attempt before has noted, and count its death."""
        self._deaths, self._late, self._died = note["deaths"], note["late"], note["died"] + 1
        self._unexplained = note["unexplained"] + (note["key"] is None)
        if key := note["key"]:
            if self.hung.is_file() and self.hung.stat().st_size:
                self._late.append(key)
            else:
                self._deaths[key] = self._deaths.get(key, 0) + 1
        if self._unexplained >= UNEXPLAINED or self._died >= MOST:
            raise DriftRecError(
                f"a worker died {self._died} times on the same shard, and not of one image: out of memory, or killed "
                "from outside; finished shards are valid, the same command goes on with the rest"
            )
        self._store.put(self._name, self._note())

    def verdict(self, key: str) -> tuple[Reason, str] | None:
        """Why this image is not tried again; None if it is."""
        if key in self._late:
            limits = f"image_timeout_s={self._limit_s:g}, or to decode than decode_s_per_megapixel allows"
            return Reason.timeout, f"it took longer than {limits}, alone in its worker"
        if (times := self._deaths.get(key, 0)) >= ALONE:
            return Reason.crashed, f"it ended its worker {times} times in a row, alone in it: a crash, or out of memory"
        return None

    def begin(self, key: str) -> None:
        """This image is alone in the worker from now on."""
        self._store.put(self._name, self._note(key))

    def done(self, key: str) -> None:
        """This image came through: what ended workers before was not it."""
        self._deaths.pop(key, None)

    def end(self) -> None:
        """The shard is done."""
        self._store.remove(self._name)
        self.hung.unlink(missing_ok=True)

    def _note(self, key: str | None = None) -> bytes:
        note = {"died": self._died, "unexplained": self._unexplained, "deaths": self._deaths, "late": self._late}
        return json.dumps(note | {"key": key}).encode()


def forget(store: Store) -> None:
    """Remove all notes: another attempt at the run begins anew."""
    for name, _ in store.found(FOLDER):
        if name.endswith(TRYING):
            store.remove(name)


class Unwatched:
    """Work in a process that is not to end for it."""

    limit_s = math.inf

    @contextmanager
    def writing(self, path: Path) -> Generator[None]:
        """Nothing is said."""
        yield

    @contextmanager
    def watch(self, images: int = 1, at_most: float = math.inf) -> Generator[None]:
        """It takes what it takes."""
        yield


class Watchdog:
    """Watches work that threads do at once. There is one clock a process: one watchdog at a time.

    Args:
        limit_s: seconds that work on one image may take.
    """

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._lock = threading.Lock()
        self._ends: dict[object, float] = {}
        self._file: IO[str] | None = None

    @contextmanager
    def writing(self, path: Path) -> Generator[None]:
        """What it says before it ends this process goes into a file, which is empty while all is well."""
        with path.open("w") as self._file:
            yield
        self._file = None

    @contextmanager
    def watch(self, images: int = 1, at_most: float = math.inf) -> Generator[None]:
        """Work on so many images goes on inside the block; it may take so many times the limit, and at most so many
        seconds.
        """
        work = object()
        self._set(work, time.monotonic() + min(self.limit_s * images, at_most))
        try:
            yield
        finally:
            self._set(work, None)

    def _set(self, work: object, end: float | None) -> None:
        with self._lock:
            before = min(self._ends.values(), default=None)
            if end is None:
                del self._ends[work]
            else:
                self._ends[work] = end
            first = min(self._ends.values(), default=None)
            if first == before:
                return
            if first is None:
                faulthandler.cancel_dump_traceback_later()
            else:
                left = max(LEAST_S, first - time.monotonic())
                file = self._file or sys.__stderr__ or sys.stderr
                faulthandler.dump_traceback_later(left, exit=True, file=file)
