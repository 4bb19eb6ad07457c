"""The Ray Data graph of the jobs that turn an input into files and a ledger: shards -> read tasks -> a pool of actors,
each with one stage -> a row of counts a shard to the driver.

The driver holds the list of shards and sums; images never come to it.
"""

import logging
import re
import time
import warnings
from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, cast

import pyarrow as pa
import ray
import ray.exceptions
from ray._private.worker import global_worker
from ray.data import ActorPoolStrategy, DataContext

from driftrec.errors import DriftRecError, InvalidInput, StorageFull
from pipeline.cluster import connection
from pipeline.cluster.datasource import ShardSource
from pipeline.cluster.metrics import Metrics
from pipeline.cluster.shared_storage import check_shared
from pipeline.inputs.collisions import OutputName
from pipeline.inputs.names import log_tags
from pipeline.inputs.shards import Shard
from pipeline.runs.ledger import FAILED, OK, SKIPPED, rows_in
from pipeline.runs.progress import COLUMNS, Known, Progress
from pipeline.runs.run import Run
from pipeline.runs.settling import settling
from pipeline.runs.stage import Counts, Stage
from pipeline.storage.base import Store

log = logging.getLogger(__name__)

READ_CPUS = 0.25  # a read task waits more than it computes
ACTOR_CPU_SHARE = 0.75  # of the cluster's CPUs, all actors together; the rest is for read tasks: neither starves
DIED = (ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError)
LOST = (  # what another attempt may well not meet again
    ray.exceptions.LocalRayletDiedError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.ObjectLostError,
    ray.exceptions.ObjectStoreFullError,
    ray.exceptions.OutOfDiskError,
    ray.exceptions.RaySystemError,
    ray.exceptions.RpcError,
    ray.exceptions.GetTimeoutError,
    ConnectionError,
)
MOST = 1000  # actors, unless more are asked for by name: an autoscaler's limit may be none
UNKNOWN_GPUS = 16  # actors with a GPU that are asked for where nobody says how many nodes may come
DEATHS = 100  # of workers with the same shard before them: far more than `pipeline.runs.crashes` puts up with


@dataclass(frozen=True)
class Pool:
    """Actors, and what each reserves. Those for which there is no room yet wait for it: an autoscaler brings nodes."""

    actors: int
    cpus: float
    gpus: float

    @classmethod
    def fit(
        cls,
        actors: int | None,
        cpus_each: float | None,
        gpus_each: float | None,
        most: int,
        cpu_share: float = ACTOR_CPU_SHARE,
        busy: float = 1.0,
    ) -> "Pool":
        """A pool for the cluster as it is and may become, where None leaves the choice to us: an actor a GPU, or else
        a CPU.

        Args:
            actors: how many.
            cpus_each: that an actor reserves; by default together `cpu_share` of the cluster's, at most 1, or of an
                actor with a GPU `busy`, where that much of its node's CPUs belongs to its GPU.
            gpus_each: likewise; by default 1 where the cluster has any, or may get some.
            most: actors that there is work for.
            cpu_share: of the cluster's CPUs, or a node's.
            busy: CPUs that an actor keeps busy beside a GPU.

        Raises InvalidInput if this machine, which does not grow, has less than an actor wants.
        """
        reach = connection.reach()
        gpus_each = gpus_each if gpus_each is not None else float(reach.gpus > 0)
        for kind, each, there in (("gpu", gpus_each, reach.gpus), ("cpu", cpus_each or 0.0, reach.cpus)):
            if each > there and not reach.grows:
                found = f"Ray finds {there:g} {kind.upper()}s on this machine"
                raise InvalidInput(f"{kind}s_per_actor is {each:g}, and {found}; leave it out")
        free = int(reach.gpus / gpus_each) or UNKNOWN_GPUS if gpus_each else int(reach.cpus)
        actors = min(actors or max(1, min(free, MOST)), most)
        fair, most_cpus = cpu_share * reach.cpus / actors if reach.cpus else 1.0, 1.0  # none: all are still to come
        if gpus_each and reach.cpus_by_gpu:  # more would leave a GPU without an actor
            fair, most_cpus = min(fair, cpu_share * reach.cpus_by_gpu * gpus_each), busy
        return cls(actors, cpus_each or max(0.01, min(most_cpus, round(fair, 2))), gpus_each)

    def __str__(self) -> str:
        each = [f"{amount:g} {kind}" for amount, kind in ((self.cpus, "CPU"), (self.gpus, "GPU")) if amount]
        return f"{self.actors} actors of {' and '.join(each)}"


