"""Charts of a report as inline SVG: lines with intervals, points on a plane, rows of small histograms.

Colours come from the page's style (classes c0, c1, ...), so that a chart is legible in light, in dark and on paper;
every series has a marker of its own besides. Knows no metrics.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 360, 250  # of a chart, in the page's pixels where it has room
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 10, 42
MOST_TICKS = 6
COLOURS = 8  # classes c0 to c7; further series begin again, with other markers
ROW_WIDTH, ROW_HEIGHT, BARS = 240, 30, 30  # of a small histogram
MARKERS = (
    "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0Z",
    "M-3.6,-3.6h7.2v7.2h-7.2Z",
    "M0,-5L4.8,3.6H-4.8Z",
    "M0,-5.2L5.2,0L0,5.2L-5.2,0Z",
    "M0,5L4.8,-3.6H-4.8Z",
    "M-5,-1.6H-1.6V-5H1.6V-1.6H5V1.6H1.6V5H-1.6V1.6H-5Z",
)

@dataclass(frozen=True)
class Point:
    """One mean, with its interval if that is known."""

    x: float
    y: float
    low: float | None = None  # of y
    high: float | None = None
    tooltip: str = ""  # shown where the pointer rests


@dataclass(frozen=True)
class Series:
    """The points of one candidate, in the order in which a line joins them."""

    name: str
    index: int  # chooses colour and marker
    points: Sequence[Point]


@dataclass(frozen=True)
class Axis:
    """A linear axis over the numbers given, with round ticks."""

    label: str
    low: float
    high: float
    falling: bool = False  # large numbers at the left, or at the bottom

    @classmethod
    def over(cls, label: str, values: Sequence[float], falling: bool = False) -> "Axis":
        """An axis that holds the values with some room around them."""
        low, high = min(values), max(values)
        room = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
        return cls(label, low - room, high + room, falling)

    def at(self, value: float) -> float:
        """Where a value lies, from 0 to 1."""
        share = (value - self.low) / (self.high - self.low)
        return 1 - share if self.falling else share

    @property
    def step(self) -> float:
        """Between two ticks."""
        return _round_step((self.high - self.low) / MOST_TICKS)

    def ticks(self) -> list[float]:
        """Round numbers within, few of them."""
        first, last = math.ceil(self.low / self.step), math.floor(self.high / self.step)
        return [self.step * k for k in range(first, last + 1)]

    def text(self, value: float) -> str:
        """A tick in words, with the decimals that its step needs."""
        decimals = next(digits for digits in range(12) if abs(round(self.step, digits) / self.step - 1) < 1e-6)
        return f"{value:,.{decimals}f}".replace("-", "−")


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 2.5 and 5 times a power of ten that is not below `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= least * (1 - 1e-9))


def line_chart(
    title: str, series: Sequence[Series], x: Axis, y: Axis, ticks: Mapping[float, str] | None = None
) -> Markup:
    """Lines with markers, and bands where points have intervals. `ticks` of x, if not round numbers."""
    parts = [_frame(x, y, ticks)]
    for one in series:
        parts.append(_band(one, x, y))
    for one in series:
        parts.append(_line(one, x, y))
    return _svg(title, parts)


def plane(title: str, series: Sequence[Series], x: Axis, y: Axis) -> Markup:
    """Points of two numbers each; those of a series are joined in their order."""
    return _svg(title, [_frame(x, y, None), *(_line(one, x, y) for one in series)])


def _svg(title: str, parts: Sequence[Markup]) -> Markup:
    head = Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(WIDTH, HEIGHT, title)
    return head + Markup("").join(parts) + Markup("</svg>")


def _place(x: Axis, y: Axis, point_x: float, point_y: float) -> tuple[str, str]:
    across = LEFT + x.at(point_x) * (WIDTH - LEFT - RIGHT)
    down = HEIGHT - BOTTOM - y.at(point_y) * (HEIGHT - TOP - BOTTOM)
    return f"{across:.1f}", f"{down:.1f}"


def _frame(x: Axis, y: Axis, ticks: Mapping[float, str] | None) -> Markup:
    """Grid, ticks, and the label of x; that of y is the chart's title, which stands above it."""
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts: list[Markup] = []
    for value in y.ticks():
        _, at = _place(x, y, x.low, value)
        parts.append(_rule("grid", at, right))
        parts.append(_text("tick end", LEFT - 7, at, y.text(value), Markup(' dy=".32em"')))
    if y.low < 0 < y.high:
        parts.append(_rule("zero", _place(x, y, x.low, 0)[1], right))
    for value, text in (ticks or {value: x.text(value) for value in x.ticks()}).items():
        at, _ = _place(x, y, value, y.low)
        parts.append(_text("tick middle", at, bottom + 16, text))
    parts.append(_rule("axis", bottom, right))
    parts.append(_text("name middle", (LEFT + right) / 2, HEIGHT - 6, x.label))
    return Markup("").join(parts)


