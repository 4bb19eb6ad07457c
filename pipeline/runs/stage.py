"""What all stages share: a shard in, a ledger part written last, a row of counts out. Plain Python, testable without
Ray.
"""

import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Annotated, Generic, TypedDict, TypeVar

import pyarrow as pa

from driftrec.errors import BadImage, DriftRecError, Reason, StorageFull
from pipeline.inputs.blocks import images_of, unreadable
from pipeline.inputs.names import log_tags
from pipeline.runs.crashes import Trial, Unwatched, Watchdog
from pipeline.runs.ledger import FAILED, OK, SCHEMA, SKIPPED, AnyRow, Bool, Ledger, Row, Text, blank, schema_of
from pipeline.runs.redo import keys_again, only, renewed
from pipeline.storage.base import Store

log = logging.getLogger(__name__)

IMAGE_TIMEOUT_S = 3600.0
NODE = socket.gethostname()
WORKER = f"{NODE}:{os.getpid()}:{time.time_ns()}"  # this process
AT: dict[str, str] = {}  # the run and shard that this process, all its threads, is at: for its log
Work = TypeVar("Work")  # what a stage is given of a shard, or of one image of it


class Outcome(TypedDict):
    """How some images of a shard ended."""

    status: str
    reason: str  # "" for none
    images: int


OUTCOME = pa.struct([("status", pa.string()), ("reason", pa.string()), ("images", pa.int64())])


class Counts(TypedDict):
    """What the driver is told of a shard."""

    shard: Annotated[str, pa.string()]
    computed: Annotated[bool, pa.bool_()]  # false where a part was there already
    ok: Annotated[int, pa.int64()]  # images
    failed: Annotated[int, pa.int64()]  # images with a row that failed
    skipped: Annotated[int, pa.int64()]  # images left as they are
    outcomes: Annotated[list[Outcome], pa.list_(OUTCOME)]  # of the same images
    pixels: Annotated[int, pa.int64()]  # of the images that are ok
    nfe: Annotated[int, pa.int64()]  # evaluations of the network for these
    node: Annotated[str, pa.string()]  # the machine that did it, by its name
    worker: Annotated[str, pa.string()]  # the process on it
    begun: Annotated[float, pa.float64()]  # when, in seconds since the epoch
    seconds: Annotated[float, pa.float64()]
    error: Text  # why the run cannot go on; null if it can. Ray would bury an exception in its own
    full: Bool  # whether that is for want of room


SUMMARY = schema_of(Counts)


def _nothing_done(shard: str) -> Counts:
    """Of a shard that nobody has worked on."""
    none: Counts = {**blank(Counts), OK: 0, FAILED: 0, SKIPPED: 0, "outcomes": [], "pixels": 0, "nfe": 0}
    return {**none, "shard": shard, "computed": False, "node": NODE, "worker": WORKER, "begun": time.time()}


def outcomes_of(rows: Sequence[AnyRow]) -> list[Outcome]:
    """How the images of these rows ended, one with a row that failed as that row did."""
    failures_last = sorted(rows, key=lambda row: row["status"] == FAILED)
    images = Counter({row["key"]: (row["status"], row.get("reason") or "") for row in failures_last}.values())
    return [{"status": how[0], "reason": how[1], "images": count} for how, count in sorted(images.items())]


