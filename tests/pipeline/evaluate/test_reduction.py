"""Sums over a ledger: means, intervals, histograms and extremes are those of all rows, however cut in parts."""

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.evaluate.metrics import Plan
from pipeline.evaluate.reduction import SHOWN, Reduction, bin_width
from pipeline.evaluate.stage import ledger_schema

PLAN = Plan(("psnr", "bef", "accuracy"), {})
CONDITIONS, CANDIDATES = ["q10-420", "q30-420"], ["jpeg", "ours", "theirs"]


def table(images: int, seed: int = 0, lost: float = 0.2) -> tuple[pa.Table, np.ndarray]:
    """(rows, values): (metrics, images, cells), nan where a row failed."""
    draw = np.random.default_rng(seed)
    values = draw.normal([[[25.0]], [[1e-3]], [[0.5]]], [[[2.0]], [[2e-4]], [[0.1]]], (3, images, 6))
    values[:, draw.random((images, 6)) < lost] = np.nan
    rows: list[dict[str, Any]] = []
    for image in range(images):
        for cell in range(6):
            known = not np.isnan(values[0, image, cell])
            rows.append(
                {
                    "key": f"{seed}/{image:04}.png",
                    "condition": CONDITIONS[cell // 3],
                    "candidate": CANDIDATES[cell % 3],
                    "status": "ok" if known else "failed",
                    "reason": None if known else "no_partner",
                    "reference_format": "JPEG" if image % 4 == 0 else "PNG",
                    "nfe": 8 if cell % 3 == 1 else None,
                    **{
                        name: float(values[metric, image, cell]) if known else None
                        for metric, name in enumerate(PLAN.columns)
                    },
                }
            )
    return pa.Table.from_pylist(rows, schema=ledger_schema(PLAN)), values


def reduce(*parts: pa.Table, resamples: int = 400, **changes: Any) -> Reduction:
    given = {"main": "ours", "baseline": "jpeg"} | changes
    reduction = Reduction(CONDITIONS, CANDIDATES, PLAN, resamples, 0, **given)
    for number, part in enumerate(parts):
        reduction.add(f"shard{number}", part)
    return reduction


def test_means_counts_and_costs() -> None:
    part, values = table(50)
    reduction = reduce(part)
    assert (reduction.images, reduction.lossy) == (50, 13)
    for condition in CONDITIONS:
        for candidate in CANDIDATES:
            cell = reduction.cell(condition, candidate)
            for metric in range(3):
                told, known = reduction.mean(metric, cell), values[metric, :, cell]
                assert told["mean"] == pytest.approx(np.nanmean(known), rel=1e-12)
                assert told["images"] == np.isfinite(known).sum()
                assert told["low"] < told["mean"] < told["high"]
            assert reduction.ok[cell] == np.isfinite(values[0, :, cell]).sum()
            assert reduction.cost("nfe", cell) == (8 if candidate == "ours" else None)
    assert sum(reduction.reasons.values()) == np.isnan(values[0]).sum() == len(reduction.failures)


def test_parts_make_the_whole() -> None:
    parts = [table(40, 1)[0], table(23, 2)[0]]
    apart, together = reduce(*parts), reduce(pa.concat_tables(parts))
    for name in ("total", "finite", "drawn", "drawn_finite", "ok"):
        assert np.allclose(getattr(apart, name), getattr(together, name), rtol=1e-12, atol=0)
    assert apart.histograms == together.histograms
    for one, other in zip(apart.extremes(), together.extremes(), strict=True):
        assert [extreme.row for extreme in one] == [extreme.row for extreme in other]


def test_the_interval_is_that_of_a_bootstrap() -> None:
    part, values = table(80, lost=0.0)
    told = reduce(part, resamples=4000).mean(0, 1)
    draw = np.random.default_rng(9)
    means = values[0, :, 1][draw.integers(0, 80, (4000, 80))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    width = high - low
    assert told["low"] == pytest.approx(low, abs=0.08 * width)
    assert told["high"] == pytest.approx(high, abs=0.08 * width)


def test_what_cannot_be_told_apart() -> None:
    part, _ = table(60, lost=0.0)
    columns = {name: part[name].to_numpy().copy() for name in ("psnr",)}
    psnr = columns["psnr"].reshape(60, 6)
    shared = np.random.default_rng(1).normal(25, 5, 60)  # images differ much more than candidates do
    psnr[:, 0], psnr[:, 1] = shared, shared + np.random.default_rng(2).normal(0.3, 0.1, 60)
    psnr[:, 2] = psnr[:, 1] + np.random.default_rng(3).normal(0.0, 0.1, 60)
    part = part.set_column(part.schema.get_field_index("psnr"), "psnr", pa.array(psnr.ravel()))
    reduction = reduce(part)
    one, other = reduction.mean(0, 0), reduction.mean(0, 1)
    assert one["high"] > other["low"]  # their own intervals overlap
    gain, nothing = reduction.difference(0, 1, 0), reduction.difference(0, 1, 2)
    assert gain is not None
    assert nothing is not None
    assert 0 < gain["low"] < gain["mean"] < gain["high"]
    assert gain["mean"] == pytest.approx((psnr[:, 1] - psnr[:, 0]).mean())
    assert nothing["low"] < 0 < nothing["high"]


def test_infinite_values_are_counted_apart() -> None:
    part, values = table(10, lost=0.0)
    psnr = values[0].copy()
    psnr[3, 1] = math.inf
    part = part.set_column(part.schema.get_field_index("psnr"), "psnr", pa.array(psnr.ravel()))
    told = reduce(part).mean(0, 1)
    assert told["not_finite"] == 1
    assert told["images"] == 9
    assert told["mean"] == pytest.approx(np.delete(values[0, :, 1], 3).mean())
    nothing = reduce(part.set_column(part.schema.get_field_index("psnr"), "psnr", pa.nulls(60, pa.float64())))
    assert nothing.mean(0, 0) == {"mean": None, "low": None, "high": None, "images": 0}


def test_histograms_count_every_value() -> None:
    part, values = table(50)
    reduction = reduce(part)
    for metric, column in enumerate(PLAN.columns):
        for cell in range(6):
            known = values[metric, :, cell]
            known, found = known[np.isfinite(known)], reduction.histograms[metric, cell]
            width = bin_width(column)
            edges = np.arange(min(found), max(found) + 2) * width
            assert [found.get(round(edge / width), 0) for edge in edges[:-1]] == np.histogram(known, edges)[0].tolist()
            assert sum(found.values()) == len(known)


def test_extremes_are_the_largest_and_smallest_gains() -> None:
    part, values = table(100, lost=0.1)
    best, worst = reduce(part).extremes()
    gains = np.stack([values[0, :, 1] - values[0, :, 0], values[0, :, 4] - values[0, :, 3]], axis=1)
    top = np.sort(np.nanmax(gains[~np.isnan(gains).all(axis=1)], axis=1))[::-1][:SHOWN]
    low = np.sort(np.nanmin(gains[~np.isnan(gains).all(axis=1)], axis=1))[:SHOWN]
    assert [one.gain for one in best] == pytest.approx(top.tolist())
    assert [one.gain for one in worst] == pytest.approx(low.tolist())
    for one in (*best, *worst):
        assert one.baseline is not None
        assert (one.row["candidate"], one.baseline["candidate"]) == ("ours", "jpeg")
        assert one.row["condition"] == one.baseline["condition"]
        assert one.gain == pytest.approx(one.row["psnr"] - one.baseline["psnr"])
    alone, _ = reduce(part, main="theirs", baseline=None).extremes()
    assert alone[0].gain == pytest.approx(np.nanmax(values[0][:, [2, 5]]))
    few, _ = table(10, lost=0.0)
    assert [len(side) for side in reduce(few).extremes()] == [5, 5]
