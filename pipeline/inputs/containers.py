"""The files that hold many images, by suffix: ours, and what plugins add."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from driftrec.plugins import Table
from pipeline.inputs.parquet import parquet_shards
from pipeline.inputs.shards import Cutting, Shard
from pipeline.inputs.tars import tar_shards
from pipeline.storage.base import Store


class Container(NamedTuple):
    """How a kind of container is read."""

    shards: Callable[[Store, str, int, Cutting], Iterator[Shard]]  # of one of this name and size in bytes
    tells_keys: bool  # whether its keys are known when it is listed; else they lie below its own name


_OURS = {
    ".tar": Container(tar_shards, tells_keys=False),
    ".parquet": Container(parquet_shards, tells_keys=True),
}
CONTAINERS: Table[Container] = Table("container", _OURS)
