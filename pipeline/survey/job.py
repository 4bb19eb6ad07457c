"""The survey job: what is in an archive, read from the files' headers and from the pixels of some of them.

One pass over the ledger makes report.parquet, summary.json and the page; what a restore would cost is measured last.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from functools import partial

from driftrec.errors import DriftRecError
from driftrec.restoration.options import Sampling
from pipeline.cluster.graph import work_through
from pipeline.inputs.listing import Listing, list_input
from pipeline.inputs.location import check_apart
from pipeline.inputs.shards import Shard, rows_of
from pipeline.job import carry_out, dry_run, finished_shards, write_page
from pipeline.model_source import Weights
from pipeline.reports.table import SUMMARY, TABLE
from pipeline.runs.documents import Result, most_shards
from pipeline.runs.ends import Answer
from pipeline.runs.ledger import FOLDER
from pipeline.runs.run import Run, finish, open_run
from pipeline.settings import Values
from pipeline.storage import open_store
from pipeline.survey.cost import WholeSummary, estimate, find_model
from pipeline.survey.graph import SurveyGraph
from pipeline.survey.settings import COST_FIELDS, SurveySettings
from pipeline.survey.stage import SCHEMA, SurveyRow, SurveyShard
from pipeline.survey.summary import reduce_ledger, summarize

log = logging.getLogger(__name__)

REPORT = "pipeline.survey.report:write_survey_report"
EXAMPLES = 12  # files that are shown, and measured with
# Of summary.json.
ON_STDOUT = ("files", "sound", "damaged", "megapixels", "formats", "compressed_before", "once_jpeg", "cost")


def run_survey(settings: SurveySettings) -> Result:
    """Survey an input, or what an earlier attempt has left of it. Gives what stands in _RESULT.json.

    Raises InvalidInput before anything is started, DriftRecError if the run fails; `_RESULT.json` tells of the latter.
    """
    listing = _list(settings)
    check_apart(listing.source, open_store(settings.output))
    model = find_model(settings) if settings.calibration_s else None
    share = _share(settings, listing)
    fixed = settings.determining("pixels") | {"share": share}
    given = (settings.output, listing, settings.public(), fixed, settings.max_failed)
    run = open_run("survey", *given, schema=SCHEMA, folders=(FOLDER,), at_end=(TABLE, SUMMARY))
    asked = settings.model_dump(mode="json", include=set(COST_FIELDS))
    work = partial(_attempt, run, settings, share, model, asked)
    needs_ray = bool(run.todo) or model is not None
    return carry_out(run, settings, work, needs_ray, settings.report, holds=lambda result: result.get("asked") == asked)


def plan_survey(settings: SurveySettings) -> Answer:
    """What would be done. Raises InvalidInput as the run would; writes nothing."""
    listing = _list(settings)
    if settings.calibration_s:
        find_model(settings)
    done = finished_shards(settings.output, listing)
    return dry_run("survey", settings, listing, done, share_decoded=_share(settings, listing))


def _list(settings: SurveySettings) -> Listing:
    sizes, bound = (settings.shard_bytes, settings.shard_images, settings.limit), most_shards(settings.output)
    return list_input(settings.input, *sizes, cut_tars=True, most_shards=bound, image_column=settings.image_column)


def _share(settings: SurveySettings, listing: Listing) -> float:
    return settings.share(listing.images, sum(shard.size for shard in listing.shards))


def _attempt(
    run: Run, settings: SurveySettings, share: float, model: tuple[Weights, Sampling] | None, asked: Values
) -> Result:
    """Work, sums, reports."""
    if run.todo:
        work_through(run, SurveyGraph(SurveyShard, (settings, share, run.store)), settings.progress_s)
    survey = reduce_ledger(run)
    examples = survey.examples(EXAMPLES)
    files = read_files({shard.id: shard for shard in run.listing.shards}, examples)
    cost = estimate(settings, model, survey, [(row["key"], data) for row, data in files])
    summary: WholeSummary = {**summarize(run, survey, share), "cost": cost}
    run.store.put(SUMMARY, json.dumps(summary, indent=1, allow_nan=False, ensure_ascii=False).encode())
    result = finish(run, {name: summary[name] for name in ON_STDOUT if name in summary} | {"asked": asked})
    if settings.report:
        result = write_page(run, result, REPORT, run, summary, survey, files, result)
    return result


def read_files(shards: dict[str, Shard], rows: Sequence[tuple[str, SurveyRow]]) -> list[tuple[SurveyRow, bytes]]:
    """(row, bytes) of the files of these (shard, row) pairs, in their order; what is gone is left out."""
    wanted: dict[str, set[str]] = {}
    for shard, row in rows:
        wanted.setdefault(shard, set()).add(row["key"])
    found: dict[str, bytes] = {}
    for shard, keys in wanted.items():
        try:
            found |= dict(_files(shards[shard], keys))
        except DriftRecError as error:
            log.warning("examples: %s", error)
    return [(row, found[row["key"]]) for _, row in rows if row["key"] in found]


def _files(shard: Shard, keys: set[str]) -> Iterator[tuple[str, bytes]]:
    return ((row.key, bytes(row.data)) for row in rows_of(shard.narrowed(keys)) if row.key in keys and not row.reason)
