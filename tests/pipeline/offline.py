"""Jobs without Ray: one stage takes the shards in turn, on the very blocks that read tasks would send."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from driftrec.errors import DriftRecError
from pipeline.cluster import connection, graph
from pipeline.cluster.graph import Graph
from pipeline.inputs.blocks import read_block
from pipeline.inputs.shards import Shard
from pipeline.restore.job import open_restore
from pipeline.restore.settings import RestoreSettings
from pipeline.restore.stage import RestoreShard
from pipeline.runs.run import earlier_result, finish
from pipeline.runs.settling import settling
from pipeline.storage.base import Store
from pipeline.storage.local import LocalStore
from pipeline.survey.graph import SurveyGraph


class Died(BaseException):
    """What stands for the death of a process in the middle of something."""


LIVING = {name: getattr(LocalStore, name) for name in ("_write", "put", "create", "remove")}


def die_at(patch: pytest.MonkeyPatch, moment: int, *names: str) -> None:
    """From now on the call of this number of any of these methods of a LocalStore is the death of the process."""
    calls = itertools.count(1)
    for name in names:

        def dying(self: LocalStore, *given: Any, living: Callable[..., Any] = LIVING[name]) -> Any:
            if next(calls) == moment:
                raise Died
            return living(self, *given)

        patch.setattr(LocalStore, name, dying)


def restore(
    source: object, output: object, each: Callable[[str], None] = lambda _: None, **changes: Any
) -> dict[str, Any]:
    """A run from start to end, or to where `each`, called before every shard, raises."""
    values = {"model": "identity", "report": False} | changes
    run, weights, settings = open_restore(RestoreSettings(input=str(source), output=str(output), **values))
    if result := earlier_result(run):
        return result
    stage, name = RestoreShard(settings, weights, run.store), run.listing.output_name

    def work(shards: list[Any]) -> None:
        for shard in shards:
            each(shard.id)
            row = stage(read_block(shard, name)).to_pylist()[0]
            if row["error"]:
                raise DriftRecError(row["error"])
            run.statuses.update({status: row[status] for status in ("ok", "failed", "skipped")})
            run.effort.add(row)

    work(run.todo)
    for disputed in settling(run.ledger, run.listing.shards, name):
        work(disputed)
    return finish(run)


def ledger(output: Path) -> dict[str, dict[str, Any]]:
    """All rows by key; each key once."""
    rows = [row for part in sorted(output.glob("ledger/*.parquet")) for row in pq.read_table(part).to_pylist()]
    keyed = {row["key"]: row for row in rows}
    assert len(keyed) == len(rows)
    return keyed


def files(folder: Path) -> dict[str, bytes]:
    """Bytes of all files below."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextmanager
def no_ray() -> Iterator[None]:
    """Inside, every job with a ledger runs in this process, one shard after the other."""

    def rows(self: Graph, shards: list[Shard], _: Store) -> Iterator[dict[str, Any]]:
        stage = self.stage(*self.arguments)
        for shard in shards:
            given = shard if isinstance(self, SurveyGraph) else read_block(shard, self.output_name)
            yield from stage(given).to_pylist()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Graph, "rows", rows)
        patch.setattr(graph, "check_shared", lambda *_: None)
        patch.setattr(connection, "connected", lambda *_: nullcontext())
        patch.setattr(connection, "waiting", lambda *_: nullcontext())
        patch.setattr(connection, "reach", lambda: connection.Reach(1.0, 0.0, grows=False))
        yield
