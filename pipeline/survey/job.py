"""The survey job: what is in an archive, read from the files' headers and from the pixels of some of them.

One pass over the ledger makes report.parquet, summary.json and the page; what a restore would cost is measured last.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from driftrec.errors import DriftRecError
from driftrec.restoration.options import Sampling
from pipeline.cluster import connection
from pipeline.cluster.graph import work
from pipeline.inputs.listing import Listing, list_input
from pipeline.inputs.location import check_apart
from pipeline.inputs.names import printable
from pipeline.inputs.shards import Shard, files_of, rows_of
from pipeline.model_source import Weights
from pipeline.runs.ledger import FOLDER, Ledger
from pipeline.runs.run import Run, attempt, earlier_result, fail, finish, open_run
from pipeline.runs.run import plan as plan_run
from pipeline.runs.table import SUMMARY, TABLE
from pipeline.storage import open_store
from pipeline.survey.cost import estimate, find_model
from pipeline.survey.graph import SurveyGraph
from pipeline.survey.settings import COST_FIELDS, SurveySettings
from pipeline.survey.stage import SCHEMA, SurveyShard
from pipeline.survey.summary import Survey, reduce_ledger, summarize

log = logging.getLogger(__name__)

EXAMPLES = 12  # files that are shown, and measured with
ON_STDOUT = ("files", "sound", "damaged", "megapixels", "formats", "compressed_before", "cost")  # of summary.json


def run_survey(settings: SurveySettings) -> dict[str, Any]:
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
    if (result := earlier_result(run)) and result.get("asked") == asked:
        log.info("finished already: %s", run.store.url)
        return result
    session = connection.connected(partial(fail, run)) if run.todo or model else None
    return attempt(run, partial(_attempt, run, settings, share, model, asked), session)


def plan_survey(settings: SurveySettings) -> dict[str, Any]:
    """What would be done. Raises InvalidInput as the run would; writes nothing."""
    listing = _list(settings)
    if settings.calibration_s:
        find_model(settings)
    done = Ledger(open_store(settings.output)).committed() & {shard.id for shard in listing.shards}
    told = {"job": "survey", "state": "dry run", "exit_code": 0, **plan_run(listing, done)}
    return told | {"share_decoded": _share(settings, listing), "settings": settings.public()}


def _list(settings: SurveySettings) -> Listing:
    return list_input(settings.input, settings.shard_bytes, settings.shard_images, settings.limit, cut_tars=True)


def _share(settings: SurveySettings, listing: Listing) -> float:
    return settings.share(listing.images, sum(shard.size for shard in listing.shards))


def _attempt(
    run: Run, settings: SurveySettings, share: float, model: tuple[Weights, Sampling] | None, asked: dict[str, Any]
) -> dict[str, Any]:
    """Work, sums, reports."""
    if run.todo:
        work(run, SurveyGraph.over(SurveyShard(settings, share, run.store)), settings.progress_s)
    survey = reduce_ledger(run)
    examples = survey.examples(EXAMPLES)
    files = read_files({shard.id: shard for shard in run.listing.shards}, examples)
    summary = summarize(run, survey, share)
    summary["cost"] = estimate(settings, model, survey, [(row["key"], data) for row, data in files])
    run.store.put(SUMMARY, json.dumps(summary, indent=1, allow_nan=False, ensure_ascii=False).encode())
    result = finish(run, {name: summary[name] for name in ON_STDOUT if name in summary} | {"asked": asked})
    if settings.report:
        _write_page(run, summary, survey, files, result)
    return result


def read_files(
    shards: dict[str, Shard], rows: Sequence[tuple[str, dict[str, Any]]]
) -> list[tuple[dict[str, Any], bytes]]:
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
    if shard.kind == "files":
        names = {printable(name): name for name, _ in files_of(shard)}
        yield from ((key, shard.store.read(names[key])) for key in sorted(keys & names.keys()))
    else:
        yield from ((row.key, bytes(row.data)) for row in rows_of(shard) if row.key in keys)


def _write_page(
    run: Run,
    summary: dict[str, Any],
    survey: Survey,
    files: Sequence[tuple[dict[str, Any], bytes]],
    result: dict[str, Any],
) -> None:
    """Write report.html; without it the run is as good."""
    try:
        from pipeline.survey.report import write_survey_report

        write_survey_report(run, summary, survey, files, result)
    except Exception as error:
        log.warning("report.html was not written: %s: %s", type(error).__name__, error)
