"""What goes from a read task to a stage: the images of one shard, or why there are none. Knows no Ray."""

import pyarrow as pa

from driftrec.errors import DriftRecError
from pipeline.collisions import OutputName
from pipeline.shards import SCHEMA, Shard, read_shard


def read_block(shard: Shard, output_name: OutputName | None) -> pa.Table:
    """The shard's table; without images, or if storage fails, one row with a null key."""
    problem = ""
    try:
        table = read_shard(shard, output_name)
        if table.num_rows:
            return table
    except DriftRecError as error:
        problem = str(error)  # as data: Ray would bury an exception in its own
    row = {"shard": [shard.id], "key": [None], "reason": [""], "detail": [problem], "data": [b""]}
    return pa.table(row, schema=SCHEMA)


def unreadable(block: pa.Table) -> str:
    """Why a block of ShardSource could not be read and the run cannot go on; "" if it could."""
    return "" if block["key"][0].is_valid else str(block["detail"][0].as_py())
