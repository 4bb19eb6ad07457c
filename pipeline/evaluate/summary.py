"""What an evaluation comes to: the ledger as report.parquet, and means, counts and the exact recipe as summary.json."""

import json
import math
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np
import pyarrow as pa
from PIL import features

from driftrec.metrics import SET_METRICS, higher_is_better
from pipeline.evaluate.candidates import JPEG, CandidateTold
from pipeline.evaluate.conditions import NONE
from pipeline.evaluate.damaged import without_reference
from pipeline.evaluate.evaluation import Evaluation
from pipeline.evaluate.metrics import PlanTold, Score, column_of, describe, score_of
from pipeline.evaluate.presets import PRESETS, published_under
from pipeline.evaluate.published import PublishedTold
from pipeline.evaluate.reduction import Reduction
from pipeline.evaluate.set_features import SetScore, set_scores
from pipeline.evaluate.stage import ledger_schema
from pipeline.inputs.names import Renamed, name_digests
from pipeline.reports.table import SUMMARY, write_table
from pipeline.runs.documents import package_versions
from pipeline.runs.ledger import OK, texts

FEW = 50  # images, of which KID says little
NOT_REPORTED = "seconds"  # of the ledger's columns: it differs from run to run
OF_METRICS = ("lpips", "piq", "dists-pytorch", "pyiqa")
PACKAGES = ("torch", "torchvision", *OF_METRICS, "numpy", "scipy", "pillow", "pyarrow", "ray")


class CandidateRow(TypedDict):
    """A row of a table: what one candidate reached."""

    candidate: str
    ok: int  # images
    failed: int
    metrics: dict[str, Score]  # by column
    nfe_mean: float | None  # evaluations of the network an image; None: no model of ours
    seconds_mean: float | None
    jpeg_bytes_mean: float | None  # of the damaged files


class Table(TypedDict):
    """What all candidates reached under a condition."""

    condition: str  # its slug
    label: str
    quality: int | None  # None: nothing is damaged
    second_quality: int | None
    subsampling: str | None
    shift: int  # pixels, the most that is cut off
    candidates: list[CandidateRow]
    published: list[PublishedTold]  # of the preset's table, in the metrics that are here


class PresetTold(TypedDict):
    """The published table that was asked for."""

    name: str
    about: str
    published: str  # in words: whose rows there are, and of how many images


class ReasonCount(TypedDict):
    """Rows of one candidate that failed for one reason."""

    candidate: str
    reason: str
    rows: int


class Unmatched(TypedDict):
    """Files of a candidate that belong to no reference."""

    candidate: str
    condition: str
    files: int
    first: list[str]  # names of some


class Failures(TypedDict):
    """What has no score."""

    rows: int
    reasons: list[ReasonCount]
    files_without_reference: list[Unmatched]


class Intervals(TypedDict):
    """How the intervals are made."""

    method: str
    level: float
    resamples: int
    seed: int


class Recipe(PlanTold):
    """Everything that one must know to get the same numbers."""

    fingerprint: str
    seed: int
    jpeg: str  # the encoder and its version
    shift: str  # in words
    intervals: Intervals
    versions: dict[str, str | None]  # of packages
    machine: str


class Summary(TypedDict):
    """summary.json."""

    job: str
    reference: str  # URL
    output: str
    images: int
    main: str  # the candidate whose pictures are shown
    warnings: list[str]
    conditions: list[Table]
    candidates: list[CandidateTold]
    failures: Failures
    recipe: Recipe
    preset: PresetTold | None


SetScores = Mapping[str, Mapping[str, Mapping[str, SetScore]]]  # by condition, candidate and metric


def reduce_ledger(evaluation: Evaluation) -> Reduction:
    """One pass over the ledger: report.parquet is written and the sums are taken."""
    run, settings, plan = evaluation.run, evaluation.settings, evaluation.plan
    reduction = Reduction(
        [condition.slug for condition in evaluation.conditions],
        evaluation.candidates.names,
        plan,
        settings.bootstrap,
        settings.seed,
        evaluation.main,
        evaluation.baseline,
    )
    schema = pa.schema([field for field in ledger_schema(plan) if field.name != NOT_REPORTED])
    write_table(run, schema, reduction.add)
    return reduction


