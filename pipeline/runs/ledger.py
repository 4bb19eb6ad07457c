"""What is done: one Parquet part per shard, one row per image. Written last, create-only: readers trust parts only.

Jobs that give an image several rows (one per condition and candidate, say) have schemas of their own. Knows a store and
rows; no Ray, no pixels. `seconds` and `done` are what differs between two runs of the same work. A part that is broken,
or of another run, counts as none (`pipeline.runs.parts`).
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Annotated, Any, Final, Literal, NamedTuple, TypedDict, TypeVar, cast, get_type_hints

import numpy as np
import pyarrow as pa

from driftrec.errors import Failed
from pipeline.inputs.names import IMAGE_SUFFIXES, name_digest, name_digests, place_among, suffix
from pipeline.runs.parts import BrokenPart, ForeignPart, pack, unpack
from pipeline.runs.threads import pooled
from pipeline.storage.base import PART_PREFIX, PART_SUFFIX, NotFound, Store

RUN, RESULT, STATUS = "run.json", "_RESULT.json", "status.json"
FOLDER, IMAGES, SHARDS = "ledger", "images", "shards"
MEMBER = ".tar#"  # in the name of an output that lies in a tar, between the tar and its member
TRYING = ".trying"  # suffix of the note that a shard is in work (see `pipeline.runs.crashes`)
PART, TAR = re.compile(r"[0-9a-f]{16}\.parquet"), re.compile(r"[0-9a-f]{16}(-[0-9a-f]{16})?\.tar")
OUTPUT_SUFFIXES = IMAGE_SUFFIXES | {".bin"}
GONE = "0" * 16  # in place of a shard's id: of the part with what INPUT no longer has
READERS = 16  # parts read at once
OK: Final = "ok"
FAILED: Final = "failed"
SKIPPED: Final = "skipped"

NAMES = ("key", "condition", "candidate")  # columns that name a row; they stand first

AnyRow = Mapping[str, Any]  # of a part of any job and version, whatever it holds
R = TypeVar("R")  # a TypedDict

Name = Annotated[str, pa.string()]  # of a column: the type in Python, and in Parquet
Text = Annotated[str | None, pa.string()]
Int64 = Annotated[int | None, pa.int64()]
Int32 = Annotated[int | None, pa.int32()]
Int16 = Annotated[int | None, pa.int16()]
Int8 = Annotated[int | None, pa.int8()]
Float64 = Annotated[float | None, pa.float64()]
Float32 = Annotated[float | None, pa.float32()]
Bool = Annotated[bool | None, pa.bool_()]
Time = Annotated[datetime | None, pa.timestamp("ms", "UTC")]


class Row(TypedDict):
    """What the rows of all jobs say."""

    key: Name  # the image's name in the input; unsafe characters escaped
    status: Annotated[Literal["ok", "failed", "skipped"], pa.string()]  # ok, failed, or skipped: left as it is
    reason: Text  # of driftrec.errors.Reason; null where ok
    detail: Text  # one line for people; a note where ok
    stage: Text  # where it failed: read, header, decode, degrade, restore, encode, write, score; else null


A = TypeVar("A", bound=Row)


class RestoreRow(Row):
    """A row of a restore's ledger."""

    input_sha256: Text
    input_bytes: Int64  # of the file as it came; null where none did
    output: Text  # name in OUTPUT: images/... or shards/x.tar#...; null where there is none
    output_sha256: Text
    output_bytes: Int64
    width: Int32  # pixels, upright
    height: Int32
    mode: Text  # of the output: L, LA, RGB, RGBA
    depth: Int8  # of the output, bits per channel: 8 or 16
    quality: Int16  # JPEG quality estimated from the input's tables; null where it is no JPEG
    nfe: Int32  # evaluations of the network; 0 where skipped
    seconds: Float32  # decode + restore + encode + write of this image
    done: Time  # when that was, UTC
    bef_before: Float64  # blocking effect factor of the input's pixels, and of the output's
    bef_after: Float64


def schema_of(kind: type, first: Sequence[str] = NAMES) -> pa.Schema:
    """The columns of a kind of row: its fields, each with the second part of its type; some of them first."""
    hints = get_type_hints(kind, include_extras=True)
    names = sorted(hints, key=lambda name: name not in first)
    return pa.schema([(name, hints[name].__metadata__[0]) for name in names])


def blank(kind: type[R]) -> R:
    """A row of which nothing is known."""
    return cast(R, dict.fromkeys(get_type_hints(kind)))


def failure(row: A, failed: Failed) -> A:
    """The row of an image that failed so."""
    why = {"status": FAILED, "reason": str(failed.reason), "detail": failed.detail, "stage": failed.stage or None}
    return cast(A, {**row, **why})


