"""The charts of an evaluation's page: metrics against quality, distortion against perception, histograms."""

from collections.abc import Callable, Sequence
from typing import TypedDict

from markupsafe import Markup

from pipeline.evaluate.metrics import ACCURACY, Plan, Score, column_of, score_of
from pipeline.evaluate.reduction import Reduction, bin_width
from pipeline.evaluate.summary import Table
from pipeline.reports.charts import Axis, Point, Series, histogram_rows, line_chart, plane, swatch
from pipeline.reports.metric_text import header_of, scale_of, shown, signed, title_of
from pipeline.reports.page import Part, figure

DISTORTION = ("psnr", "psnr_y", "ssim", "ssim9", "ssim_gaussian")  # for the plane, the first that is there
PERCEPTION = ("lpips", "dists", "fid", "kid", "lpips_vgg", "lpips_squeezenet", "kid_mobilenet", "fid_mobilenet")
PLANES = 2  # perceptual metrics that get a plane



class Chart(TypedDict):
    """One chart."""

    title: str
    svg: Markup


class Group(TypedDict):
    """Charts of one kind."""

    label: str
    charts: list[Chart]


class Charts:
    """The charts, from the summary's conditions and the sums behind them."""

    def __init__(self, conditions: Sequence[Table], names: Sequence[str], plan: Plan, reduction: Reduction) -> None:
        self.conditions, self.names, self.plan, self.reduction = conditions, names, plan, reduction
        self.baseline = reduction.baseline
        self.index = {name: number for number, name in enumerate(names)}

    def curves(self) -> list[Group]:
        """Metrics, and gains over the baseline, against quality where single compressions have several.

        A group of charts a subsampling and kind.
        """
        groups: list[Group] = []
        single = [one for one in self.conditions if one["quality"] is not None and one["second_quality"] is None]
        for subsampling in dict.fromkeys(one["subsampling"] for one in single):
            conditions = [one for one in single if one["subsampling"] == subsampling]
            conditions.sort(key=lambda one: one["quality"] or 0)
            if len(conditions) < 2:
                continue
            charts = [self._curve(conditions, metric, self._point) for metric in self.plan.names]
            groups.append({"label": f"Chroma {subsampling}", "charts": [*filter(None, charts)]})
            if self.baseline:
                charts = [self._curve(conditions, metric, self._gain) for metric in self.plan.pairs]
                label = f"Chroma {subsampling}: gains over {self.baseline}, with 95 % intervals"
                groups.append({"label": label, "charts": [*filter(None, charts)]})
        return [group for group in groups if group["charts"]]

    def _curve(
        self, conditions: Sequence[Table], metric: str, point: Callable[[Table, str, str], Point | None]
    ) -> Chart | None:
        """One chart; None where nothing is known."""
        series = [
            Series(name, index, [found for one in conditions if (found := point(one, name, metric))])
            for name, index in self.index.items()
        ]
        points = [found for one in series for found in one.points]
        if not points:
            return None
        values = [value for p in points for value in (p.y, p.low, p.high) if value is not None]
        qualities = {one["quality"] or 0.0: str(one["quality"]) for one in conditions}
        title = title_of(metric)
        x, y = Axis.over("JPEG quality", list(qualities)), Axis.over(title, values)
        return {"title": title, "svg": line_chart(f"{title} against JPEG quality", series, x, y, qualities)}

    def _point(self, condition: Table, name: str, metric: str) -> Point | None:
        score = score_of(self._metric(condition, name, metric))
        if score is None:
            return None
        tooltip = f"{shown(score, metric)} at quality {condition['quality']}"
        return Point(condition["quality"] or 0, scale_of(metric)[0] * score, tooltip=tooltip)

    def _gain(self, condition: Table, name: str, metric: str) -> Point | None:
        gain = self._metric(condition, name, metric).get("gain")
        if gain is None:
            return None
        tooltip = f"{signed(gain['mean'], metric)} at quality {condition['quality']}"
        mean, low, high = (scale_of(metric)[0] * gain[part] for part in ("mean", "low", "high"))
        return Point(condition["quality"] or 0, mean, low, high, tooltip)

    def planes(self) -> list[Group]:
        """Distortion against perception: a group a perceptual metric, a chart a kind of compression."""
        across = next((metric for metric in DISTORTION if metric in self.plan.names), None)
        if across is None:
            return []
        up = [metric for metric in PERCEPTION if metric in self.plan.names][:PLANES]
        kinds: dict[str, list[Table]] = {}
        for one in self.conditions:
            doubled = ", compressed twice" if one["second_quality"] is not None else ""
            kind = f"Chroma {one['subsampling']}{doubled}" if one["subsampling"] else "As given"
            kinds.setdefault(kind, []).append(one)
        groups: list[Group] = []
        for metric in up:
            charts = [self._plane(kind, conditions, across, metric) for kind, conditions in kinds.items()]
            groups.append({"label": title_of(metric), "charts": [chart for chart in charts if chart]})
        return [group for group in groups if group["charts"]]

    def _plane(self, title: str, conditions: Sequence[Table], across: str, up: str) -> Chart | None:
        """Points of single compressions are joined, of double ones not: these have no order."""
        series: list[Series] = []
        for name, index in self.index.items():
            points: list[Point] = []
            for condition in conditions:
                x, y = (score_of(self._metric(condition, name, metric)) for metric in (across, up))
                if x is not None and y is not None:
                    tooltip = f"{condition['label']}: {shown(x, across)} and {shown(y, up)}"
                    points.append(Point(x * scale_of(across)[0], y * scale_of(up)[0], tooltip=tooltip))
            joined = conditions[0]["second_quality"] is None
            series += [Series(name, index, points)] if joined else [Series(name, index, [one]) for one in points]
        points = [point for one in series for point in one.points]
        if not points:
            return None
        header = header_of(across)
        label = f"{header['name']} ({header['small']}), better to the left"
        x, y = Axis.over(label, [p.x for p in points], falling=True), Axis.over(title, [p.y for p in points])
        return {"title": title, "svg": plane(f"{title_of(up)} against {title_of(across)}, {title}", series, x, y)}

    def distributions(self) -> list[Part]:
        """Of each condition, of each metric that images have: a histogram a candidate."""
        tables: list[Part] = []
        for one in self.conditions:
            graded = [number for number, metric in enumerate(self.plan.pairs) if metric != ACCURACY]  # right or wrong
            metrics = [self._histograms(one["condition"], number) for number in graded]
            tables.append({"label": one["label"], "metrics": [metric for metric in metrics if metric["rows"]]})
        return tables

    def _histograms(self, condition: str, number: int) -> Part:
        metric = self.plan.pairs[number]
        cells = {index: self.reduction.cell(condition, name) for name, index in self.index.items()}
        counts = {index: self.reduction.histograms.get((number, cell)) for index, cell in cells.items()}
        known = {index: found for index, found in counts.items() if found}
        bars, ticks = histogram_rows(known, bin_width(column_of(metric)) * scale_of(metric)[0], figure)
        rows = [{"name": self.names[index], "swatch": swatch(index), "bars": bars[index]} for index in bars]
        return {"header": header_of(metric), "rows": rows, "ticks": ticks}

    def _metric(self, condition: Table, name: str, metric: str) -> Score:
        return condition["candidates"][self.index[name]]["metrics"].get(column_of(metric)) or {}
