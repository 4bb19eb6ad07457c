"""Shards as a Ray Datasource: one read task, and so one block of one row, a shard."""

from collections.abc import Sequence
from functools import partial

import pyarrow as pa
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from pipeline.cluster.reading import read_in_trial
from pipeline.inputs.blocks import ONE_ROW, as_one_row
from pipeline.inputs.collisions import OutputName
from pipeline.inputs.shards import Shard
from pipeline.storage.base import Store


class ShardSource(Datasource):
    """A Ray Datasource with one read task, and so one block of one row, a shard. Notes on attempts go to `output`."""

    def __init__(self, shards: Sequence[Shard], output: Store, output_name: OutputName | None = None) -> None:
        super().__init__()
        self._shards, self._output = list(shards), output
        self._output_name = output_name

    def estimate_inmemory_data_size(self) -> int:
        """Compressed bytes, which is what the blocks hold."""
        return sum(shard.size for shard in self._shards)

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: object = None
    ) -> list[ReadTask]:
        """One task a shard, whatever parallelism is asked for."""
        return [self._task(shard) for shard in self._shards]

    def _task(self, shard: Shard) -> ReadTask:
        metadata = BlockMetadata(num_rows=1, size_bytes=shard.size, exec_stats=None, input_files=None)
        return ReadTask(partial(_read, shard, self._output_name, self._output), metadata, schema=ONE_ROW)


def _read(shard: Shard, output_name: OutputName | None, output: Store) -> list[pa.Table]:
    """A shard's blocks. A task names this function; a closure would travel whole with each of them."""
    return [as_one_row(read_in_trial(shard, output_name, output))]
