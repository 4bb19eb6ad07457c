"""The page of an evaluation: tables, charts, pictures and failures, in one file that loads nothing."""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from driftrec import __version__
from driftrec.errors import MEANING, BadImage, DriftRecError, Failed
from driftrec.image import decode
from driftrec.metrics import higher_is_better, label_of
from pipeline.evaluate.candidates import JPEG
from pipeline.evaluate.charts import Charts
from pipeline.evaluate.conditions import damage, reference_of
from pipeline.evaluate.evaluation import Evaluation
from pipeline.evaluate.metrics import Score, column_of, score_of
from pipeline.evaluate.model_pool import Restores
from pipeline.evaluate.published import PublishedTold
from pipeline.evaluate.reduction import Extreme, Reduction
from pipeline.evaluate.stage import metric_in
from pipeline.evaluate.summary import CandidateRow, Summary, Table
from pipeline.inputs.names import log_tags, output_name
from pipeline.inputs.shards import Incoming, read_shard
from pipeline.reports.before_after import PAGE_BYTES, Piece, cut
from pipeline.reports.charts import swatch
from pipeline.reports.metric_text import header_of, shown, signed
from pipeline.reports.page import Part, duration, figure, render, tile, whole
from pipeline.runs.documents import Result
from pipeline.runs.ledger import RUN
from pipeline.runs.reporter import PAGE
from pipeline.runs.threads import pooled

log = logging.getLogger(__name__)

THREADS = 4  # pictures that are made at once
FACTS = 3  # metrics that are told below a picture

Shown = tuple[str, str, bytes, Incoming | None]  # of a picture: key, condition, the reference's bytes, the damaged file


def write_evaluate_report(
    evaluation: Evaluation,
    summary: Summary,
    reduction: Reduction,
    result: Result,
    restoring: Restores | None,
) -> None:
    """Write report.html into OUTPUT.

    Args:
        evaluation: what was done.
        summary: what summary.json says.
        reduction: the sums that the histograms and the choice of pictures come from.
        result: what _RESULT.json says.
        restoring: who makes restored pictures again; None where no candidate is a model.
    """
    best, worst = reduction.extremes()
    pieces = load_pictures(evaluation, [*best, *worst], restoring)
    page, store = Page(evaluation, summary, reduction), evaluation.run.store
    galleries = [
        page.gallery("Best", "Where it helps most: each image under the condition where it does.", best, pieces),
        page.gallery("Worst", "Where it helps least, or does harm.", worst, pieces),
    ]
    contents = page.contents(result) | {
        "galleries": [gallery for gallery in galleries if gallery["figures"]],
        "run_json": json.dumps(json.loads(store.read(RUN)), indent=2, ensure_ascii=False),
    }
    store.put(PAGE, render("evaluate.html", contents).encode())


