"""The ledger of an evaluation, part after part, as sums: means with intervals, histograms, the best and the worst
images, failures. Memory does not grow with the archive. Knows no Ray, no storage, no pixels.
"""

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from driftrec.metrics import higher_is_better
from driftrec.random import generator_for
from pipeline.evaluate.metrics import Difference, Plan, Score
from pipeline.evaluate.stage import ScoreRow
from pipeline.runs.ledger import FAILED, rows_in, texts

MAX_FAILURES = 200  # rows that are listed one by one
SHOWN = 24  # best and as many worst images
BIN_WIDTH = {  # of a histogram, by the metric's first letters; the first that fits
    "psnr": 0.25,
    "ssim": 0.01,
    "bef": 2e-5,
    "brisque": 0.5,
    "": 0.005,
}
TOLD = ["key", "condition", "candidate", "reason", "stage", "detail"]  # of a row that failed
COSTS = ("nfe", "seconds", "jpeg_bytes")  # columns whose means are told beside the metrics

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Extreme:
    """An image on which the main candidate did very well, or very badly."""

    gain: float  # of the first metric, over the damaged image, in the metric's good direction
    shard: str
    row: ScoreRow
    baseline: ScoreRow | None  # the row of the damaged image


@dataclass
class Reduction:
    """Sums over the parts of a ledger. Rows come as they lie: image by image, conditions, and candidates within these.

    A metric's value that is not finite (the PSNR of equal images) counts as missing, and apart.

    Args:
        conditions: slugs.
        candidates: names.
        plan: the metrics.
        resamples: of the bootstrap. Image i counts Poisson(1) times in each, the same in all conditions, candidates and
            metrics, drawn from (seed, key): so it needs one pass and no memory (Hanley and MacGibbon 2006).
        main: the candidate whose best and worst images are sought.
        baseline: the candidate that its gain is measured from; None: its values themselves.
    """

    conditions: Sequence[str]
    candidates: Sequence[str]
    plan: Plan
    resamples: int
    seed: int
    main: str
    baseline: str | None
    images: int = 0
    lossy: int = 0  # references that are JPEGs themselves
    unlabelled: int = 0  # images without a label, where accuracy wants one
    reasons: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # (condition, candidate, reason)
    failures: list[ScoreRow] = field(default_factory=list)  # the first MAX_FAILURES
    histograms: dict[tuple[int, int], Counter[int]] = field(default_factory=dict)  # (metric, cell): {bin: images}

    def __post_init__(self) -> None:
        cells, metrics = len(self.conditions) * len(self.candidates), len(self.plan.columns)
        shape = (metrics, cells)
        self.total, self.finite, self.odd = np.zeros(shape), np.zeros(shape, int), np.zeros(shape, int)
        self.ok = np.zeros(cells, int)
        self.drawn = np.zeros((self.resamples, *shape))  # sums of the resamples, and how many went into them
        self.drawn_finite = np.zeros((self.resamples, *shape))
        self.costs = {name: np.zeros((2, cells)) for name in COSTS}  # sum, count
        self._best: list[tuple[float, str, Extreme]] = []
        self._worst: list[tuple[float, str, Extreme]] = []

    def add(self, shard: str, part: pa.Table) -> None:
        """Count one part."""
        cells = len(self.conditions) * len(self.candidates)
        keys = texts(part, "key")[::cells]
        if not keys:
            return
        values = np.stack([self._column(part, column) for column in self.plan.columns]) if self.plan.columns else None
        self._count(part, keys)
        if values is not None:
            self._sum(values, keys)
            self._bin(values)
            self._extremes(shard, part, values, keys)

    def _column(self, part: pa.Table, name: str) -> Floats:
        """(images, cells) of a column, nan where it is null."""
        column = part[name].cast(pa.float64()).fill_null(pa.scalar(float("nan"))).to_numpy()
        return column.reshape(-1, len(self.conditions) * len(self.candidates))

    def _count(self, part: pa.Table, keys: Sequence[str]) -> None:
        self.images += len(keys)
        cells = len(self.conditions) * len(self.candidates)
        failed = np.array([status == FAILED for status in part["status"].to_pylist()])
        self.ok += (~failed).reshape(-1, cells).sum(axis=0)
        self.lossy += sum(kind == "JPEG" for kind in part["reference_format"].to_pylist()[::cells])
        for name in COSTS:
            column = self._column(part, name)
            self.costs[name] += np.nansum(column, axis=0), np.isfinite(column).sum(axis=0)
        for row in rows_in(part.filter(pa.array(failed)).select(TOLD), ScoreRow):
            self.reasons[row["condition"], row["candidate"], row["reason"] or ""] += 1
            if len(self.failures) < MAX_FAILURES:
                self.failures.append(row)
        if "accuracy" in self.plan.columns:
            missing = np.isnan(self._column(part, "accuracy")) & (~failed).reshape(-1, cells)
            self.unlabelled += int(missing.any(axis=1).sum())

    def _sum(self, values: Floats, keys: Sequence[str]) -> None:
        """values: (metrics, images, cells)."""
        finite = np.isfinite(values)
        known = np.where(finite, values, 0.0)
        self.total += known.sum(axis=1)
        self.finite += finite.sum(axis=1)
        self.odd += (~finite & ~np.isnan(values)).sum(axis=1)
        counts = np.stack([generator_for("bootstrap", self.seed, key).poisson(1.0, self.resamples) for key in keys])
        weights = counts.T.astype(np.float64)
        for metric in range(len(values)):
            self.drawn[:, metric] += weights @ known[metric]
            self.drawn_finite[:, metric] += weights @ finite[metric].astype(np.float64)

    def _bin(self, values: Floats) -> None:
        for metric, column in enumerate(self.plan.columns):
            width = bin_width(column)
            for cell in range(values.shape[2]):
                found = values[metric, :, cell]
                bins, counts = np.unique(np.floor(found[np.isfinite(found)] / width).astype(int), return_counts=True)
                histogram = self.histograms.setdefault((metric, cell), Counter())
                for index, count in zip(bins.tolist(), counts.tolist(), strict=True):
                    histogram[index] += count

    def _extremes(self, shard: str, part: pa.Table, values: Floats, keys: Sequence[str]) -> None:
        """Each image once among the best and once among the worst: in the condition where it gains most, and least."""
        gains = self._gains(values[0])
        for image, key in enumerate(keys):
            if not np.isfinite(gains[image]).any():
                continue
            for kept, sign, condition in (
                (self._best, 1, int(np.nanargmax(gains[image]))),
                (self._worst, -1, int(np.nanargmin(gains[image]))),
            ):
                gain = float(gains[image, condition])
                if len(kept) == SHOWN and (sign * gain, key) <= kept[0][:2]:
                    continue
                extreme = Extreme(gain, shard, *self._rows(part, image, condition))
                (heapq.heappushpop if len(kept) == SHOWN else heapq.heappush)(kept, (sign * gain, key, extreme))

    def _gains(self, values: Floats) -> Floats:
        """(images, conditions): what the main candidate gains over the damaged image; nan where that is not known."""
        by_candidate = values.reshape(len(values), len(self.conditions), len(self.candidates))
        gains = by_candidate[:, :, self.candidates.index(self.main)]
        if self.baseline:
            gains = gains - by_candidate[:, :, self.candidates.index(self.baseline)]
        gains = np.where(np.isfinite(gains), gains, np.nan)
        return gains if higher_is_better(self.plan.pairs[0]) else -gains

    def _rows(self, part: pa.Table, image: int, condition: int) -> tuple[ScoreRow, ScoreRow | None]:
        """The rows of the main candidate and of the baseline."""
        first = (image * len(self.conditions) + condition) * len(self.candidates)
        rows = rows_in(part.slice(first, len(self.candidates)), ScoreRow)
        of = dict(zip(self.candidates, rows, strict=True))
        return of[self.main], of[self.baseline] if self.baseline else None

    def mean(self, metric: int, cell: int) -> Score:
        """Mean over the images with a finite value, its 95 % bootstrap interval (percentiles), and their number."""
        images = int(self.finite[metric, cell])
        score: Score = {"mean": None, "low": None, "high": None, "images": images}
        if images:
            score["mean"] = float(self.total[metric, cell] / images)
            drawn = self.drawn_finite[:, metric, cell] > 0
            means = self.drawn[drawn, metric, cell] / self.drawn_finite[drawn, metric, cell]
            score["low"], score["high"] = (float(edge) for edge in np.percentile(means, [2.5, 97.5]))
        if self.odd[metric, cell]:
            score["not_finite"] = int(self.odd[metric, cell])
        return score

    def difference(self, metric: int, one: int, other: int) -> Difference | None:
        """Of two cells' means, with its 95 % interval; None where one of them is not known.

        The resamples are of the same images on both sides, so what an image adds to both does not widen the interval.
        """
        if not (self.finite[metric, one] and self.finite[metric, other]):
            return None
        both = (self.drawn_finite[:, metric, [one, other]] > 0).all(axis=1)
        means = self.drawn[both][:, metric, [one, other]] / self.drawn_finite[both][:, metric, [one, other]]
        low, high = np.percentile(means[:, 0] - means[:, 1], [2.5, 97.5])
        mean, other_mean = (self.total[metric, cell] / self.finite[metric, cell] for cell in (one, other))
        return {"mean": float(mean - other_mean), "low": float(low), "high": float(high)}

    def cost(self, name: str, cell: int) -> float | None:
        """Mean of one of COSTS; None where it is not known."""
        total, images = self.costs[name][:, cell]
        return float(total / images) if images else None

    def extremes(self) -> tuple[list[Extreme], list[Extreme]]:
        """The best images and the worst, each from the end on; of few images each list has half."""
        shown = min(SHOWN, -(-self.images // 2))
        best, worst = (
            [one for *_, one in sorted(kept, key=lambda item: item[:2], reverse=True)][:shown]
            for kept in (self._best, self._worst)
        )
        return best, worst

    def cell(self, condition: str, candidate: str) -> int:
        """Where a condition and candidate stand in all these arrays."""
        return self.conditions.index(condition) * len(self.candidates) + self.candidates.index(candidate)


def bin_width(column: str) -> float:
    """Of the histogram of a metric, in its unit."""
    return next(width for start, width in BIN_WIDTH.items() if column.startswith(start))
