"""One image at a time, by what a run's actors have: the pixels are those that a run would make. Knows no Ray."""

import pyarrow as pa

from pipeline.cpus import usable_cpus
from pipeline.inputs.shards import SCHEMA
from pipeline.model_source import Weights
from pipeline.restore.settings import RestoreSettings
from pipeline.restore.stage import RestoreShard, resolve
from pipeline.runs.crashes import Unwatched
from pipeline.runs.ledger import RestoreRow
from pipeline.runs.outputs import Outputs
from pipeline.storage import open_store


class Single:
    """Restores single images, with all of the machine for one at a time. Not for several threads at once.

    Args:
        settings: `format` is what is written; `input` and `output` are not looked at.
        weights: the model.

    Raises DriftRecError if the model cannot be used.
    """

    def __init__(self, settings: RestoreSettings, weights: Weights) -> None:
        self.stage = RestoreShard(resolve(settings, weights), weights, open_store("."))
        if self.stage.broken:
            raise self.stage.broken
        self.stage.watchdog = Unwatched()  # whoever waits may end this process
        self.stage.restorer.threads = usable_cpus()

    def restore(self, key: str, data: bytes, outputs: Outputs, **changes: object) -> RestoreRow:
        """Restore the bytes of a file into `outputs`; the row that a ledger would have of it.

        Args:
            key: the file's name, by which its noise is drawn.
            data: all of it.
            outputs: takes the result.
            changes: of settings that do not concern the network, say `format`.

        Raises DriftRecError if nothing can be written.
        """
        stage, before = self.stage, self.stage.settings
        stage.outputs, stage.settings = outputs, before.model_copy(update=changes)
        try:
            values = {"key": key, "data": data}
            return stage.rows("", pa.table({of.name: [values.get(of.name)] for of in SCHEMA}, schema=SCHEMA))[0]
        finally:
            stage.settings = before
