"""Charts: every point at its place, round ticks, well-formed SVG whatever the names."""

import math
import re
from collections import Counter
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.reports.charts import (
    BARS,
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    ROW_HEIGHT,
    TOP,
    WIDTH,
    Axis,
    Point,
    Series,
    histogram_rows,
    line_chart,
    marker,
    plane,
    swatch,
)

HOSTILE = '<script>"&\'</title>'
numbers = st.floats(-1e6, 1e6).map(lambda value: round(value, 4))


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def axis(label: str, values: list[float], falling: bool = False) -> Axis:
    return Axis.over(label, values, falling)


@given(st.lists(numbers, min_size=1, max_size=8), st.booleans())
def test_an_axis_holds_its_values_and_has_round_ticks(values: list[float], falling: bool) -> None:
    made = axis("x", values, falling)
    assert all(0 <= made.at(value) <= 1 for value in values)
    ticks = made.ticks()
    assert len(ticks) <= 7
    assert all(made.low <= tick <= made.high for tick in ticks)
    if len(ticks) > 1:
        step = (ticks[-1] - ticks[0]) / (len(ticks) - 1)
        leading = step / 10 ** math.floor(math.log10(step) + 1e-9)
        assert min(abs(leading - nice) for nice in (1, 2, 2.5, 5, 10)) < 1e-6
        told = [float(made.text(tick).replace(",", "").replace("−", "-")) for tick in ticks]
        assert told == pytest.approx(ticks, abs=step / 1e4)  # no digit is lost


def test_points_lie_where_they_should() -> None:
    x, y = Axis("x", 0, 10), Axis("y", 0, 100)
    chart = parsed(line_chart("t", [Series("a", 0, [Point(0, 0), Point(10, 100), Point(5, 25)])], x, y))
    places = [mark.get("transform") for mark in chart.iter("path")]
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    middle = f"translate({(LEFT + right) / 2:.1f} {bottom - 0.25 * (bottom - TOP):.1f})"
    assert places == [f"translate({LEFT:.1f} {bottom:.1f})", f"translate({right:.1f} {TOP:.1f})", middle]
    falling = Axis("x", 0, 10, falling=True)
    turned = parsed(plane("t", [Series("a", 0, [Point(10, 0)])], falling, y))
    assert next(turned.iter("path")).get("transform") == f"translate({LEFT:.1f} {bottom:.1f})"


def test_names_are_text() -> None:
    x, y = axis(HOSTILE, [0, 1]), axis(HOSTILE, [0, 1])
    series = [Series(HOSTILE, 9, [Point(0, 0, -1, 1, HOSTILE), Point(1, 1, 0, 2, HOSTILE)])]
    for chart in (line_chart(HOSTILE, series, x, y, {0: HOSTILE, 1: "1"}), plane(HOSTILE, series, x, y)):
        root = parsed(chart)
        assert root.get("aria-label") == HOSTILE
        assert {element.tag for element in root.iter()} <= {
            "svg", "g", "line", "text", "polyline", "polygon", "path", "title",
        }  # fmt: skip
        assert f"{HOSTILE}: {HOSTILE}" in [title.text for title in root.iter("title")]


def test_series_differ_in_colour_or_marker() -> None:
    assert len({(index % 8, marker(index)) for index in range(40)}) == 40
    drawn = [ElementTree.tostring(parsed(swatch(index))) for index in range(40)]
    assert len(set(drawn)) == 40


def test_histograms_keep_every_image_and_share_one_range() -> None:
    counts = {0: Counter({10: 3, 11: 1}), 1: Counter({10: 1, 250: 4, 260: 2})}
    rows, ticks = histogram_rows(counts, 0.5, lambda value: f"{value:g}")
    assert ticks[0] == "5"
    assert float(ticks[2]) >= 130
    for index, found in counts.items():
        root = parsed(rows[index])
        assert root.get("aria-label") == f"{found.total()} images"
        heights = [float(height) for height in re.findall(r"V([\d.]+)H", root[0].get("d") or "")]
        assert len(heights) <= BARS
        assert min(heights) == 0
        assert sum(height < ROW_HEIGHT for height in heights) <= len(found)
    assert histogram_rows({}, 1.0, str) == ({}, ("", "", ""))


@pytest.mark.parametrize("values", [[3.0], [0.0], [-2.0, -2.0]])
def test_one_value_makes_an_axis_too(values: list[float]) -> None:
    made = axis("x", values)
    assert made.low < values[0] < made.high
    assert made.at(values[0]) == pytest.approx(0.5)
