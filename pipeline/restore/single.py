"""One image at a time, by what a run's actors have: the pixels are those that a run would make. Knows no Ray."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from driftrec.restoration.restorer import Restorer
from pipeline.cpus import usable_cpus
from pipeline.inputs.shards import SCHEMA
from pipeline.model_source import Weights
from pipeline.restore.settings import RestoreSettings
from pipeline.restore.stage import RestoreShard, resolve
from pipeline.runs.crashes import Unwatched
from pipeline.runs.ledger import RestoreRow
from pipeline.storage import open_store

SHOWN = ("width", "height", "quality", "nfe", "reason", "detail")  # of a ledger row


class Kept:
    """Takes the one output of a picture, and keeps it."""

    def __init__(self) -> None:
        self.data = b""

    def put(self, name: str, data: bytes, beside: Mapping[str, bytes] = {}) -> str:
        """Take it."""
        self.data = data
        return name

    def close(self) -> None:
        """Nothing is left to do."""


class Single:
    """Restores single images, with all of the machine for one at a time. Not for several threads at once.

    Args:
        settings: `format` is what is written; `input` and `output` are not looked at.
        weights, restorer: the model, as `find_opened` gives it.

    Raises InvalidInput if it cannot be sampled so.
    """

    def __init__(self, settings: RestoreSettings, weights: Weights, restorer: Restorer) -> None:
        self.stage = RestoreShard(resolve(settings, weights), weights, open_store("."), restorer)
        self.stage.watchdog = Unwatched()  # whoever waits may end this process
        self.stage.restorer.threads = usable_cpus()

    def restore(self, key: str, data: bytes, **changes: object) -> tuple[bytes, RestoreRow]:
        """Restore the bytes of a file: the restored file, b"" where there is none, and the row of a ledger.

        Args:
            key: the file's name, by which its noise is drawn.
            data: all of it.
            changes: of settings that do not concern the network, say `format`.
        """
        stage, before, kept = self.stage, self.stage.settings, Kept()
        stage.outputs, stage.settings = kept, before.model_copy(update=changes)
        try:
            (row,) = stage.rows("", one_image(key, data))
            return kept.data, row
        finally:
            stage.settings = before


def one_image(key: str, data: bytes) -> pa.Table:
    """A block of one image, of its buffers: all else that makes one imports pandas, a sixth of a second."""

    def column(kind: pa.DataType, value: bytes, width: int) -> "pa.Array[Any]":
        ends = b"".join(end.to_bytes(width, "little") for end in (0, len(value)))
        return pa.Array.from_buffers(kind, 1, [None, pa.py_buffer(ends), pa.py_buffer(value)])

    columns = {of.name: pa.nulls(1, of.type) for of in SCHEMA}
    columns |= {"key": column(pa.string(), key.encode(), 4), "data": column(pa.large_binary(), data, 8)}
    return pa.Table.from_arrays(list(columns.values()), schema=SCHEMA)


def what_was_done(row: RestoreRow) -> dict[str, Any]:
    """What of a ledger's row is told of a single image."""
    return {"status": row["status"]} | {name: row[name] for name in SHOWN if row.get(name) is not None}
