"""status.json: what a run tells of itself while it is at work, and at last how it ended; the same as a page.

A thread of the driver writes both, so that the news is new however long a shard takes; that they cannot be written ends
no run. The same thread ends a run that has cost what it may. Knows a run and its store; no Ray, no templates.
"""

import json
import logging
import math
import signal
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypedDict, TypeVar, cast

from pipeline.runs.documents import Document, Shards, read_object
from pipeline.runs.ends import Answer
from pipeline.runs.ledger import FAILED, OK, SKIPPED, STATUS
from pipeline.runs.progress import EffortTold, seconds_left
from pipeline.runs.run import Run
from pipeline.settings import ShardSettings

log = logging.getLogger(__name__)

RUNNING = "running"
PAGE = "report.html"  # that every job's report has
PATIENCE_S = 10.0  # for a write that is under way when the run ends

A = TypeVar("A", bound=Answer)


class Left(Shards):
    """Shards, those that are not done among them."""

    left: int


class Interval(TypedDict):
    """The time between the last two writes."""

    seconds: float
    images_per_second: float | None
    megapixels_per_second: float | None


class Status(EffortTold):
    """status.json. Where _RESULT.json has the same name, it means the same."""

    job: str
    state: str  # running; at the end that of _RESULT.json
    fingerprint: str
    started: str  # when this attempt began; ISO 8601, UTC, as the next
    written: str
    status_s: float  # seconds between two writes
    shards: Left
    images_listed: int | None  # of INPUT; None while tars are unopened
    images: int  # of all shards that are done, whichever attempt did them, as the next two
    status: dict[str, int]
    reasons: dict[str, int]  # of images that did not come out well
    seconds: float  # of this attempt
    images_this_attempt: int
    images_per_second: float  # of this attempt
    last_interval: Interval
    seconds_left: float | None  # None where nothing is known
    cost: float | None  # of this attempt, as the next; None where the price is not known
    cost_before: float
    max_cost: float | None
    error: str | None


class Reporter:
    """Writes status.json of one attempt, from its beginning to its end. To be used in a `with`.

    Args:
        run: opened.
        settings: how often, and what the run may cost.
        page: makes the page that stands where the report will, until there is one. None: no page.
    """

    def __init__(self, run: Run, settings: ShardSettings, page: Callable[[Status], str] | None = None) -> None:
        self._run, self._every_s, self._max_cost = run, settings.status_s, settings.max_cost
        self._page = page
        run.cost_before = _cost_before(run)
        self._started = datetime.now(UTC) - timedelta(seconds=time.monotonic() - run.started)
        self._last = (run.started, 0, 0)  # of the last write: when, images, pixels
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._report, name="status", daemon=True)
        self._failed = self._stopped = self._told_end = False

    def __enter__(self) -> "Reporter":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    @property
    def limit_reached(self) -> str:
        """Why the run has to stop, in words; "" while it may go on."""
        if self._seconds_to_limit() > 0:
            return ""
        cost, before = self._run.cost or 0.0, self._run.cost_before
        return (
            f"max_cost {self._max_cost:g} is reached: this attempt has cost {cost:.2f}, those before {before:.2f}; "
            "finished shards are valid, the same command with a higher --max-cost goes on with the rest"
        )

    def end(self, result: A) -> A:
        """Write how the run ended, as its result says; once. Gives the result."""
        if self._told_end:
            return result
        self._told_end = True
        self._ended.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(PATIENCE_S)
        if not self._thread.is_alive():  # else an older word might come after the last
            self._write(result["state"], result.get("error"))
        return result

    def _report(self) -> None:
        due = 0.0
        while not self._ended.is_set():
            if time.monotonic() >= due:
                self._write(RUNNING)
                due = time.monotonic() + self._every_s
            if self.limit_reached and not self._stopped and shards_left(self._run):
                self._stopped = True
                _interrupt()
            limit_s = math.inf if self._stopped else max(0.01, self._seconds_to_limit())
            self._ended.wait(min(max(0.01, due - time.monotonic()), limit_s))

    def _seconds_to_limit(self) -> float:
        price, cost = self._run.price_per_hour, self._run.cost
        if self._max_cost is None or not price or cost is None:
            return math.inf
        return (self._max_cost - cost - self._run.cost_before) / price * 3600

    def _write(self, state: str, error: str | None = None) -> None:
        try:
            told = self._told(state, error)
            self._run.store.put(STATUS, json.dumps(told, indent=2).encode())
            if self._page and told["shards"]["left"]:  # else the report is there, or soon
                self._run.store.put(PAGE, self._page(told).encode())
        except Exception as failure:
            if not self._failed:
                log.warning("%s could not be written: %s", self._run.store.where(STATUS), failure)
            self._failed = True

    def _told(self, state: str, error: str | None) -> Status:
        run, now = self._run, time.monotonic()
        seconds, images, pixels = now - run.started, run.statuses.total(), run.effort.pixels
        then, images_then, pixels_then = self._last
        self._last, passed = (now, images, pixels), now - then
        known, listed = run.known, len(run.listing.shards)
        statuses = {name: known.statuses[name] for name in (OK, FAILED, SKIPPED)}
        left = shards_left(run)
        return {
            "job": run.job,
            "state": state,
            "fingerprint": run.fingerprint,
            "started": self._started.isoformat(timespec="seconds"),
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
            "status_s": self._every_s,
            "shards": {"listed": listed, "done": listed - left, "resumed": len(run.resumed), "left": left},
            "images_listed": run.listing.images,
            "images": sum(statuses.values()),
            "status": statuses,
            "reasons": dict(sorted((+known.reasons).items())),
            "seconds": round(seconds, 2),
            "images_this_attempt": images,
            "images_per_second": _rate(images, seconds) or 0.0,
            "last_interval": {
                "seconds": round(passed, 2),
                "images_per_second": _rate(images - images_then, passed),
                "megapixels_per_second": _rate((pixels - pixels_then) / 1e6, passed),
            },
            **run.effort.told(seconds),
            "seconds_left": time_left(run) if state == RUNNING or not left else None,
            "cost": None if run.cost is None else round(run.cost, 4),
            "cost_before": round(run.cost_before, 4),
            "max_cost": self._max_cost,
            "error": error,
        }


def time_left(run: Run) -> float | None:
    """Seconds until all shards are done, as those of this attempt went; None before the first of them is done."""
    if not (left := shards_left(run)):
        return 0.0
    since = run.working or run.started
    seconds = seconds_left(left, run.effort.shards, time.monotonic() - since)
    return None if seconds is None else round(seconds, 1)


def shards_left(run: Run) -> int:
    """Shards that are not done."""
    return max(0, len(run.listing.shards) - run.known.shards)


def _rate(amount: float, seconds: float) -> float | None:
    return round(amount / seconds, 4) if seconds > 0 else None


def _interrupt() -> None:
    """Stop the main thread as Ctrl-C does; the signal is sent to that thread, for one that waits must wake up."""
    signal.pthread_kill(cast(int, threading.main_thread().ident), signal.SIGINT)


def _cost_before(run: Run) -> float:
    """What earlier attempts have cost, as far as the last of them has told."""
    try:
        told: Document = read_object(run.store, STATUS)
    except Exception as error:
        log.warning("%s could not be read: %s", run.store.where(STATUS), error)
        return 0.0
    if told.get("fingerprint") != run.fingerprint:
        return 0.0
    costs = (told.get("cost"), told.get("cost_before"))
    return sum(float(cost) for cost in costs if isinstance(cost, int | float) and 0 <= cost < math.inf)
