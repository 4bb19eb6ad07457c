"""An evaluation, found and checked: references, conditions, candidates, metrics and OUTPUT. Starts nothing."""

from dataclasses import dataclass
from functools import partial

from driftrec.errors import InvalidInput
from pipeline.evaluate.candidates import JPEG, Candidates, find_candidates
from pipeline.evaluate.conditions import Condition, conditions_of
from pipeline.evaluate.damaged import Damaged, list_damaged, pair_up
from pipeline.evaluate.metrics import Plan, plan_metrics
from pipeline.evaluate.set_features import FOLDER as SETS
from pipeline.evaluate.settings import EvaluateSettings
from pipeline.evaluate.stage import ledger_schema
from pipeline.inputs.listing import Listing, list_input
from pipeline.inputs.location import check_apart
from pipeline.inputs.names import output_name
from pipeline.reports.table import SUMMARY, TABLE
from pipeline.runs.documents import most_shards
from pipeline.runs.ledger import FOLDER
from pipeline.runs.run import Run, open_run
from pipeline.settings import Values
from pipeline.storage import open_store

# Settings whose content counts, not where or how it was given.
DAMAGE = ("quality", "second_quality", "subsampling", "shift")  # of which the conditions are made


@dataclass(frozen=True)
class Evaluation:
    """One attempt at one evaluation, with everything found that it needs."""

    run: Run
    settings: EvaluateSettings
    conditions: tuple[Condition, ...]
    candidates: Candidates
    plan: Plan
    damaged: Damaged | None = None  # files that were given
    damaged_files: Listing | None = None  # all of them

    @property
    def main(self) -> str:
        """The candidate whose pictures are shown: the first that is not the damaged image, if there is one."""
        names = self.candidates.names
        return names[1 if self.candidates.jpeg and len(names) > 1 else 0]

    @property
    def baseline(self) -> str | None:
        """What it is measured from."""
        return JPEG if self.candidates.jpeg and self.main != JPEG else None


def open_evaluate(settings: EvaluateSettings) -> Evaluation:
    """List the references, find metrics and candidates, open OUTPUT. Raises InvalidInput; starts nothing."""
    conditions = conditions_of(settings)
    listing = list_references(settings)
    check_apart(listing.source, open_store(settings.output))
    files = list_damaged(settings)
    if files:
        check_apart(files.source, open_store(settings.output))
    damaged = pair_up(listing, files) if files else None
    plan = plan_metrics(settings)
    candidates = find_candidates(settings, conditions, listing.source)
    run = open_run(
        "evaluate",
        settings.output,
        listing,
        settings.public(),
        identity(settings, conditions, candidates, plan) | ({"damaged": damaged.digest} if damaged else {}),
        settings.max_failed,
        schema=ledger_schema(plan),
        rows_per_image=len(conditions) * len(candidates.names),
        folders=(FOLDER, SETS),
        at_end=(TABLE, SUMMARY),
        by_shard=(SETS,) if plan.sets else (),
    )
    return Evaluation(run, settings, conditions, candidates, plan, damaged, files)


def list_references(settings: EvaluateSettings) -> Listing:
    """The shards of the references; two of them on one name but for the suffix are refused."""
    name, bound = partial(output_name, wanted="jpeg"), most_shards(settings.output)
    sizes = settings.shard_bytes, settings.shard_images, settings.limit
    try:
        listing = list_input(settings.reference, *sizes, name, most_shards=bound, image_column=settings.image_column)
        return listing.bounded(settings.max_file_bytes)
    except InvalidInput as error:
        raise InvalidInput(str(error).replace("INPUT ", "REFERENCE ", 1)) from None


def identity(
    settings: EvaluateSettings, conditions: tuple[Condition, ...], candidates: Candidates, plan: Plan
) -> Values:
    """What determines the rows. The places of files do not count, their content does."""
    fixed = settings.determining(*DAMAGE)
    slugs = [condition.slug for condition in conditions]
    return fixed | {"conditions": slugs} | candidates.identity() | plan.identity()
