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
            values = {"key": key, "data": data}
            rows = stage.rows("", pa.table({of.name: [values.get(of.name)] for of in SCHEMA}, schema=SCHEMA))
            return kept.data, rows[0]
        finally:
            stage.settings = before


def what_was_done(row: RestoreRow) -> dict[str, Any]:
    """What of a ledger's row is told of a single image."""
    return {"status": row["status"]} | {name: row[name] for name in SHOWN if row.get(name) is not None}
