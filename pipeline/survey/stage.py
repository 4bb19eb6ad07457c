"""The survey stage: a shard's files looked at, its ledger part written. Plain Python, testable without Ray.

Of a loose file the first and the last bytes are read, and all of it only where it is among those that are decoded. What
lies in a tar or a Parquet file comes with its container.
"""

import io
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from driftrec.errors import DriftRecError, Reason, StorageFull
from driftrec.image import decode
from driftrec.image.probe import Header, read_header
from driftrec.jpeg.codec import middle
from driftrec.jpeg.double_compression import earlier_in
from pipeline.inputs.names import name_digest, printable, unsafe
from pipeline.inputs.parquet import Row
from pipeline.inputs.shards import Shard, files_of, not_to_open, rows_of
from pipeline.runs.crashes import Trial
from pipeline.runs.ledger import FAILED, OK, SKIPPED, Ledger
from pipeline.runs.stage import SUMMARY, explain
from pipeline.runs.threads import pooled
from pipeline.storage.base import StorageError, Store, is_of_object
from pipeline.storage.file import StoreFile
from pipeline.storage.local import LocalStore
from pipeline.survey.settings import SurveySettings

NEAR, FAR = 1 << 13, 1 << 16  # bytes asked for at once: of a local disk, of a remote store
READERS = 16  # files of a remote store that are looked at together: each waits for its answers
SIDE = 512  # pixels; of larger images blocking is measured in a window of this side, in their middle

SCHEMA = pa.schema(
    [
        ("key", pa.string()),  # the image's name in the input; unsafe characters escaped
        ("status", pa.string()),  # ok | failed
        ("reason", pa.string()),  # of driftrec.errors.Reason; null where ok
        ("detail", pa.string()),  # one line for people
        ("stage", pa.string()),  # where it showed: read, header, decode; null where ok
        ("bytes", pa.int64()),
        ("format", pa.string()),  # by content; null where it is none that is known
        ("width", pa.int32()),  # pixels, as stored
        ("height", pa.int32()),
        ("mode", pa.string()),  # as stored: L, LA, RGB, RGBA, P, CMYK
        ("depth", pa.int16()),  # bits a sample
        ("components", pa.int16()),  # samples a pixel
        ("progressive", pa.bool_()),  # JPEG only, as are the next three
        ("subsampling", pa.string()),
        ("quality", pa.int16()),  # estimated from the quantisation tables, 1 to 100
        ("exact", pa.bool_()),  # whether these are libjpeg's of that quality
        ("orientation", pa.int8()),  # EXIF's, 1 to 8; null without EXIF
        ("exif", pa.bool_()),
        ("gps", pa.bool_()),
        ("xmp", pa.bool_()),
        ("icc", pa.bool_()),
        ("decoded", pa.bool_()),  # whether the pixels were looked at
        ("bef", pa.float64()),  # blocking effect factor, raw; null where not decoded, as are all that follow
        ("earlier", pa.string()),  # an earlier compression shows: "aligned", "shifted", or "" for no; null: no JPEG
        ("earlier_quality", pa.int16()),  # of that compression
        ("aligned", pa.float32()),  # evidence, of which more than 1 is a verdict
        ("shifted", pa.float32()),
    ]
)
OF_HEADER = [name for name in SCHEMA.names[SCHEMA.get_field_index("format") :] if name in Header.__dataclass_fields__]


