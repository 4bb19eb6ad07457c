"""What all stages share: a shard of compressed images in, a ledger part written last, a row of counts out.

Plain Python, testable without Ray.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import torch

from driftrec.errors import BadImage, DriftRecError, Reason, StorageFull
from pipeline.ledger import FAILED, OK, SCHEMA, Ledger
from pipeline.shards import unreadable
from pipeline.store import Store

log = logging.getLogger(__name__)

Row = Mapping[str, Any]
SUMMARY = pa.schema(
    [
        ("shard", pa.string()),
        ("computed", pa.bool_()),  # false where a part was there already
        (OK, pa.int64()),  # images
        (FAILED, pa.int64()),  # images with a row that failed
        ("pixels", pa.int64()),
        ("seconds", pa.float64()),
        ("error", pa.string()),  # why the run cannot go on; null if it can. Ray would bury an exception in its own
        ("full", pa.bool_()),  # whether that is for want of room
    ]
)


class ShardStage:
    """Works on shards, one a call; a shard with a ledger part is not computed again. Subclasses say what `rows` are.

    Args:
        store: OUTPUT.
        schema: of a ledger part.
    """

    def __init__(self, store: Store, schema: pa.Schema = SCHEMA) -> None:
        self.store, self.ledger = store, Ledger(store, schema)
        self.broken: DriftRecError | None = None  # why no shard can be worked on

    def rows(self, shard: str, table: pa.Table) -> Sequence[Row]:
        """The part of one shard (a block of `pipeline.shards`). Raises DriftRecError if the run cannot go on."""
        raise NotImplementedError

    def __call__(self, table: pa.Table) -> pa.Table:
        """Work on one shard and write its part. Gives one row of SUMMARY.

        A bad image is a row of the part; what the run cannot survive is the summary's `error`, and there is no part.
        """
        begun = time.perf_counter()
        shard = table["shard"][0].as_py()
        summary: dict[str, Any] = {"shard": shard, "computed": False, OK: 0, FAILED: 0, "pixels": 0}
        try:
            summary |= self._shard(shard, table)
        except DriftRecError as error:
            summary |= {"error": str(error), "full": isinstance(error, StorageFull)}
        return pa.Table.from_pylist([summary | {"seconds": time.perf_counter() - begun}], schema=SUMMARY)

    def _shard(self, shard: str, table: pa.Table) -> dict[str, Any]:
        """The shard's columns of the summary. Raises DriftRecError if the run cannot go on."""
        if self.broken:
            raise self.broken
        if self.ledger.has(shard):
            return {"computed": False}
        if problem := unreadable(table):
            raise DriftRecError(problem)
        rows = self.rows(shard, table)
        self.ledger.commit(shard, rows)
        keys, failed = {row["key"] for row in rows}, {row["key"] for row in rows if row["status"] == FAILED}
        pixels = sum((row.get("width") or 0) * (row.get("height") or 0) for row in rows)
        return {"computed": True, OK: len(keys) - len(failed), FAILED: len(failed), "pixels": pixels}


def explain(error: Exception) -> tuple[Reason, str]:
    """(reason, one line) of what went wrong with one image."""
    if isinstance(error, BadImage):
        return error.reason, error.detail
    text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "not enough memory" in text:
        return Reason.out_of_memory, text
    log.error("an image failed with %s", text, exc_info=error)
    return Reason.internal, text
