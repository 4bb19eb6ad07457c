"""Ends this process when a piece of work hangs, so that its shard is tried again by another (see `crashes`).

The clock is the standard library's faulthandler: it needs no interpreter lock, which what hangs may hold, and tells in
the worker's log where that was.
"""

import faulthandler
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

LEAST_S = 0.01


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
    def writing(self, path: Path) -> Iterator[None]:
        """What it says before it ends this process goes into a file, which is empty while all is well."""
        with path.open("w") as self._file:
            yield
        self._file = None

    @contextmanager
    def watch(self, images: int = 1) -> Iterator[None]:
        """Work on so many images goes on inside the block; it may take so many times the limit."""
        work = object()
        self._set(work, time.monotonic() + self.limit_s * images)
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
