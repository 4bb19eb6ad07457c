"""The dashboard and the scrape example speak of the metrics that runs export, and of no others."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from pipeline.cluster.metrics import COUNTERS, GAUGES, RUN_TAGS

FOLDER = Path(__file__).parents[2] / "deploy/grafana"
EXPORTED = {f"ray_{name}" for name in (*COUNTERS, *GAUGES)}
NAME = re.compile(r"\bray_\w+")


def dashboard() -> dict[str, Any]:
    return json.loads((FOLDER / "driftrec.json").read_text())


def expressions() -> list[str]:
    return [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]


def test_the_dashboard_shows_every_metric_and_no_other() -> None:
    assert {name for text in expressions() for name in NAME.findall(text)} == EXPORTED
    assert set(NAME.findall((FOLDER / "driftrec.json").read_text())) == EXPORTED  # those of its variables too


def test_names_are_as_prometheus_wants() -> None:
    assert all(re.fullmatch(r"driftrec_[a-z_]+_total", name) for name in COUNTERS)
    assert not [name for name in GAUGES if name.endswith("_total")]


def test_only_labels_that_are_there_are_asked_for() -> None:
    known = {*RUN_TAGS, *(tag for _, tags in COUNTERS.values() for tag in tags)}
    for text in expressions():
        grouped = {name.strip() for names in re.findall(r"by \(([^)]*)\)", text) for name in names.split(",")}
        assert grouped | set(re.findall(r"(\w+)[=!]", text)) <= known
        assert ("rate(" in text) <= ("_total" in text)


def test_panels_stand_beside_each_other() -> None:
    taken = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert place["x"] + place["w"] <= 24
        assert not taken & cells
        taken |= cells
    assert len({panel["id"] for panel in dashboard()["panels"]}) == len(dashboard()["panels"])


def test_the_scrape_keeps_our_metrics_and_the_name_of_the_job() -> None:
    [scrape] = yaml.safe_load((FOLDER / "prometheus.yml").read_text())["scrape_configs"]
    [rule] = scrape["metric_relabel_configs"]
    assert all(re.fullmatch(rule["regex"], name) for name in EXPORTED)
    assert scrape["honor_labels"] is True
