"""What is done: one Parquet part a shard, a row an image. Written last and create-only, so readers trust parts only.

Knows a store and rows; no Ray, no pixels. `seconds` is the one column that differs between two runs of the same work.
"""

import hashlib
import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.names import FORMAT_OF_SUFFIX, SUFFIX_OF_FORMAT, suffix
from pipeline.pooled import pooled
from pipeline.store import PART_PREFIX, PART_SUFFIX, LocalStore, Store

FOLDER, IMAGES = "ledger", "images"
PART = re.compile(r"[0-9a-f]{16}\.parquet")
READERS = 16  # parts read at once
OK, FAILED, SKIPPED = "ok", "failed", "skipped"

SCHEMA = pa.schema(
    [
        ("key", pa.string()),  # the image's name in the input; unsafe characters escaped
        ("status", pa.string()),  # ok | failed | skipped
        ("reason", pa.string()),  # of driftrec.errors.Reason; null where ok
        ("detail", pa.string()),  # one line for people; a note where ok
        ("stage", pa.string()),  # where it failed: read, decode, restore, encode, write; null where ok
        ("input_sha256", pa.string()),
        ("output", pa.string()),  # name in OUTPUT: images/...; null where failed
        ("output_sha256", pa.string()),
        ("width", pa.int32()),  # pixels, upright
        ("height", pa.int32()),
        ("mode", pa.string()),  # of the output: L, LA, RGB, RGBA
        ("quality", pa.int16()),  # JPEG quality estimated from the input's tables; null where it is no JPEG
        ("nfe", pa.int32()),  # evaluations of the network
        ("seconds", pa.float32()),  # decode + restore + encode + write of this image
        ("bef_before", pa.float64()),  # blocking effect factor of the input's pixels, and of the output's
        ("bef_after", pa.float64()),
    ]
)

WRITTEN_SUFFIXES = frozenset(SUFFIX_OF_FORMAT.values()) | frozenset(FORMAT_OF_SUFFIX)


class Ledger:
    """The parts below ledger/ of one OUTPUT."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def commit(self, shard_id: str, rows: Sequence[Mapping[str, Any]]) -> bool:
        """Write the part of a shard unless there is one: True if it is ours, False if another came first."""
        table = pa.Table.from_pylist([dict(row) for row in rows], schema=SCHEMA)
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd")
        return self.store.create(_part(shard_id), sink.getvalue())

    def has(self, shard_id: str) -> bool:
        """Whether the shard's part is there."""
        return self.store.exists(_part(shard_id))

    def committed(self) -> set[str]:
        """Ids of all shards with a part."""
        names = (name.rpartition("/")[2] for name, _ in self.store.list(FOLDER))
        return {name.partition(".")[0] for name in names if PART.fullmatch(name)}

    def read_part(self, shard_id: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of one shard. Raises NotFound if it is not done."""
        data = self.store.read(_part(shard_id))
        return pq.read_table(io.BytesIO(data), columns=list(columns) if columns else None)

    def tally(self, shard_ids: Iterable[str]) -> "Tally":
        """Count the parts of these shards: one pass, 16 bytes of memory a row."""
        tally = Tally()
        columns = ("key", "status", "reason", "output")
        with ThreadPoolExecutor(READERS) as pool:
            for part in pooled(pool, lambda shard_id: self.read_part(shard_id, columns), shard_ids, 2 * READERS):
                tally.add(part)
        return tally


@dataclass
class Tally:
    """Sums over ledger parts."""

    statuses: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    _keys: list[np.ndarray] = field(default_factory=list)
    _outputs: list[np.ndarray] = field(default_factory=list)

    def add(self, part: pa.Table) -> None:
        """Count one part (columns key, status, reason, output)."""
        self.statuses.update(part["status"].to_pylist())
        self.reasons.update(reason for reason in part["reason"].to_pylist() if reason)
        self._keys.append(_digests(part["key"].to_pylist()))
        self._outputs.append(_digests(name for name in part["output"].to_pylist() if name))

    @property
    def rows(self) -> int:
        """Images accounted for."""
        return self.statuses.total()

    @property
    def repeated(self) -> int:
        """Rows whose key another row has already."""
        keys = np.concatenate([np.empty(0, np.uint64), *self._keys])
        return len(keys) - len(np.unique(keys))

    def outputs(self) -> np.ndarray:
        """Sorted 64-bit digests of all output names."""
        return np.sort(np.concatenate([np.empty(0, np.uint64), *self._outputs]))


def sweep(store: Store, outputs: np.ndarray) -> int:
    """Remove what a killed attempt left: images that no row names, and unfinished puts; how many these were.

    `outputs` is Tally.outputs(). Only names that a run itself makes are touched: output suffixes below images/, and
    the parts of unfinished local puts.
    """
    removed = 0
    for folder in (IMAGES, FOLDER):
        leftovers = (name for name, _ in store.list(folder) if _is_leftover(store, folder, name, outputs))
        for name in leftovers:
            store.remove(name)
            removed += 1
    return removed


def _is_leftover(store: Store, folder: str, name: str, outputs: np.ndarray) -> bool:
    last = name.rpartition("/")[2]
    if isinstance(store, LocalStore) and last.startswith(PART_PREFIX) and last.endswith(PART_SUFFIX):
        return True
    if folder != IMAGES or suffix(name) not in WRITTEN_SUFFIXES:
        return False
    digest = _digest(name)
    at = int(np.searchsorted(outputs, digest))
    return at == len(outputs) or outputs[at] != digest


def _part(shard_id: str) -> str:
    return f"{FOLDER}/{shard_id}.parquet"


def _digest(name: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big"))


def _digests(names: Iterable[str]) -> np.ndarray:
    return np.fromiter((_digest(name) for name in names), np.uint64)
