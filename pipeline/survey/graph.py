"""The Ray Data graph of a survey: shards -> tasks that look at their files and write the ledger part -> rows of counts.

There are no actors: a task needs nothing that is slow to load, and opens loose files where it looks at them, so that no
file travels. Brings no PyTorch, which the tasks' processes would load for nothing.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import ray
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from pipeline.cluster.graph import DEATHS, Graph
from pipeline.inputs.shards import Shard
from pipeline.runs.stage import SUMMARY, Stage
from pipeline.storage.base import Store


class SurveyGraph(Graph):
    """A graph whose read tasks do all the work."""

    def _dataset(self, shards: list[Shard], output: Store) -> ray.data.Dataset:
        return ray.data.read_datasource(
            SurveySource(shards, partial(_looked, self.stage, self.arguments)),
            override_num_blocks=len(shards),
            num_cpus=1,
            ray_remote_args={"max_retries": DEATHS},
        )


class SurveySource(Datasource):
    """A Ray Datasource with one task per shard: `look`, which gives its row of counts."""

    def __init__(self, shards: Sequence[Shard], look: Callable[[Shard], list[pa.Table]]) -> None:
        super().__init__()
        self._shards, self._look = list(shards), look

    def estimate_inmemory_data_size(self) -> int:
        """Bytes of the rows of counts, about."""
        return 200 * len(self._shards)

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: object = None
    ) -> list[ReadTask]:
        """One task per shard, whatever parallelism is asked for."""
        metadata = BlockMetadata(num_rows=1, size_bytes=200, exec_stats=None, input_files=None)
        return [ReadTask(partial(self._look, shard), metadata, schema=SUMMARY) for shard in self._shards]


def _looked(stage: type[Stage[Any]], arguments: tuple[Any, ...], shard: Shard) -> list[pa.Table]:
    return [stage(*arguments)(shard)]
