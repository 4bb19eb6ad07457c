"""The restore job: a graph whose stage restores and writes, and the run around it."""

from collections.abc import Generator
from functools import partial

from driftrec.errors import InvalidInput
from driftrec.image import encode
from pipeline.cluster.encoding import SHARE_BESIDE, ByTask
from pipeline.cluster.graph import ACTOR_CPU_SHARE, Graph, Pool, work_through
from pipeline.inputs.collisions import OutputName
from pipeline.inputs.listing import Listing, list_input
from pipeline.inputs.location import check_apart
from pipeline.inputs.names import output_name, output_or_copy
from pipeline.inputs.selection import choice_of
from pipeline.inputs.shards import Shard
from pipeline.job import carry_out, write_page
from pipeline.model_source import Weights, find
from pipeline.restore.settings import RestoreSettings
from pipeline.restore.stage import RestoreShard, resolve
from pipeline.runs.documents import Result, most_shards
from pipeline.runs.run import Run, finish, open_run
from pipeline.runs.stage import Counts
from pipeline.storage import open_store
from pipeline.storage.base import Store

REPORT = "pipeline.restore.report:write_restore_report"


def run_restore(settings: RestoreSettings) -> Result:
    """Restore an input, or what an earlier attempt has left of it. Gives what stands in _RESULT.json.

    Raises InvalidInput before anything is started, DriftRecError if the run fails; `_RESULT.json` tells of the latter.
    """
    run, weights, settings = open_restore(settings)

    def work() -> Result:
        if run.todo:
            work_through(run, _graph(len(run.todo), settings, weights, run.store), settings.progress_s)
        result = finish(run, {"evaluations_per_image": run.effort.evaluations_per_image})
        if settings.report and result["state"] == "done":
            result = write_page(run, result, REPORT, settings.input, settings.output, run.listing.shards, result)
        return result

    return carry_out(run, settings, work, bool(run.todo), settings.report)


def open_restore(settings: RestoreSettings) -> tuple[Run, Weights, RestoreSettings]:
    """List the input, look at the model, open OUTPUT. Raises InvalidInput; starts nothing.

    Gives the run, its model, and the settings with nothing left open.
    """
    listing = list_restore(settings)
    check_apart(listing.source, open_store(settings.output))
    weights = find(settings.model)
    settings = resolve(settings, weights)
    run = open_run(
        "restore",
        settings.output,
        listing,
        settings.public(),
        settings.determining() | {"weights": weights.sha256},
        settings.max_failed,
        retry=settings.retry_failed,
        repair=settings.repair,
        follows=settings.only_listed is None,
    )
    return run, weights, settings


def list_restore(settings: RestoreSettings) -> Listing:
    """The shards of the input, with output names checked."""
    if settings.compare:
        raise InvalidInput("compare is for a single file: give one as INPUT, or leave it out")
    choice = choice_of(settings.include, settings.exclude, settings.only_listed)
    samples = settings.layout == "webdataset"  # whose parts must not be torn
    listing = list_input(
        settings.input,
        settings.shard_bytes,
        settings.shard_images,
        settings.limit,
        _output_name(settings),
        choice,
        cut_tars=not samples,
        most_shards=most_shards(settings.output),
        image_column=settings.image_column,
        clashes_as_rows=settings.on_clash == "row",
    ).bounded(settings.max_file_bytes)
    return listing.carrying() if samples else listing


def graph(
    shards: list[Shard], settings: RestoreSettings, weights: Weights, output: Store
) -> Generator[Counts]:
    """Rows of `runs.stage.SUMMARY`, as the shards are finished."""
    return _graph(len(shards), settings, weights, output).rows(shards, output)


def _graph(shards: int, settings: RestoreSettings, weights: Weights, output: Store) -> Graph:
    by_task = settings.encode_by == "task"
    # The network's thread, those that decode and, where they have not handed it on, those that encode.
    busy = 1.0 + settings.codec_threads * (1 if by_task else 2)
    share = SHARE_BESIDE if by_task else ACTOR_CPU_SHARE
    pool = Pool.fit(settings.actors, settings.cpus_per_actor, settings.gpus_per_actor, shards, share, busy)
    encoder = ByTask(settings.image_timeout_s / 4) if by_task else encode  # waiting counts as work on the image
    arguments = (settings, weights, output, None, encoder)
    return Graph(RestoreShard, arguments, pool, _output_name(settings))


def _output_name(settings: RestoreSettings) -> OutputName:
    """By which outputs are named, and copies where there may be any."""
    skips = settings.skip_above is not None or settings.frames == "skip"
    copies = settings.copy_failed or (skips and settings.skipped == "copy")
    naming = output_or_copy if copies else output_name
    return partial(naming, wanted=settings.format, whole=settings.on_clash == "suffix")
