"""The course that every job with a ledger takes: opened, perhaps finished already, attempted, told of.

A job lists its input, opens OUTPUT (`runs.run.open_run`) and hands over what is to be done; a dry run tells of the same
listing and writes nothing. Must know nothing of one job's settings, stages or pages.
"""

import logging
import pkgutil
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

from pipeline.cluster import connection
from pipeline.inputs.listing import Listing
from pipeline.inputs.location import check_apart
from pipeline.inputs.names import log_tags
from pipeline.runs.claiming import check_output
from pipeline.runs.documents import InputTold, Result
from pipeline.runs.ends import Answer, Exit, attempt
from pipeline.runs.ledger import Ledger
from pipeline.runs.reporter import PAGE, Reporter, Status
from pipeline.runs.run import Run, earlier_result, stop, with_file
from pipeline.settings import Settings, ShardSettings
from pipeline.storage import open_store

log = logging.getLogger(__name__)


def carry_out(
    run: Run,
    settings: ShardSettings,
    work: Callable[[], Result],
    needs_ray: bool,
    report: bool | None = None,
    holds: Callable[[Result], bool] = lambda _: True,
) -> Result:
    """The result of `work`, or that of an earlier attempt that has left nothing to do.

    Args:
        run: opened.
        settings: of the job.
        work: does what is left, ends with `runs.run.finish`, and gives its result.
        needs_ray: whether `work` uses the cluster.
        report: whether OUTPUT gets a page, which tells how far the run is until `work` has written it; None: of no job
            of this kind.
        holds: whether an earlier result is still what is asked for.

    Raises DriftRecError where the run cannot get through; _RESULT.json tells of it.
    """
    if (result := earlier_result(run)) and holds(result):
        log.info("finished already: %s %s", run.store.url, log_tags(run=run.fingerprint))
        return result
    told = "%d shards, %d of them done by an earlier attempt %s"
    log.info(told, len(run.listing.shards), len(run.resumed), log_tags(run=run.fingerprint))
    reporter = Reporter(run, settings, _live_page if report else None)

    def stopped(code: Exit, error: str | None = None) -> Result:
        why = reporter.limit_reached if code == Exit.INTERRUPTED else ""
        return reporter.end(stop(run, code, error or why or None))

    if run.todo and reporter.limit_reached:
        return stopped(Exit.INTERRUPTED)
    ray = connection.connected(partial(stopped, Exit.FAILED)) if needs_ray else nullcontext()
    result = reporter.end(attempt(work, stopped, _both(reporter, ray)))
    if report is False and result["state"] == "done":
        run.store.remove(PAGE)  # of an earlier attempt
    return result


def _live_page(status: Status) -> str:
    """Of a run that is at work: what templates need is loaded then, and not before."""
    return pkgutil.resolve_name("pipeline.reports.live:live_page")(status)


@contextmanager
def _both(outer: AbstractContextManager[Any], inner: AbstractContextManager[None]) -> Generator[None]:
    with outer, inner:
        yield


def finished_shards(output: str, listing: Listing) -> set[str]:
    """Ids of the shards of this listing that OUTPUT has a ledger part of. Raises InvalidInput for an OUTPUT that no run
    could take.
    """
    store = open_store(output)
    check_apart(listing.source, store)
    check_output(store)
    return Ledger(store).committed() & {shard.id for shard in listing.shards}


def dry_run(job: str, settings: Settings, listing: Listing, done: set[str], **extra: Any) -> Answer:
    """What would be done: the input, what of it is done, what else the job tells, its settings. `images` is null while
    tars are unopened.
    """
    told: InputTold = {
        "shards": len(listing.shards),
        "shards_done": len(done),
        "images": listing.images,
        "bytes": sum(shard.size for shard in listing.shards),
        "ignored_files": dict(listing.ignored),
    }
    common = {"job": job, "state": "dry run", "exit_code": int(Exit.DONE)}
    return {**common, **told, **extra, "settings": settings.public()}


def write_page(run: Run, result: Result, writer: str, *given: Any) -> Result:
    """The result of a run that has its page too, made of what is `given` by a function that is named "module:function"
    and not loaded before. Without the page a run is as good.
    """
    try:
        pkgutil.resolve_name(writer)(*given)
        return with_file(run, result, PAGE)
    except Exception as error:
        about = log_tags(run=run.fingerprint)
        log.warning("report.html was not written: %s: %s %s", type(error).__name__, error, about)
        return result