class Page:
    """All that the template names."""

    def __init__(self, evaluation: Evaluation, summary: Summary, reduction: Reduction) -> None:
        self.evaluation, self.summary, self.reduction = evaluation, summary, reduction
        self.names, self.plan = evaluation.candidates.names, evaluation.plan
        self.conditions: Sequence[Table] = summary["conditions"]
        self.index = {name: number for number, name in enumerate(self.names)}

    def contents(self, result: Result) -> Part:
        """Everything but the pictures."""
        images, conditions, names = self.summary["images"], len(self.conditions), len(self.names)
        failures = self.summary["failures"]
        charts = Charts(self.conditions, self.names, self.plan, self.reduction)
        return {
            "version": __version__,
            "headline": f"{_count(names, 'candidate')} on {_count(images, 'image')}, {_count(conditions, 'condition')}",
            "reference": self.summary["reference"],
            "output": self.summary["output"],
            "main": self.evaluation.main,
            "baseline": self.evaluation.baseline,
            "warnings": self.summary["warnings"],
            "tiles": self._tiles(result),
            "legend": self._legend(),
            "columns": [header_of(metric) for metric in self.plan.names],
            "costs": bool(self.evaluation.candidates.models),
            "glance": self._glance() if conditions > 1 else [],
            "tables": [self._table(condition) for condition in self.conditions],
            "curves": charts.curves(),
            "planes": charts.planes(),
            "distributions": charts.distributions(),
            "failures": failures,
            "reasons": [{**row, "meaning": MEANING.get(row["reason"], "")} for row in failures["reasons"]],
            "failed_rows": self.reduction.failures,
            "recipe": self._recipe(),
            "recipe_json": json.dumps(self.summary["recipe"], indent=2, ensure_ascii=False),
        }

    def _tiles(self, result: Result) -> list[dict[str, str]]:
        failed = self.summary["failures"]["rows"]
        tiles = [tile("Images", whole(self.summary["images"])), tile("Conditions", whole(len(self.conditions)))]
        tiles.append(tile("Candidates", whole(len(self.names))))
        tiles.append(tile("Rows without a score", whole(failed), tone="bad" if failed else ""))
        if result["images_this_attempt"]:
            again = bool(result["shards"]["resumed"])
            tiles.append(tile("Time of the last attempt" if again else "Time", duration(result["seconds"])))
        gains = [gain for condition in self.conditions if (gain := self._gain(condition)) is not None]
        if gains:
            name = label_of(self.plan.pairs[0]).partition(" (")[0]
            label = f"{name}, {self.evaluation.main} over {self.evaluation.baseline}, mean of conditions"
            tiles.append(tile(label, signed(sum(gains) / len(gains), self.plan.pairs[0])))
        return tiles

    def _gain(self, condition: Table) -> float | None:
        """Of the main candidate over the baseline, in the first metric."""
        if not self.plan.pairs or not self.evaluation.baseline:
            return None
        metric = self.plan.pairs[0]
        one, other = (self._score(condition, name, metric) for name in (self.evaluation.main, self.evaluation.baseline))
        return None if one is None or other is None else one - other

    def _row(self, condition: Table, name: str) -> CandidateRow:
        return condition["candidates"][self.index[name]]

    def _score(self, condition: Table, name: str, metric: str) -> float | None:
        return score_of(self._row(condition, name)["metrics"].get(column_of(metric)))

    def _legend(self) -> list[Part]:
        legend: list[Part] = []
        for number, one in enumerate(self.summary["candidates"]):
            what = {"jpeg": "the damaged image itself", "model": one.get("spec"), "files": one.get("url")}[one["kind"]]
            legend.append({"name": one["name"], "swatch": swatch(number), "what": "" if what == one["name"] else what})
        return legend

    def _glance(self) -> list[Part]:
        """Of each candidate: the mean over conditions of each metric, under how many it is best, and its cost."""
        rows = [
            {
                "name": name,
                "swatch": swatch(self.index[name]),
                "cells": [self._over_all(name, metric) for metric in self.plan.names],
                **self._costs(self.conditions, name),
            }
            for name in self.names
        ]
        for metric, cells in zip(self.plan.names, zip(*(row["cells"] for row in rows), strict=True), strict=True):
            means = [cell["mean"] for cell in cells if cell["mean"] is not None]
            best = (max if higher_is_better(metric) else min)(means, default=None)
            for cell in cells:
                cell["best"] = len(means) > 1 and cell["mean"] == best
        return rows

    def _over_all(self, name: str, metric: str) -> Part:
        scores = [self._score(condition, name, metric) for condition in self.conditions]
        known = [score for score in scores if score is not None]
        found = (self._row(condition, name)["metrics"].get(column_of(metric), {}) for condition in self.conditions)
        mean = sum(known) / len(known) if len(known) == len(scores) else None
        text = "–" if mean is None else shown(mean, metric)
        wins = sum(bool(one.get("best")) for one in found)
        return {"text": text, "mean": mean, "wins": wins, "tied": False}

    def _costs(self, conditions: Sequence[Table], name: str) -> dict[str, str]:
        """Network evaluations and seconds an image, as means over conditions."""
        costs: dict[str, str] = {}
        rows = [self._row(condition, name) for condition in conditions]
        means = {"nfe": [row["nfe_mean"] for row in rows], "seconds": [row["seconds_mean"] for row in rows]}
        for cost, values in means.items():
            known = [value for value in values if value is not None]
            costs[cost] = figure(sum(known) / len(known)) if known else "–"
        return costs

    def _table(self, condition: Table) -> Part:
        rows: list[Part] = []
        for name in self.names:
            row = self._row(condition, name)
            cells = [_cell(row["metrics"].get(column_of(metric)) or {}, metric) for metric in self.plan.names]
            entry = {"name": name, "swatch": swatch(self.index[name]), "source": "", "failed": row["failed"]}
            rows.append(entry | {"cells": cells} | self._costs([condition], name))
        rows += map(self._published, condition["published"])
        kilobytes = self._row(condition, self.names[0])["jpeg_bytes_mean"]
        notes = [f"Files of {figure(kilobytes / 1000)} kB on average."] if kilobytes else []
        if condition["second_quality"] is not None:
            notes.append(f"The second grid lies 0 to {condition['shift']} pixels off the first, down and across.")
        return {"label": condition["label"], "note": " ".join(notes), "rows": rows}

    def _published(self, row: PublishedTold) -> Part:
        """A row of somebody else's table: numbers alone."""
        known = ((row["metrics"].get(column_of(metric)), metric) for metric in self.plan.names)
        cells = [_cell({} if score is None else {"mean": score}, metric) for score, metric in known]
        entry = {"name": row["name"], "swatch": "", "source": row["source"], "failed": 0}
        return {**entry, "cells": cells, "nfe": "–", "seconds": "–"}

    def gallery(
        self, name: str, note: str, extremes: Sequence[Extreme], pieces: Mapping[tuple[str, str], Piece]
    ) -> Part:
        """Figures of the best or the worst images."""
        labels = {one["condition"]: one["label"] for one in self.conditions}
        figures: list[Part] = []
        for one in extremes:
            row = one.row
            if piece := pieces.get((row["key"], row["condition"])):
                facts = [("Condition", labels[row["condition"]]), *self._facts(one)]
                facts.append(("Shown", piece.describe(row["width"] or 0, row["height"] or 0)))
                figures.append({"key": row["key"], "piece": piece, "facts": facts})
        baseline, main = self.evaluation.baseline, self.evaluation.main
        sides = (baseline, main) if baseline else (main, "reference")
        return {"name": name, "note": note, "figures": figures, "sides": sides}

    def _facts(self, one: Extreme) -> list[tuple[str, str]]:
        facts: list[tuple[str, str]] = []
        for metric in self.plan.pairs[:FACTS]:
            made, before = (row and metric_in(row, column_of(metric)) for row in (one.row, one.baseline))
            if made is not None:
                start = f"{shown(before, metric)} → " if before is not None else ""
                facts.append((label_of(metric).partition(" (")[0], start + shown(made, metric)))
        return facts

    def _recipe(self) -> list[tuple[str, str]]:
        recipe, settings = self.summary["recipe"], self.evaluation.settings
        versions = ", ".join(f"{name} {number}" for name, number in recipe["versions"].items() if number)
        facts = [
            ("Metrics", "; ".join(map(label_of, self.plan.names))),
            ("JPEG encoder", recipe["jpeg"]),
            ("Intervals", f"95 %, {whole(settings.bootstrap)} Poisson bootstrap resamples over images"),
            ("Seed", str(settings.seed)),
        ]
        if preset := self.summary["preset"]:
            facts.append(("Preset", f"{preset['name']}: {preset['about']}. {preset['published']}"))
        if self.evaluation.damaged:
            facts.append(("Damaged images", f"as given in {self.evaluation.damaged.url}"))
        if "accuracy" in recipe:
            facts.append(("Accuracy", f"{recipe['accuracy']['classifier']} against {recipe['accuracy']['against']}"))
        facts += [(f"Weights of {name}", _sha(file["sha256"])) for name, file in recipe["weights"].items()]
        models = [one for one in self.summary["candidates"] if one["kind"] == "model"]
        facts += [(f"Model of {one['name']}", f"{one.get('model')}, {_sha(one.get('sha256', ''))}") for one in models]
        return [*facts, ("Fingerprint", recipe["fingerprint"]), ("Versions", versions)]