@dataclass(frozen=True)
class Graph:
    """What is run over shards."""

    stage: type[Stage[Any]]
    arguments: tuple[Any, ...]  # of the stage
    pool: Pool = Pool(0, 0.0, 0.0)  # none: read tasks do all the work
    output_name: OutputName | None = None  # two keys of a shard on one name: the second is a row with a reason
    others: Mapping[str, Store] = field(default_factory=dict)  # that workers read, by what the user calls them

    def rows(self, shards: list[Shard], output: Store) -> Generator[Counts]:
        """Rows of `runs.stage.SUMMARY`, as the shards are finished. `output`: where notes on attempts go."""
        with warnings.catch_warnings():
            # Copying Ray's options warns of some, and the only way to say how often a dead worker's task is tried again
            # (for ever, if not said) is deprecated in Ray 2.60 without another.
            warnings.simplefilter("ignore", DeprecationWarning)
            with DataContext.current(self._context()):
                dataset = self._dataset(shards, output)
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield from rows_in(cast(pa.Table, batch), Counts)

    def _dataset(self, shards: list[Shard], output: Store) -> ray.data.Dataset:
        blocks = ray.data.read_datasource(
            ShardSource(shards, output, self.output_name),
            override_num_blocks=len(shards),
            num_cpus=READ_CPUS,
            ray_remote_args={"max_retries": DEATHS},
        )
        return blocks.map_batches(
            self.stage,
            fn_constructor_args=self.arguments,
            batch_size=1,  # one row is one shard: see `blocks.as_one_row`
            batch_format="pyarrow",
            zero_copy_batch=True,
            compute=ActorPoolStrategy(size=self.pool.actors, max_tasks_in_flight_per_actor=2),
            num_cpus=self.pool.cpus,
            num_gpus=self.pool.gpus,
            max_restarts=-1,  # an actor may die often; how often on one shard is counted by `pipeline.runs.crashes`
            max_task_retries=DEATHS,
        )

    @staticmethod
    def _context() -> DataContext:
        """Ray Data's options for our graphs: one block per shard, and Ray Data's own messages are off."""
        context = DataContext.get_current().copy()
        context.target_max_block_size = None  # or a large tar would be cut into several blocks
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        for part in ("progress", "execution.operators.map_operator"):  # the latter calls GPUs with CPUs experimental
            logging.getLogger(f"ray.data._internal.{part}").setLevel(logging.ERROR)
        return context


def work_through(run: Run, graph: Graph, progress_s: float) -> None:
    """Run the graph over what is to do. Raises DriftRecError for whatever ends it."""
    run.working, metrics, about = time.monotonic(), Metrics(run), log_tags(run=run.fingerprint)
    progress = Progress(len(run.listing.shards), len(run.resumed), run.listing.images, progress_s, lambda: run.cost)
    try:
        check_shared(run.listing, run.store, run.allow_local, graph.others)
        if graph.pool.actors:
            log.info("asking for %s %s", graph.pool, about)
        with connection.waiting(graph.pool.cpus, graph.pool.gpus):
            _work(run, graph, run.todo, progress, metrics)
        for disputed in settling(run.ledger, run.listing.shards, run.listing.output_name, run.by_shard):
            told = "%d shards are done again: several images have one key or output name %s"
            log.info(told, len(disputed), about)
            again = {shard.id for shard in disputed}
            run.known = Known.of(run.ledger, {shard.id for shard in run.listing.shards} - again)
            _work(run, graph, disputed, progress, metrics)
    except DriftRecError:
        raise
    except Exception as error:
        raise _plain(error) from error
    finally:
        progress.close()


def _work(run: Run, graph: Graph, shards: list[Shard], progress: Progress, metrics: Metrics) -> None:
    with closing(graph.rows(shards, run.store)) as rows:
        for row in rows:
            if row["error"]:
                log.error("a shard ends the run %s", log_tags(run=run.fingerprint, shard=row["shard"]))
                raise (StorageFull if row["full"] else DriftRecError)(row["error"])
            if not run.effort.shards:  # the start of workers tells nothing of how long the rest will take
                run.working = progress.working = _since(row["begun"], at_least=progress.working)
            run.statuses.update({status: row[status] for status in (OK, FAILED, SKIPPED)})
            run.effort.add(row)
            if row["computed"] or row["shard"] in run.again:
                run.known.add(row)
            else:  # whoever wrote the part could not tell us
                run.known.add_part(run.ledger.read_part(row["shard"], COLUMNS))
            metrics.add(row)
            progress.add(row[OK], row[FAILED], row["pixels"], row[SKIPPED])


def _since(epoch_s: float, at_least: float) -> float:
    """A moment that another machine tells, on this one's monotonic clock."""
    return min(time.monotonic(), max(at_least, time.monotonic() - (time.time() - epoch_s)))


def _plain(error: Exception) -> DriftRecError:
    """What ended the graph, in one line where Ray gives pages: the cause's own words, where more is told, and whether
    the same command helps.
    """
    if isinstance(error, DIED):
        what = "workers died time and again on the same shard: out of memory, or killed from outside"
    elif isinstance(error, LOST):
        what = f"Ray lost a part of the cluster: {_words(error)}"
    else:
        told = "no shard is lost, but the same command would end the same way; please report this"
        return DriftRecError(f"Ray could not do the run: {_words(error)}; {_logs()}{told}")
    return DriftRecError(f"{what}; {_logs()}finished shards are valid, the same command goes on with the rest")


def _words(error: BaseException) -> str:
    """The innermost cause in one line: of an error that Ray carries from a worker, the last line of its traceback that
    names one.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error)
    lines = re.findall(r"^(?!ray\.)(?:\w+\.)*\w*(?:Error|Exception|Exit)\w*: .+", text, re.MULTILINE)
    return " ".join((lines[-1] if lines else f"{type(error).__name__}: {text}").split())[:300]


def _logs() -> str:
    """Where Ray tells more."""
    node = global_worker.node if ray.is_initialized() else None
    return f"Ray's logs are in {node.get_logs_dir_path()}; " if node else ""