class SurveyShard:
    """Looks at shards, one a call; a shard with a ledger part is not looked at again.

    Args:
        settings: of the run.
        share: of the files that are decoded, 0 to 1.
        store: OUTPUT.
    """

    def __init__(self, settings: SurveySettings, share: float, store: Store) -> None:
        self.settings, self.share = settings, share
        self.ledger = Ledger(store, SCHEMA)

    def __call__(self, shard: Shard) -> pa.Table:
        """Look at one shard and write its part. Gives one row of SUMMARY; its `error` is what ends the run."""
        begun = time.perf_counter()
        summary: dict[str, Any] = dict.fromkeys((OK, FAILED, SKIPPED, "pixels", "nfe"), 0)
        summary |= {"shard": shard.id, "computed": False, "worker": str(os.getpid()), "begun": time.time()}
        try:
            if not self.ledger.has(shard.id):
                rows = self._tried(shard)
                self.ledger.commit(shard.id, rows)
                failed = sum(row["status"] == FAILED for row in rows)
                pixels = sum((row.get("width") or 0) * (row.get("height") or 0) for row in rows)
                summary |= {"computed": True, OK: len(rows) - failed, FAILED: failed, "pixels": pixels}
        except DriftRecError as error:
            summary |= {"error": str(error), "full": isinstance(error, StorageFull)}
        return pa.Table.from_pylist([summary | {"seconds": time.perf_counter() - begun}], schema=SUMMARY)

    def rows(self, shard: Shard) -> Iterator[dict[str, Any]]:
        """The rows of a shard, in the order of its images. Raises StorageError if storage as a whole fails."""
        if shard.kind != "files":
            yield from map(self._member, rows_of(shard))
            return
        files: Iterable[tuple[str, int]] = islice(files_of(shard), shard.limit)
        if isinstance(shard.store, LocalStore):
            yield from (self._file(shard.store, *file) for file in files)
            return
        with ThreadPoolExecutor(READERS) as pool:
            yield from pooled(pool, lambda file: self._file(shard.store, *file), files, 2 * READERS)

    def _tried(self, shard: Shard) -> list[dict[str, Any]]:
        """The rows of a shard, whose looker may die; on the next attempt its files go one by one."""
        trial = Trial(self.ledger.store, shard.id, limit_s=0.0)  # nothing is timed
        rows = list(self.rows(shard) if trial.first else self._one_by_one(shard, trial))
        trial.end()
        return rows

    def _one_by_one(self, shard: Shard, trial: Trial) -> Iterator[dict[str, Any]]:
        for name, size, look in self._looks(shard):
            if verdict := trial.verdict(name):
                yield _failed(printable(name), size, "decode", *verdict)
                continue
            trial.begin(name)
            row = look()
            trial.done(name)
            yield row

    def _looks(self, shard: Shard) -> Iterator[tuple[str, int, Callable[[], dict[str, Any]]]]:
        """(name, bytes, what looks at it) of each file of a shard."""
        if shard.kind == "files":
            for file in islice(files_of(shard), shard.limit):
                yield *file, partial(self._file, shard.store, *file)
            return
        for row in rows_of(shard):
            yield row.key, len(row.data), partial(self._member, row)

    def _member(self, row: Row) -> dict[str, Any]:
        """The row of what came with its container."""
        if row.reason:
            return _failed(row.key, len(row.data), "read", Reason(row.reason), row.detail)
        return self._look(row.key, io.BytesIO(row.data), len(row.data))

    def _file(self, store: Store, name: str, size: int) -> dict[str, Any]:
        """The row of a loose file."""
        key = printable(name)
        if why := unsafe(name):
            return _failed(key, size, "read", Reason.unsafe_name, why)
        if refused := not_to_open(store, name):
            return _failed(key, size, "read", *refused)
        local = isinstance(store, LocalStore)
        try:
            return self._look(key, io.BufferedReader(StoreFile(store, name, size), NEAR if local else FAR), size)
        except StorageError as error:
            if not is_of_object(store, name, error):
                raise
            return _failed(key, size, "read", Reason.unreadable, str(error))

    def _look(self, key: str, file: BinaryIO, size: int) -> dict[str, Any]:
        """The row of a file. Raises StorageError."""
        header = read_header(file, size, self.settings.max_pixels)
        row = {name: getattr(header, name) for name in OF_HEADER}
        row |= {"key": key, "bytes": size, "status": OK, "decoded": False}
        if header.reason:
            return row | _why("header", header.reason, header.detail)
        if not self._is_chosen(key):
            return row
        file.seek(0)
        data = file.read()
        try:
            return row | {"decoded": True} | _pixels(data, key, header, self.settings.max_pixels)
        except DriftRecError:
            raise
        except Exception as error:
            return row | _why("decode", *explain(error))

    def _is_chosen(self, key: str) -> bool:
        """Whether its pixels are looked at: a function of the key and the seed."""
        return name_digest(f"{self.settings.seed} {key}") < self.share * 2**64


def _pixels(data: bytes, key: str, header: Header, max_pixels: int) -> dict[str, Any]:
    """The columns of a decoded file. Raises BadImage, or what a defect raises."""
    from driftrec.metrics.blockiness import bef_u8  # brings PyTorch, which headers do not need

    rgb = decode(data, key, max_pixels).in_8_bits().stored
    columns: dict[str, Any] = {"bef": bef_u8(np.ascontiguousarray(rgb[middle(rgb.shape, SIDE)]))}
    if header.format == "JPEG" and (found := earlier_in(data)):
        columns |= {"earlier": found.found, "earlier_quality": found.quality}
        columns |= {"aligned": found.aligned, "shifted": found.shifted}
    return columns


def _failed(key: str, size: int, stage: str, reason: Reason, detail: str) -> dict[str, Any]:
    return {"key": key, "bytes": size, "decoded": False} | _why(stage, reason, detail)


def _why(stage: str, reason: Reason, detail: str) -> dict[str, Any]:
    return {"status": FAILED, "stage": stage, "reason": str(reason), "detail": detail}
