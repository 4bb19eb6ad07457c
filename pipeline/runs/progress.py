"""How far a run is: one live line on a terminal, one JSON line an interval elsewhere. Writes to stderr only."""

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import TextIO, TypedDict

import pyarrow as pa

from pipeline.runs.ledger import FAILED, OK, SKIPPED, Ledger, reasons_of, statuses_of, texts
from pipeline.runs.stage import Counts

LIVE_S = 0.2  # seconds between two redraws of the live line
COLUMNS = ("key", "status", "reason")  # of a ledger part, that are counted


class Progress:
    """Counts what is done and says so.

    Args:
        shards: of the input, all of them.
        done: of these, finished by an earlier attempt.
        images: of the input; None while tars are unopened.
        interval_s: seconds between two JSON lines.
        cost: of the attempt so far; None where nobody knows the price.
        stream: stderr unless a test says otherwise.
    """

    def __init__(
        self,
        shards: int,
        done: int,
        images: int | None,
        interval_s: float,
        cost: Callable[[], float | None] = lambda: None,
        stream: TextIO | None = None,
    ) -> None:
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._interval_s, self._cost = LIVE_S if self._live else interval_s, cost
        self._shards, self._done, self._listed = shards, done, images
        self._images = self._failed = self._skipped = self._pixels = 0
        self._shards_now = 0
        self._begun = self._said = self.working = time.monotonic()  # since when shards are worked on

    def add(self, ok: int, failed: int, pixels: int, skipped: int = 0) -> None:
        """One more shard is finished, with so many images and pixels."""
        self._done += 1
        self._shards_now += 1
        self._images += ok + failed + skipped
        self._failed += failed
        self._skipped += skipped
        self._pixels += pixels
        self.tick()

    def tick(self) -> None:
        """Say something if it is time to."""
        if time.monotonic() - self._said >= self._interval_s:
            self._say()

    def close(self) -> None:
        """Write the last line."""
        self._say()
        if self._live:
            self._stream.write("\n")
            self._stream.flush()

    def _say(self) -> None:
        self._said = time.monotonic()
        seconds = self._said - self._begun
        rate = self._images / seconds if seconds else 0.0
        left = seconds_left(self._shards - self._done, self._shards_now, self._said - self.working)
        cost = self._cost()
        if self._live:
            eta = "" if left is None else f", {clock(left)} left"
            skipped = f"{self._skipped} skipped, " if self._skipped else ""
            text = (
                f"{self._done}/{self._shards} shards, {self._images} images, {self._failed} failed, "
                f"{skipped}{rate:.1f} images/s{eta}"
            )
            text += "" if cost is None else f", cost {cost:.2f}"
            self._stream.write(f"\r\x1b[K{text}")
        else:
            told = {
                "shards": self._shards,
                "shards_done": self._done,
                "images": self._images,
                "failed": self._failed,
                "skipped": self._skipped,
                "images_per_second": round(rate, 2),
                "megapixels_per_second": round(self._pixels / seconds / 1e6, 2) if seconds else 0.0,
                "seconds": round(seconds, 1),
                "seconds_left": None if left is None else round(left),
            }
            told |= {} if cost is None else {"cost": round(cost, 4)}
            self._stream.write(json.dumps({"progress": told}) + "\n")
        self._stream.flush()


def seconds_left(left: int, done: int, seconds: float) -> float | None:
    """For so many shards, by those that were done in this time; None while there are none."""
    return left * seconds / done if done else None


def clock(seconds: float) -> str:
    """3725 -> "1:02:05"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@dataclass
class Known:
    """Sums over the shards that are done, whichever attempt did them, as far as the driver knows: what another driver
    does at the same time it does not know.
    """

    shards: int = 0
    statuses: Counter[str] = field(default_factory=Counter)  # of images
    reasons: Counter[str] = field(default_factory=Counter)  # of images that did not come out well

    def add(self, row: Counts) -> None:
        """Count one more shard."""
        self.shards += 1
        for outcome in row["outcomes"]:
            self.statuses[outcome["status"]] += outcome["images"]
            if outcome["reason"]:
                self.reasons[outcome["reason"]] += outcome["images"]

    def add_part(self, part: pa.Table) -> None:
        """Count a shard by its ledger part; of one without the columns that all have no image is known."""
        self.shards += 1
        if set(COLUMNS) <= set(part.column_names):
            keys, statuses = texts(part, "key"), texts(part, "status")
            self.statuses.update(statuses_of(keys, statuses))
            self.reasons.update(reasons_of(keys, statuses, part["reason"].to_pylist()))

    def leave_out(self, part: pa.Table, keys: Collection[str]) -> None:
        """Take out a shard of which these images are to be done again."""
        again = Known()
        again.add_part(part.filter(pa.array([key in keys for key in texts(part, "key")], pa.bool_())))
        self.shards -= again.shards
        self.statuses.subtract(again.statuses)
        self.reasons.subtract(again.reasons)

    @classmethod
    def of(cls, ledger: Ledger, shard_ids: Iterable[str]) -> "Known":
        """Of these shards, whose parts are read."""
        known = cls()
        for part in ledger.read_parts(shard_ids, COLUMNS):
            known.add_part(part)
        return known


@dataclass
class Span:
    """The life of one worker, from its first shard to its last."""

    begun: float
    ended: float
    busy_s: float = 0.0


class EffortTold(TypedDict):
    """What a result says of the work of its attempt."""

    megapixels_this_attempt: float
    megapixels_per_second: float
    workers: int
    images_by_node: dict[str, int]  # whatever became of them; by the machine's name
    idle_share: float | None  # of the workers' lives, waiting for data, 0 to 1; None: none has lived


@dataclass
class Effort:
    """Sums over the rows of `runs.stage.SUMMARY`; memory goes by the workers and nodes."""

    shards: int = 0
    restored: int = 0  # images that are ok
    pixels: int = 0
    nfe: int = 0  # evaluations of the network
    spans: dict[str, Span] = field(default_factory=dict)  # by worker
    images: Counter[str] = field(default_factory=Counter)  # by node

    def add(self, row: Counts) -> None:
        """Count one shard."""
        self.shards += 1
        self.restored += row[OK]
        self.pixels += row["pixels"]
        self.nfe += row["nfe"]
        self.images[row["node"]] += row[OK] + row[FAILED] + row[SKIPPED]
        begun, ended = row["begun"], row["begun"] + row["seconds"]
        span = self.spans.setdefault(row["worker"], Span(begun, ended))
        span.begun, span.ended = min(span.begun, begun), max(span.ended, ended)
        span.busy_s += row["seconds"]

    @property
    def idle_share(self) -> float | None:
        """Share of the workers' lives in which they waited for data; None if none has lived."""
        spans = list(self.spans.values())  # at once: another thread may add to them
        lives_s = sum(span.ended - span.begun for span in spans)
        busy_s = sum(span.busy_s for span in spans)
        return max(0.0, 1 - busy_s / lives_s) if lives_s > 0 else None

    @property
    def evaluations_per_image(self) -> float | None:
        """Of the network, for a restored image; None if there is none."""
        return round(self.nfe / self.restored, 3) if self.restored else None

    def told(self, seconds: float) -> EffortTold:
        """For _RESULT.json; `seconds` is how long the attempt took."""
        idle = self.idle_share
        return {
            "megapixels_this_attempt": round(self.pixels / 1e6, 3),
            "megapixels_per_second": round(self.pixels / 1e6 / seconds, 4) if seconds else 0.0,
            "workers": len(self.spans),
            "images_by_node": dict(sorted(self.images.items())),
            "idle_share": None if idle is None else round(idle, 4),
        }