def _rule(kind: str, at: object, right: float) -> Markup:
    """A horizontal line."""
    return Markup('<line class="{}" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(kind, LEFT, right, at, at)


def _text(kind: str, x: object, y: object, text: str, more: Markup = Markup("")) -> Markup:  # noqa: B008
    return Markup('<text class="{}" x="{}" y="{}"{}>{}</text>').format(kind, x, y, more, text)


def _band(series: Series, x: Axis, y: Axis) -> Markup:
    edges = [(p.x, p.low, p.high) for p in series.points if p.low is not None and p.high is not None]
    if len(edges) < 2:
        return Markup("")
    around = [_place(x, y, at, high) for at, _, high in edges] + [_place(x, y, at, low) for at, low, _ in edges[::-1]]
    return Markup('<polygon class="band c{}" points="{}"/>').format(_colour(series), _joined(around))


def _line(series: Series, x: Axis, y: Axis) -> Markup:
    places = [_place(x, y, point.x, point.y) for point in series.points]
    parts = [Markup('<g class="c{}">').format(_colour(series))]
    if len(places) > 1:
        parts.append(Markup('<polyline class="line" points="{}"/>').format(_joined(places)))
    for (across, down), point in zip(places, series.points, strict=True):
        parts.append(
            Markup('<path class="mark" transform="translate({} {})" d="{}"><title>{}</title></path>').format(
                across, down, marker(series.index), f"{series.name}: {point.tooltip}"
            )
        )
    return Markup("").join(parts) + Markup("</g>")


def _joined(places: Sequence[tuple[str, str]]) -> str:
    return " ".join(f"{across},{down}" for across, down in places)


def _colour(series: Series) -> int:
    return series.index % COLOURS


def marker(index: int) -> str:
    """The path of a series' marker, around 0, 0."""
    return MARKERS[(index % COLOURS + index // COLOURS) % len(MARKERS)]


def swatch(index: int) -> Markup:
    """A series' marker alone, for legends and tables."""
    return Markup(
        '<svg class="swatch c{}" viewBox="-7 -7 14 14" aria-hidden="true"><path class="mark" d="{}"/></svg>'
    ).format(index % COLOURS, marker(index))


def histogram_rows(
    histograms: Mapping[int, Counter[int]], width: float, number: Callable[[float], str]
) -> tuple[dict[int, Markup], tuple[str, str, str]]:
    """({series: small histogram}, ticks): all over the same range, each as high as its own highest bar.

    histograms: {series: {bin: images}}, bins of `width`.
    """
    bins = [index for counts in histograms.values() for index in counts]
    if not bins:
        return {}, ("", "", "")
    low, high = min(bins), max(bins) + 1
    merged = -(-(high - low) // BARS)
    columns = -(-(high - low) // merged)
    rows = {series: _bars(counts, low, merged, columns, series) for series, counts in histograms.items()}
    edges = [(low + columns * merged * share) * width for share in (0, 0.5, 1)]
    return rows, (number(edges[0]), number(edges[1]), number(edges[2]))


def _bars(counts: Counter[int], low: int, merged: int, columns: int, series: int) -> Markup:
    heights = [0] * columns
    for index, images in counts.items():
        heights[(index - low) // merged] += images
    highest = max(heights) or 1
    step = ROW_WIDTH / columns
    path = [f"M0,{ROW_HEIGHT}"]
    for column, images in enumerate(heights):
        path.append(f"V{ROW_HEIGHT * (1 - images / highest):.1f}H{(column + 1) * step:.1f}")
    label = f"{sum(heights)} images"
    return Markup(
        '<svg class="bars c{}" viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" aria-label="{}">'
        '<path d="{}V{}Z"/></svg>'
    ).format(series % COLOURS, ROW_WIDTH, ROW_HEIGHT, label, "".join(path), ROW_HEIGHT)
