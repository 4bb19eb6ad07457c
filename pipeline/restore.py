"""The restore graph: shards -> read tasks -> a pool of restoring actors -> a row a shard to the driver.

The driver holds the list of shards and sums; images never come to it.
"""

import logging
import re
import warnings
from collections.abc import Generator
from contextlib import closing, nullcontext
from functools import partial
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext

from driftrec.errors import DriftRecError, StorageFull
from driftrec.restoration import DEFAULTS
from pipeline import cluster
from pipeline.inputs import check_apart
from pipeline.ledger import FAILED, OK
from pipeline.names import output_name
from pipeline.progress import Progress
from pipeline.run import Exit, Interrupted, Run, earlier_result, finish, open_run, stop
from pipeline.settings import FREE_FIELDS, RestoreSettings
from pipeline.shards import Listing, Shard, ShardSource, list_input
from pipeline.stage import RestoreShard, sampling_of
from pipeline.store import Store, redact
from pipeline.weights import Weights, find

log = logging.getLogger(__name__)

READ_CPUS = 0.25  # a read task waits more than it computes
ACTOR_CPU_SHARE = 0.75  # of the cluster's CPUs, all actors together; the rest is for read tasks: neither starves
DIED = (ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError)
RETRIES = 3  # of a read task or of a shard whose worker died; what kills its worker each time ends the run


def run_restore(settings: RestoreSettings) -> dict[str, Any]:
    """Restore an input, or what an earlier attempt has left of it. Gives what stands in _RESULT.json.

    Raises InvalidInput before anything is started, DriftRecError if the run fails; `_RESULT.json` tells of the latter.
    """
    run, weights, settings = open_restore(settings)
    if result := earlier_result(run):
        log.info("finished already: %s", run.store.url)
        return result
    log.info("%d shards, %d of them done by an earlier attempt", len(run.listing.shards), len(run.resumed))
    with cluster.connected() if run.todo else nullcontext():
        try:
            _work(run, settings, weights)
            result = finish(run)
        except (KeyboardInterrupt, Interrupted):
            return stop(run, Exit.INTERRUPTED)  # before Ray is left, which takes longer than a stopped job may have
        except DriftRecError as error:
            stop(run, Exit.FAILED, str(error))
            raise
    if settings.report:
        _report(settings)
    return result


def open_restore(settings: RestoreSettings) -> tuple[Run, Weights, RestoreSettings]:
    """List the input, look at the model, open OUTPUT. Raises InvalidInput; starts nothing.

    Gives the run, its model, and the settings with nothing left open.
    """
    listing = list_restore(settings)
    check_apart(listing.source, Store.open(settings.output))
    weights = find(settings.model)
    settings = resolve(settings, weights)
    run = open_run(
        "restore", settings.output, listing, shown(settings), identity(settings, weights), settings.max_failed
    )
    return run, weights, settings


def resolve(settings: RestoreSettings, weights: Weights) -> RestoreSettings:
    """The settings with the model's recommendations where the user gave none. Raises InvalidInput if the model cannot
    be sampled so.
    """
    sampling = sampling_of(settings).resolve(weights.recommended)
    weights.check(sampling)
    return settings.model_copy(update={name: getattr(sampling, name) for name in DEFAULTS})


def list_restore(settings: RestoreSettings) -> Listing:
    """The shards of the input, with output names checked."""
    return list_input(
        settings.input, settings.shard_bytes, settings.shard_images, settings.limit, _output_name(settings)
    )


def shown(settings: RestoreSettings) -> dict[str, Any]:
    """All settings, fit for run.json: URLs without credentials."""
    urls = {name: redact(getattr(settings, name)) for name in ("input", "output", "model")}
    return settings.model_dump(mode="json") | urls


def identity(settings: RestoreSettings, weights: Weights) -> dict[str, Any]:
    """What determines bytes and shards. The places of input and model do not count, their content does."""
    fixed = settings.model_dump(mode="json", exclude=set(FREE_FIELDS) | {"input", "model"})
    return fixed | {"weights": weights.sha256}