def rows_in(table: pa.Table, kind: type[R]) -> list[R]:  # noqa: ARG001
    """The rows of a table that has the columns of this kind."""
    return cast(list[R], table.to_pylist())


SCHEMA = schema_of(RestoreRow)


class Identity(NamedTuple):
    """A run, as its parts name it."""

    fingerprint: str
    noted: bool  # whether its parts say that they are of it: those of older versions do not
    earlier: tuple[str, ...]  # its fingerprints when INPUT was another


class Ledger:
    """The parts below ledger/ of one OUTPUT, with the columns of `schema`; of the run that run.json tells of."""

    def __init__(self, store: Store, schema: pa.Schema = SCHEMA) -> None:
        self.store, self.schema = store, schema

    @cached_property
    def run(self) -> "Identity":
        """Of the run whose parts these are."""
        try:
            document = json.loads(self.store.read(RUN))
        except NotFound:
            return Identity("", False, ())
        earlier = document.get("earlier")
        earlier = tuple(map(str, earlier)) if isinstance(earlier, list) else ()
        return Identity(document["fingerprint"], bool(document.get("noted_parts")), earlier)

    def commit(self, shard_id: str, rows: Sequence[AnyRow]) -> bool:
        """Write the part of a shard unless there is one: True if it is ours, False if another came first."""
        return self.store.create(part_name(shard_id), self._pack(shard_id, rows))

    def replace(self, shard_id: str, rows: Sequence[AnyRow]) -> None:
        """Write the part of a shard over the one that is there, in one step."""
        self.store.put(part_name(shard_id), self._pack(shard_id, rows))

    def _pack(self, shard_id: str, rows: Sequence[AnyRow]) -> bytes:
        table = pa.Table.from_pylist([dict(row) for row in rows], schema=self.schema)
        return pack(table, self.run.fingerprint, shard_id)

    def remove(self, shard_id: str) -> None:
        """Let the shard count as not done."""
        self.store.remove(part_name(shard_id))

    def has(self, shard_id: str) -> bool:
        """Whether the shard's part is there."""
        return self.store.exists(part_name(shard_id))

    def committed(self) -> set[str]:
        """Ids of all shards with a part, by its name: see `spoilt`."""
        names = (name.rpartition("/")[2] for name, _ in self.store.found(FOLDER))
        return {name.partition(".")[0] for name in names if PART.fullmatch(name)}

    def spoilt(self, shard_ids: Iterable[str], look: Callable[[pa.Table], None]) -> dict[str, str]:
        """Of these shards, which have parts, those whose part is broken or of another run, and why. `look` is given the
        rows of the others, part after part.
        """
        spoilt: dict[str, str] = {}
        for shard_id, part in self.each(shard_ids):
            if isinstance(part, str):
                spoilt[shard_id] = part
            else:
                look(part)
        return spoilt

    def each(
        self, shard_ids: Iterable[str], columns: Sequence[str] | None = None
    ) -> Iterator[tuple[str, pa.Table | str]]:
        """(shard, its rows) of these shards, which have parts, in their order, some of them read ahead; in place of the
        rows why a part is no use.
        """

        def part_of(shard_id: str) -> tuple[str, pa.Table | str]:
            try:
                return shard_id, self._unpack(shard_id, columns)
            except (BrokenPart, ForeignPart) as error:
                return shard_id, str(error)

        with ThreadPoolExecutor(READERS) as pool:
            yield from pooled(pool, part_of, shard_ids, 2 * READERS)

    def read_part(self, shard_id: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of one shard. Raises NotFound if it is not done, BrokenPart or ForeignPart if that is no use."""
        try:
            return self._unpack(shard_id, columns)
        except (BrokenPart, ForeignPart) as error:
            remedy = "the same command again does its shard anew"
            raise type(error)(f"{self.store.where(part_name(shard_id))}: {error}; {remedy}") from None

    def _unpack(self, shard_id: str, columns: Sequence[str] | None = None) -> pa.Table:
        fingerprint, noted, earlier = self.run
        data = self.store.read(part_name(shard_id))
        return unpack(data, (fingerprint, *earlier), shard_id, noted, list(columns) if columns else None)

    def read_parts(self, shard_ids: Iterable[str], columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The rows of these shards, part after part in their order, some of them read ahead."""
        with ThreadPoolExecutor(READERS) as pool:
            yield from pooled(pool, lambda shard_id: self.read_part(shard_id, columns), shard_ids, 2 * READERS)

    def tally(self, shard_ids: Iterable[str], rows_per_image: int = 1) -> "Tally":
        """Count the parts of these shards: one pass, 8 bytes of memory an image and as many an output."""
        tally = Tally(rows_per_image)
        columns = [name for name in ("key", "status", "reason", "output") if name in self.schema.names]
        for part in self.read_parts(shard_ids, columns):
            tally.add(part)
        return tally


@dataclass
class Tally:
    """Sums over ledger parts."""

    rows_per_image: int = 1
    statuses: Counter[str] = field(default_factory=Counter)  # of images; one with a row that failed has failed
    reasons: Counter[str] = field(default_factory=Counter)  # of images that did not come out well
    rows: int = 0
    odd: int = 0  # images with more or fewer rows than they should have, within a part
    _keys: list[np.ndarray] = field(default_factory=list)
    _outputs: list[np.ndarray] = field(default_factory=list)

    def add(self, part: pa.Table) -> None:
        """Count one part (columns key, status, reason, and output if there is one)."""
        keys, statuses = texts(part, "key"), texts(part, "status")
        rows = Counter(keys)
        self.rows += part.num_rows
        self.statuses.update(statuses_of(keys, statuses))
        self.reasons.update(reasons_of(keys, statuses, part["reason"].to_pylist()))
        self.odd += sum(count != self.rows_per_image for count in rows.values())
        self._keys.append(name_digests(rows))
        if "output" in part.column_names:
            self._outputs.append(name_digests({container(name) for name in part["output"].to_pylist() if name}))

    @property
    def images(self) -> int:
        """Images accounted for."""
        return self.statuses.total()

    @property
    def repeated(self) -> int:
        """Images whose rows are not those of one image: too many, too few, or again in another part."""
        keys = np.concatenate([np.empty(0, np.uint64), *self._keys])
        return len(keys) - len(np.unique(keys)) + self.odd

    def outputs(self) -> np.ndarray:
        """Sorted 64-bit digests of the names of all files that hold outputs."""
        return np.sort(np.concatenate([np.empty(0, np.uint64), *self._outputs]))


def texts(table: pa.Table, column: str) -> list[str]:
    """Of a column that is never null."""
    return cast(list[str], table[column].to_pylist())


def statuses_of(keys: Sequence[str], statuses: Sequence[str]) -> Counter[str]:
    """Of images, by the keys and statuses of their rows: one with a row that failed has failed."""
    status_of = dict(zip(keys, statuses, strict=True))
    status_of |= {key: FAILED for key, status in zip(keys, statuses, strict=True) if status == FAILED}
    return Counter(status_of.values())


def reasons_of(keys: Sequence[str], statuses: Sequence[str], reasons: Sequence[str | None]) -> Counter[str]:
    """Of images, by the keys, statuses and reasons of their rows: of one that failed that of a row that did."""
    reason_of = dict(zip(keys, reasons, strict=True))
    rows = zip(keys, statuses, reasons, strict=True)
    reason_of |= {key: reason for key, status, reason in rows if status == FAILED}
    return Counter(reason for reason in reason_of.values() if reason)


def container(output: str) -> str:
    """The file that holds an output: itself, or its tar."""
    tar, found, _ = output.partition(MEMBER)
    return f"{tar}.tar" if found and output.startswith(f"{SHARDS}/") else output


def member_of(output: str) -> str:
    """The name of a member of a tar, in its own."""
    return output.partition(MEMBER)[2]


def sweep(
    store: Store,
    outputs: np.ndarray,
    folders: Sequence[str] = (IMAGES, SHARDS, FOLDER),
    strangers: bool = True,
) -> int:
    """Remove what a killed attempt left: outputs that no row names, notes, and unfinished puts; how many these were.

    `outputs` is Tally.outputs(). Only names that a run itself makes are touched, below its own `folders`: output
    suffixes below images/ (unless `strangers` stay there), tars of shards, notes of shards in work, and the parts of
    unfinished local puts.
    """
    removed = 0
    for folder in folders:
        kept = folder == IMAGES and not strangers
        leftovers = (name for name, _ in store.found(folder) if _is_leftover(store, folder, name, outputs, kept))
        for name in leftovers:
            store.remove(name)
            removed += 1
    return removed


def _is_leftover(store: Store, folder: str, name: str, outputs: np.ndarray, kept: bool) -> bool:
    last = name.rpartition("/")[2]
    if store.local and last.startswith(PART_PREFIX) and last.endswith(PART_SUFFIX):
        return True
    if folder == FOLDER:
        return last.endswith(TRYING)
    ours = suffix(name) in OUTPUT_SUFFIXES if folder == IMAGES else folder == SHARDS and TAR.fullmatch(last)
    if not ours or kept:
        return False
    return place_among(outputs, name_digest(name)) is None


def part_name(shard_id: str) -> str:
    """Of the part of a shard."""
    return f"{FOLDER}/{shard_id}.parquet"