class Stage(Generic[Work]):
    """Works on shards, one per call; a shard with a ledger part is not computed again. Subclasses say what
    `rows` are, and take a shard apart.

    Args:
        store: OUTPUT.
        schema: of a ledger part.
        image_timeout_s: seconds that an image may take before its worker counts as hung.
        retry: images of this reason are done again where a shard has a part already; "all": whatever the reason.
        repair: likewise images whose output is missing, or is not what the part says.
    """

    def __init__(
        self,
        store: Store,
        schema: pa.Schema = SCHEMA,
        image_timeout_s: float = IMAGE_TIMEOUT_S,
        retry: str | None = None,
        repair: bool = False,
    ) -> None:
        self.store, self.ledger, self.retry, self.repair = store, Ledger(store, schema), retry, repair
        self.watchdog: Watchdog | Unwatched = Watchdog(image_timeout_s)
        self.broken: DriftRecError | None = None  # why no shard can be worked on

    def shard_of(self, work: Work, /) -> str:
        """The id of a shard."""
        raise NotImplementedError

    def rows(self, shard: str, work: Work, /) -> Sequence[Row]:
        """The part of one shard, or of one of its images: after a death they come one by one. Raises DriftRecError if
        the run cannot go on.
        """
        raise NotImplementedError

    def singly(self, work: Work, /) -> Iterator[tuple[str, Work]]:
        """(key, image) of each image of a shard."""
        raise NotImplementedError

    def condemned(self, image: Work, reason: Reason, detail: str, /) -> Work:
        """The image, which is not to be tried again."""
        raise NotImplementedError

    def problem(self, work: Work, /) -> str:
        """Why the run cannot go on with this shard; "" if it can."""
        return ""

    def only(self, work: Work, older: Sequence[AnyRow], again: Collection[str]) -> Work:
        """Of a shard with `older` rows the images that are done again."""
        raise NotImplementedError

    def begin(self, shard: str, again: Collection[str]) -> None:
        """Before the first rows of a shard. `again`: the keys that are done again, none if it is done at first."""

    def end(self) -> None:
        """After the last rows of a shard, before its part is written. Raises as `rows` does."""

    def __call__(self, work: Work, /) -> pa.Table:
        """Work on one shard and write its part. Gives one row of SUMMARY.

        A bad image is a row of the part; what the run cannot survive is the summary's `error`, and there is no part.
        """
        begun, counts = time.perf_counter(), _nothing_done(self.shard_of(work))
        try:
            counts = self._shard(counts, work)
        except DriftRecError as error:
            counts["error"], counts["full"] = str(error), isinstance(error, StorageFull)
        counts["seconds"] = time.perf_counter() - begun
        return pa.Table.from_pylist([dict(counts)], schema=SUMMARY)

    def _shard(self, counts: Counts, work: Work) -> Counts:
        """The counts with what was done. Raises DriftRecError if the run cannot go on."""
        if self.broken:
            raise self.broken
        shard = counts["shard"]
        AT.update(run=self.ledger.run.fingerprint, shard=shard)
        older: Sequence[AnyRow] = []
        again: frozenset[str] = frozenset()
        if there := self.ledger.has(shard):
            older = self.ledger.read_part(shard).to_pylist()
            again = keys_again(self.store, older, self.retry, self.repair)
            again |= {key for key, _ in self.singly(work)} - {row["key"] for row in older}
            if not again:
                return counts
        if problem := self.problem(work):
            raise DriftRecError(problem)
        rows = self._rows(shard, self.only(work, older, again) if there else work, again)
        if there:
            self.ledger.replace(shard, renewed(older, rows, again))
        else:
            self.ledger.commit(shard, rows)
        outcomes, statuses = outcomes_of(rows), Counter[str]()
        for outcome in outcomes:
            statuses[outcome["status"]] += outcome["images"]
        done = [row for row in rows if row["status"] == OK]
        pixels = sum((row.get("width") or 0) * (row.get("height") or 0) for row in done)
        nfe = sum(row.get("nfe") or 0 for row in done)
        counts = {**counts, OK: statuses[OK], FAILED: statuses[FAILED], SKIPPED: statuses[SKIPPED]}
        return {**counts, "computed": True, "outcomes": outcomes, "pixels": pixels, "nfe": nfe}

    def _rows(self, shard: str, work: Work, again: Collection[str]) -> list[Row]:
        """The rows of a shard, whose worker may die; on the next attempt its images go one by one."""
        trial = Trial(self.store, shard, self.watchdog.limit_s)
        self.begin(shard, again)
        with self.watchdog.writing(trial.hung):
            if trial.first:
                rows = list(self.rows(shard, work))
            else:
                log.warning("a worker has died here: the images go one by one %s", log_tags(**AT))
                rows = [row for key, image in self.singly(work) for row in self._alone(shard, key, image, trial)]
        self.end()
        trial.end()
        return rows

    def _alone(self, shard: str, key: str, image: Work, trial: Trial) -> Sequence[Row]:
        """The rows of one image; without trying if it has ended workers before."""
        if verdict := trial.verdict(key):
            log.warning("an image is not tried again: %s %s", verdict[0], log_tags(**AT, key=key))
            return self.rows(shard, self.condemned(image, *verdict))
        trial.begin(key)
        rows = self.rows(shard, image)
        trial.done(key)
        return rows


class ShardStage(Stage[pa.Table]):
    """A stage that is given a shard's images, as a block of `pipeline.inputs.blocks`."""

    def __call__(self, table: pa.Table) -> pa.Table:
        return super().__call__(images_of(table))

    def shard_of(self, work: pa.Table) -> str:
        return work["shard"][0].as_py()

    def singly(self, work: pa.Table) -> Iterator[tuple[str, pa.Table]]:
        keys = work["key"].to_pylist()
        return ((key, work.slice(row, 1)) for row, key in enumerate(keys) if key is not None)

    def condemned(self, image: pa.Table, reason: Reason, detail: str) -> pa.Table:
        for name, text in (("reason", reason), ("detail", detail)):
            image = image.set_column(image.column_names.index(name), name, [[str(text)]])
        return image

    def problem(self, work: pa.Table) -> str:
        return unreadable(work)

    def only(self, work: pa.Table, older: Sequence[AnyRow], again: Collection[str]) -> pa.Table:
        return only(work, older, again)


def explain(error: Exception, key: str) -> tuple[Reason, str]:
    """(reason, one line) of what went wrong with one image."""
    if isinstance(error, BadImage):
        return error.reason, error.detail
    text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "not enough memory" in text:
        return Reason.out_of_memory, text
    log.error("an image failed with %s %s", text, log_tags(**AT, key=key), exc_info=error)
    return Reason.internal, text