def summarize(evaluation: Evaluation, reduction: Reduction) -> Summary:
    """Write summary.json, and give it."""
    run, candidates = evaluation.run, evaluation.candidates
    shards = [shard.id for shard in run.listing.shards]
    sets = {one.slug: found for one, found in set_scores(run.store, shards, evaluation.conditions, evaluation.plan)}
    unmatched = _unmatched(evaluation)
    summary: Summary = {
        "job": "evaluate",
        "reference": run.listing.source.url,
        "output": run.store.url,
        "images": reduction.images,
        "main": evaluation.main,
        "warnings": [*_warnings(reduction, sets, unmatched), *_of_other_images(evaluation, reduction)],
        "conditions": _conditions(evaluation, reduction, sets),
        "candidates": candidates.describe(),
        "failures": {
            "rows": sum(reduction.reasons.values()),
            "reasons": _by_reason(reduction),
            "files_without_reference": unmatched,
        },
        "recipe": _recipe(evaluation),
        "preset": _preset(evaluation.settings.preset),
    }
    run.store.put(SUMMARY, json.dumps(summary, indent=1, allow_nan=False, ensure_ascii=False).encode())
    return summary


def _conditions(evaluation: Evaluation, reduction: Reduction, sets: SetScores) -> list[Table]:
    """A table a condition: what each candidate reached."""
    tables: list[Table] = []
    columns = {metric: column_of(metric) for metric in evaluation.plan.names}
    for condition in evaluation.conditions:
        rows = [
            _candidate(evaluation, reduction, condition.slug, name, sets.get(condition.slug, {}).get(name, {}))
            for name in evaluation.candidates.names
        ]
        _mark_best(evaluation, reduction, condition.slug, rows)
        tables.append(
            {
                "condition": condition.slug,
                "label": condition.label,
                "quality": condition.quality,
                "second_quality": condition.second_quality,
                "subsampling": condition.subsampling or None,
                "shift": condition.crop,
                "candidates": rows,
                "published": published_under(evaluation.settings.preset, condition.slug, columns),
            }
        )
    return tables


def _candidate(
    evaluation: Evaluation, reduction: Reduction, condition: str, name: str, sets: Mapping[str, SetScore]
) -> CandidateRow:
    """One row of a table."""
    cell, plan, metrics = reduction.cell(condition, name), evaluation.plan, dict[str, Score]()
    for number, column in enumerate(plan.columns):
        metrics[column] = reduction.mean(number, cell)
        if evaluation.baseline and name != evaluation.baseline:
            baseline = reduction.cell(condition, evaluation.baseline)
            metrics[column]["gain"] = reduction.difference(number, cell, baseline)
    metrics |= {metric: _finite(sets[metric]) for metric in plan.sets if metric in sets}
    ok = int(reduction.ok[cell])
    return {
        "candidate": name,
        OK: ok,
        "failed": reduction.images - ok,
        "metrics": metrics,
        "nfe_mean": reduction.cost("nfe", cell),
        "seconds_mean": reduction.cost("seconds", cell),
        "jpeg_bytes_mean": reduction.cost("jpeg_bytes", cell),
    }


def _mark_best(evaluation: Evaluation, reduction: Reduction, condition: str, rows: Sequence[CandidateRow]) -> None:
    """Say of each metric who is best, and of pair metrics who cannot be told from the best."""
    for number, metric in enumerate((*evaluation.plan.pairs, *evaluation.plan.sets)):
        column = column_of(metric)
        known = {row["candidate"]: score_of(row["metrics"].get(column)) for row in rows}
        values = {name: value for name, value in known.items() if value is not None}
        if len(values) < 2:
            continue
        best = (max if higher_is_better(metric) else min)(values, key=lambda name: values[name])
        for row in rows:
            if known[row["candidate"]] == values[best]:
                row["metrics"][column]["best"] = True
            elif row["candidate"] in values and metric in evaluation.plan.pairs:
                cells = (reduction.cell(condition, name) for name in (best, row["candidate"]))
                apart = reduction.difference(number, *cells)
                row["metrics"][column]["tied"] = apart is not None and apart["low"] <= 0 <= apart["high"]


def _finite(score: SetScore) -> Score:
    """A set metric whose value may have come out as nan: JSON has none."""
    value = score["value"]
    return {**score, "value": value if value is not None and math.isfinite(value) else None}


def _by_reason(reduction: Reduction) -> list[ReasonCount]:
    """How many images failed why, with which candidate; most first."""
    counts: Counter[tuple[str, str]] = Counter()
    for (_, candidate, reason), rows in reduction.reasons.items():
        counts[candidate, reason] += rows
    order = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [{"candidate": candidate, "reason": reason, "rows": rows} for (candidate, reason), rows in order]


