"""report.parquet: the ledger as one table, in the order of the input."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.runs.run import Run

TABLE, SUMMARY = "report.parquet", "summary.json"
ROWS = 50_000  # in a row group


def write_table(run: Run, schema: pa.Schema, add: Callable[[str, pa.Table], None]) -> None:
    """One pass over the ledger: its columns that stand in `schema` go into OUTPUT's report.parquet.

    Args:
        run: whose shards are all done.
        schema: of the table.
        add: takes in the part of each shard, whole, in their order.
    """
    shards = [shard.id for shard in run.listing.shards]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / TABLE
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            waiting: list[pa.Table] = []
            for shard, part in zip(shards, run.ledger.read_parts(shards), strict=True):
                add(shard, part)
                waiting.append(part.select(schema.names))
                if sum(table.num_rows for table in waiting) >= ROWS:
                    writer.write_table(pa.concat_tables(waiting))
                    waiting.clear()
            writer.write_table(pa.concat_tables([schema.empty_table(), *waiting]))
        run.store.put_file(TABLE, path)
