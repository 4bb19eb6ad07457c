"""What goes from a read task to a stage: the images of one shard, or why there are none. Knows no Ray."""

from typing import cast

import pyarrow as pa

from driftrec.errors import DriftRecError
from pipeline.inputs.collisions import OutputName
from pipeline.inputs.shards import SCHEMA, Shard, Source, read_shard

IMAGES = "images"
ONE_ROW = pa.schema([(IMAGES, pa.large_list(pa.struct(list(SCHEMA))))])


def read_block(shard: Shard, output_name: OutputName | None, source: Source | None = None) -> pa.Table:
    """The shard's table, its rows from `source`; without images, or if storage fails, `problem_block`."""
    problem = ""
    try:
        table = read_shard(shard, output_name, source)
        if table.num_rows:
            return table
    except DriftRecError as error:
        problem = str(error)
    return problem_block(shard, problem)


def problem_block(shard: Shard, problem: str) -> pa.Table:
    """One row with a null key, of a shard without images or of what ends the run: as data, for Ray would bury an
    exception in its own.
    """
    row = {"shard": [shard.id], "key": [None], "reason": [""], "detail": [problem], "data": [b""], "beside": [None]}
    return pa.table(row, schema=SCHEMA)


def as_one_row(block: pa.Table) -> pa.Table:
    """A shard as one row. Ray wants to know of a stage with GPUs how many rows a call takes, and gathers blocks until
    it has as many: with one row a shard, one row a call, a call is a shard.
    """
    whole = pa.chunked_array(block.to_struct_array()).combine_chunks()
    whole = pa.concat_arrays(whole.chunks) if isinstance(whole, pa.ChunkedArray) else whole
    return pa.table([pa.LargeListArray.from_arrays(pa.array([0, len(whole)], pa.int64()), whole)], schema=ONE_ROW)


def images_of(block: pa.Table) -> pa.Table:
    """A shard's table, which may come as one row; its bytes are not copied."""
    if block.column_names != [IMAGES]:
        return block
    (images,) = cast("list[pa.LargeListArray[pa.StructType]]", block[IMAGES].chunks)
    return pa.Table.from_struct_array(cast(pa.StructArray, images.flatten()))


def unreadable(block: pa.Table) -> str:
    """Why a block of ShardSource could not be read and the run cannot go on; "" if it could."""
    return "" if block["key"][0].is_valid else str(block["detail"][0].as_py())