def _cell(metric: Score, name: str) -> Part:
    """One number of a table."""
    score = score_of(metric)
    if score is None:
        return {"text": "–", "interval": "", "best": False, "tied": False}
    low, high = metric.get("low"), metric.get("high")
    interval = "" if low is None or high is None else f"{shown(low, name)} – {shown(high, name)}"
    best, tied = bool(metric.get("best")), bool(metric.get("tied"))
    return {"text": shown(score, name), "interval": interval, "best": best, "tied": tied}


def _count(number: int, thing: str) -> str:
    return f"{whole(number)} {thing}{'s' * (number != 1)}"


def _sha(digest: str) -> str:
    return f"sha256 {digest[:16]}…"


def load_pictures(
    evaluation: Evaluation, extremes: Sequence[Extreme], restoring: Restores | None
) -> dict[tuple[str, str], Piece]:
    """Pieces by (key, condition); what cannot be made again is left out and logged."""
    share = PAGE_BYTES // max(1, len(extremes))
    pieces: dict[tuple[str, str], Piece] = {}

    def make(one: Shown) -> None:
        key, slug, *_ = one
        try:
            pieces[key, slug] = _piece(evaluation, one, restoring, share)
        except (BadImage, DriftRecError) as error:
            log.info("report: no picture: %s %s", error, log_tags(key=key, condition=slug))

    with ThreadPoolExecutor(THREADS) as pool:
        for _ in pooled(pool, make, _references(evaluation, extremes), THREADS):
            pass
    return pieces