def _work(run: Run, settings: RestoreSettings, weights: Weights) -> None:
    """Run the graph over what is to do. Raises DriftRecError for whatever ends it."""
    if not run.todo:
        return
    progress = Progress(len(run.listing.shards), len(run.resumed), run.listing.images, settings.progress_s)
    try:
        with closing(graph(run.todo, settings, weights, run.store)) as rows:
            for row in rows:
                if row["error"]:
                    raise (StorageFull if row["full"] else DriftRecError)(row["error"])
                run.statuses.update({OK: row[OK], FAILED: row[FAILED]})
                progress.add(row[OK], row[FAILED], row["pixels"])
    except DriftRecError:
        raise
    except Exception as error:
        raise _plain(error) from error
    finally:
        progress.close()


def graph(
    shards: list[Shard], settings: RestoreSettings, weights: Weights, output: Store
) -> Generator[dict[str, Any]]:
    """Rows of `stage.SUMMARY`, as the shards are finished."""
    with warnings.catch_warnings():
        # Copying Ray's options warns of some, and the only way to say how often a dead worker's task is tried again
        # (for ever, if not said) is deprecated in Ray 2.60 without another.
        warnings.simplefilter("ignore", DeprecationWarning)
        with DataContext.current(_context()):
            dataset = _dataset(shards, settings, weights, output)
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
        yield from batch.to_pylist()


def _dataset(shards: list[Shard], settings: RestoreSettings, weights: Weights, output: Store) -> ray.data.Dataset:
    actors, cpus, gpus = _pool(settings, len(shards))
    blocks = ray.data.read_datasource(
        ShardSource(shards, _output_name(settings)),
        override_num_blocks=len(shards),
        num_cpus=READ_CPUS,
        ray_remote_args={"max_retries": RETRIES},
    )
    return blocks.map_batches(
        RestoreShard,
        fn_constructor_args=(settings, weights, output),
        batch_size=None,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=2),
        num_cpus=cpus,
        num_gpus=gpus,
        max_restarts=-1,  # an actor may die often; a shard that kills its actor each time ends the run
        max_task_retries=RETRIES,
    )


def _pool(settings: RestoreSettings, shards: int) -> tuple[int, float, float]:
    """(actors, CPUs of each, GPUs of each). No more actors than shards; together they leave CPUs for the read tasks."""
    cpus, gpus = cluster.resources()
    gpus_each = settings.gpus_per_actor if settings.gpus_per_actor is not None else float(gpus > 0)
    free = int(gpus / gpus_each) if gpus_each else int(cpus)
    actors = min(settings.actors or max(1, free), shards)
    cpus_each = settings.cpus_per_actor or max(0.01, min(1.0, round(ACTOR_CPU_SHARE * cpus / actors, 2)))
    return actors, cpus_each, gpus_each


def _context() -> DataContext:
    """Ray Data's options for our graphs: a block is a shard, and no word but ours."""
    context = DataContext.get_current().copy()
    context.target_max_block_size = None  # or a large tar would be cut into several blocks
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
    return context


def _output_name(settings: RestoreSettings) -> partial[str]:
    return partial(output_name, wanted=settings.format)


def _plain(error: Exception) -> DriftRecError:
    """What ended the graph, in one line where Ray gives pages."""
    if isinstance(error, DIED):
        what = f"a worker died {RETRIES + 1} times on the same shard, out of memory or of an image that crashes it"
    else:
        lines = re.findall(r"^(?!ray\.)(?:\w+\.)*\w*(?:Error|Exception|Exit)\w*: .+", str(error), re.MULTILINE)
        what = f"Ray could not finish the run: {lines[0][:300] if lines else type(error).__name__}"
    return DriftRecError(f"{what}; finished shards are valid, the same command goes on with the rest")


def _report(settings: RestoreSettings) -> None:
    """Write report.html; without it the run is as good."""
    try:
        from pipeline.report import write_restore_report

        write_restore_report(settings.input, settings.output)
    except Exception as error:
        log.warning("report.html was not written: %s: %s", type(error).__name__, error)