def _unmatched(evaluation: Evaluation) -> list[Unmatched]:
    """Files of candidates, and damaged ones that were given, that belong to no reference. Not looked for where only a
    part of the references was taken.
    """
    files, run, given = evaluation.candidates.files, evaluation.run, evaluation.damaged
    if evaluation.settings.limit or not (files or given):
        return []
    partners = [(one.name, slug, found) for one in files for slug, found in one.partners.items()]
    stems: dict[Renamed, list[np.ndarray]] = {found.renamed: [] for *_, found in partners}
    stems |= {given.renamed: []} if given else {}
    rows = run.rows_per_image
    for part in run.ledger.read_parts((shard.id for shard in run.listing.shards), ["key"]):
        keys = texts(part, "key")[::rows]
        for renamed, found in stems.items():
            found.append(name_digests(map(renamed.stem, keys)))
    every = {renamed: np.sort(np.concatenate(found)) for renamed, found in stems.items()}
    unmatched: list[Unmatched] = []
    lost = [(name, slug, *found.without_key(every[found.renamed])) for name, slug, found in partners]
    if given and evaluation.damaged_files:
        lost.insert(0, (JPEG, NONE, *without_reference(evaluation.damaged_files, every[given.renamed])))
    for name, slug, count, first in lost:
        if count:
            unmatched.append({"candidate": name, "condition": slug, "files": count, "first": first})
    return unmatched


def _warnings(reduction: Reduction, sets: SetScores, unmatched: list[Unmatched]) -> list[str]:
    """What a reader must know before trusting the numbers."""
    warnings: list[str] = []
    if reduction.lossy:
        warnings.append(
            f"{reduction.lossy} of {reduction.images} references are JPEG files themselves: the reference is lossy. "
            "Their own artefacts count as truth, and FID and KID shift; use references that were never compressed, or "
            "reduce them in size first."
        )
    if reduction.reasons:
        warnings.append(
            f"{sum(reduction.reasons.values())} rows have no score and are left out of the means: each candidate's "
            "means are over its own images."
        )
    if reduction.odd.any():
        warnings.append(
            f"{int(reduction.odd.sum())} values are infinite, as the PSNR of equal images is; means leave them out."
        )
    if reduction.unlabelled:
        warnings.append(f"{reduction.unlabelled} images have no label, and are left out of the accuracy.")
    biased = {metric for found in sets.values() for one in found.values() for metric in one if one[metric]["biased"]}
    for metric in sorted(biased):
        warnings.append(
            f"{describe(metric)['label']} is biased: fewer images than features, so its values are far too high. "
            "Compare them within this report only."
        )
    few = {metric for found in sets.values() for one in found.values() for metric in one if one[metric]["images"] < FEW}
    for metric in sorted(metric for metric in few if SET_METRICS[metric].measure == "kid"):
        warnings.append(f"{describe(metric)['label']} of fewer than {FEW} images is mostly noise; it may be below 0.")
    if files := sum(one["files"] for one in unmatched):
        warnings.append(f"{files} files of candidates belong to no reference and were not looked at.")
    return warnings


def _preset(name: str | None) -> PresetTold | None:
    """What the page says of the published table."""
    if name is None:
        return None
    preset = PRESETS[name]
    rows = ", ".join(row.name for row in preset.published)
    told = f"{rows}; means over {preset.images} images" if rows else "published rows: none known here"
    return {"name": name, "about": preset.about, "published": told}


def _of_other_images(evaluation: Evaluation, reduction: Reduction) -> list[str]:
    """A warning, where there are published rows that were not computed on as many images as ours."""
    preset = PRESETS[evaluation.settings.preset] if evaluation.settings.preset else None
    if not preset or not preset.published or preset.images == reduction.images:
        return []
    told = f"The published rows are means over {preset.images} images of {preset.about}, ours over {reduction.images}"
    return [f"{told}: they are not of the same images, and do not compare."]


def _recipe(evaluation: Evaluation) -> Recipe:
    """Everything that one must know to get the same numbers."""
    settings = evaluation.settings
    return {
        "fingerprint": evaluation.run.fingerprint,
        "seed": settings.seed,
        "jpeg": f"Pillow {features.version('pil')}, libjpeg-turbo {features.version('libjpeg_turbo')}",
        "shift": "rows and columns from 0 to shift, drawn from (seed, key), are cut off the reference too",
        "intervals": {
            "method": "percentiles of a Poisson bootstrap over images",
            "level": 0.95,
            "resamples": settings.bootstrap,
            "seed": settings.seed,
        },
        "versions": package_versions(PACKAGES),
        "machine": platform.machine(),
        **evaluation.plan.recipe(),
    }
