"""The evaluate job: references are damaged, restored and scored by two pools of actors, and the ledger is made into
report.parquet, summary.json and report.html.

The graph is references -> read tasks -> a pool of scoring actors -> a row of counts a shard; the scorers call a second
pool, of restoring actors (`pipeline.evaluate.model_pool`).
"""

import logging
import sys
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial

from pipeline.cluster import connection
from pipeline.cluster.graph import ACTOR_CPU_SHARE, Graph, Pool, work_through
from pipeline.evaluate.candidates import find_candidates
from pipeline.evaluate.conditions import conditions_of
from pipeline.evaluate.damaged import FLAG, list_damaged, pair_up
from pipeline.evaluate.evaluation import Evaluation, list_references, open_evaluate
from pipeline.evaluate.metrics import plan_metrics
from pipeline.evaluate.model_pool import RestoringPool, start_pool, stop_pool
from pipeline.evaluate.settings import EvaluateSettings
from pipeline.evaluate.stage import ScoreShard
from pipeline.evaluate.summary import reduce_ledger, summarize
from pipeline.inputs.names import log_tags, output_name
from pipeline.job import carry_out, dry_run, finished_shards, write_page
from pipeline.restore.estimate import sample_images, seconds_per_megapixel
from pipeline.runs.documents import Result
from pipeline.runs.ends import Answer
from pipeline.runs.run import finish

log = logging.getLogger(__name__)

REPORT = "pipeline.evaluate.report:write_evaluate_report"
SHARE_RESTORING, SHARE_SCORING = 0.5, 0.25  # of the cluster's CPUs, where both pools are; the rest is for read tasks


def run_evaluate(settings: EvaluateSettings) -> Result:
    """Evaluate, or what an earlier attempt has left of it. Gives what stands in _RESULT.json.

    Raises InvalidInput before anything is started, DriftRecError if the run fails; `_RESULT.json` tells of the latter.
    """
    evaluation = open_evaluate(settings)
    run = evaluation.run
    pictures = settings.report and bool(evaluation.candidates.models)
    return carry_out(run, settings, partial(_attempt, evaluation), bool(run.todo) or pictures, settings.report)


def _attempt(evaluation: Evaluation) -> Result:
    """Work, sums, reports."""
    run, settings = evaluation.run, evaluation.settings
    with _restoring(evaluation) as (pool, beside):
        if run.todo:
            work_through(run, _graph(evaluation, pool, beside), settings.progress_s)
        reduction = reduce_ledger(evaluation)
        summary = summarize(evaluation, reduction)
        result = finish(run, {name: summary[name] for name in ("warnings", "conditions")})
        if settings.report:
            result = write_page(run, result, REPORT, evaluation, summary, reduction, result, pool)
    return result


def plan_evaluate(settings: EvaluateSettings) -> Answer:
    """What would be done, and about how long it would take. Raises InvalidInput as the run would; writes nothing."""
    conditions, listing, plan = conditions_of(settings), list_references(settings), plan_metrics(settings)
    candidates = find_candidates(settings, conditions, listing.source)
    if files := list_damaged(settings):
        pair_up(listing, files)
    done = finished_shards(settings.output, listing)
    images, megapixels = sample_images(listing, done, settings.max_pixels)
    restoring = {
        model.name: megapixels * len(conditions) * seconds_per_megapixel(model.weights, model.sampling, settings.seed)
        for model in candidates.models
    }
    estimate = {
        "images": images,
        "rows": images * len(conditions) * len(candidates.names),
        "megapixels_to_do": round(megapixels, 2),
        "restoring_seconds_of_one_actor": {name: round(seconds, 1) for name, seconds in restoring.items()},
    }
    extra = {"conditions": [condition.slug for condition in conditions], "candidates": candidates.describe()}
    return dry_run("evaluate", settings, listing, done, **extra, **plan.recipe(), estimate=estimate)


@contextmanager
def _restoring(evaluation: Evaluation) -> Generator[tuple[RestoringPool | None, Pool]]:
    """The restoring actors, and what they reserve; none where there is nothing to restore."""
    settings, models, run = evaluation.settings, evaluation.candidates.models, evaluation.run
    if not models or not (run.todo or settings.report):
        yield None, Pool(0, 0, 0)
        return
    most = run.listing.images or sys.maxsize  # not known while tars are unopened
    size = Pool.fit(settings.actors, settings.cpus_per_actor, settings.gpus_per_actor, most, SHARE_RESTORING)
    log.info("restoring: %s %s", size, log_tags(run=run.fingerprint))
    pool = start_pool(models, settings.seed, settings.max_pixels, size)
    try:
        with connection.waiting(size.cpus, size.gpus):
            yield pool, size
    finally:
        stop_pool(pool)


def _graph(evaluation: Evaluation, pool: RestoringPool | None, beside: Pool) -> Graph:
    settings, shards = evaluation.settings, len(evaluation.run.todo)
    on_cpus = beside.actors > 0 and not beside.gpus
    cpus = int(connection.reach().cpus)
    scorers = settings.scorers or max(1, cpus // 2 if on_cpus else cpus)
    share = ACTOR_CPU_SHARE if pool is None else SHARE_SCORING
    size = Pool.fit(scorers, None, settings.gpus_per_scorer, shards, share)
    threads = settings.threads or 2 + -(-beside.actors // size.actors)  # enough that no restoring actor waits for work
    found = (evaluation.conditions, evaluation.candidates, evaluation.plan)
    given = (settings, *found, pool, evaluation.run.store, threads, evaluation.damaged)
    files = evaluation.candidates.files
    others = {f"--candidate {one.name}": partners.store for one in files for partners in one.partners.values()}
    if evaluation.damaged_files:
        others[FLAG] = evaluation.damaged_files.source.store
    return Graph(ScoreShard, given, size, partial(output_name, wanted="jpeg"), others)
