"""The files that hold many images, by suffix. A container is added here, beside the module that reads it."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from pipeline.inputs.parquet import parquet_shards
from pipeline.inputs.shards import Cutting, Shard
from pipeline.inputs.tars import tar_shards
from pipeline.storage.base import Store


class Container(NamedTuple):
    """How a kind of container is read."""

    shards: Callable[[Store, str, int, Cutting], Iterator[Shard]]  # of one of this name and size in bytes
    tells_keys: bool  # whether its keys are known when it is listed; else they lie below its own name


CONTAINERS = {
    ".tar": Container(tar_shards, tells_keys=False),
    ".parquet": Container(parquet_shards, tells_keys=True),
}