def _references(evaluation: Evaluation, extremes: Sequence[Extreme]) -> Iterable[Shown]:
    """The references that are shown, one shard in memory at a time."""
    shards = {shard.id: shard for shard in evaluation.run.listing.shards}
    wanted: dict[str, dict[str, dict[str, None]]] = {}
    for one in extremes:
        wanted.setdefault(one.shard, {}).setdefault(one.row["key"], {})[one.row["condition"]] = None
    for shard, keys in wanted.items():
        given = evaluation.damaged.find(shard, list(keys)) if evaluation.damaged else {}
        for row in read_shard(shards[shard]).select(["key", "data"]).to_pylist():
            for slug in keys.get(row["key"], ()):
                yield row["key"], slug, row["data"], given.get(row["key"])


def _piece(evaluation: Evaluation, one: Shown, restoring: Restores | None, share: int) -> Piece:
    """What the page shows of one image under one condition. Raises BadImage, DriftRecError."""
    key, slug, data, given = one
    condition = next(one for one in evaluation.conditions if one.slug == slug)
    most, seed = evaluation.settings.max_pixels, evaluation.settings.seed
    picture = decode(data, key, most)
    reference = reference_of(picture, key, condition, seed)
    jpeg = damage(picture, key, condition, seed) if condition.quality is not None else given and bytes(given.data)
    sides = {JPEG: decode(jpeg, max_pixels=most).rgb8} if jpeg else {}
    main = evaluation.main
    if main in sides:
        return cut(sides[main], reference, share)
    files = {one.name: one.partners[slug] for one in evaluation.candidates.files}
    if main in files:
        made = decode(files[main].read(key) or b"", max_pixels=most).rgb8
    else:
        assert restoring is not None and jpeg is not None
        (output,) = restoring.restore(main, [jpeg], output_name(key, "jpeg"))
        if isinstance(output, Failed):
            raise BadImage(output.reason, output.detail)
        made = output.rgb
    if JPEG not in sides:
        return cut(made, reference, share)
    return cut(sides[JPEG], made, share, reference)
