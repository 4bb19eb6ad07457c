"""What a run counts can be scraped from Ray's agent, and is what its result says; without Ray's help runs go on."""

import json
import re
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import ray

from pipeline.cluster import metrics
from pipeline.cluster.metrics import COUNTERS, GAUGES
from pipeline.restore.job import run_restore
from pipeline.restore.settings import RestoreSettings
from tests import made

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(300)]
SAMPLE = re.compile(r'^ray_(driftrec_\w+)\{(.*)\} (\S+)$', re.MULTILINE)


def run(source: Path, output: Path) -> dict[str, Any]:
    given = {"max_failed": "1", "actors": 1, "report": False, "price_per_hour": 3.6, "progress_s": 3600.0}
    return dict(run_restore(RestoreSettings(input=str(source), output=str(output), **given)))


def archive(path: Path) -> Path:
    source = made.folder(path, 4)
    (source / "a/empty.jpg").write_bytes(b"")
    return source


def scraped(run: str) -> dict[tuple[str, str, str], float]:
    """(name, status, reason) -> value, of all samples of this run."""
    node = ray.nodes()[0]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        text = answer.read().decode()
    found = {}
    for name, labels, value in SAMPLE.findall(text):
        tags = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        if tags["run"] == run:
            assert tags["job"] == "restore"
            found[name, tags.get("status", ""), tags.get("reason", "")] = float(value)
    return found


@pytest.mark.slow
def test_a_scrape_gives_what_the_result_says(tmp_path: Path) -> None:
    result = run(archive(tmp_path / "in"), tmp_path / "out")
    told, ends = {}, time.monotonic() + 60
    while told.get(("driftrec_shards_left", "", "")) != 0 and time.monotonic() < ends:
        time.sleep(1)
        told = scraped(result["fingerprint"][:8])
    assert {name for name, _, _ in told} == {*COUNTERS, *GAUGES}
    assert told["driftrec_images_total", "ok", ""] == result["status"]["ok"] == 4
    assert told["driftrec_images_total", "failed", "empty"] == result["reasons"]["empty"] == 1
    assert told["driftrec_megapixels_total", "", ""] == pytest.approx(result["megapixels_this_attempt"], abs=1e-3)
    evaluations = result["evaluations_per_image"] * 4
    assert told["driftrec_network_evaluations_total", "", ""] == pytest.approx(evaluations, abs=0.01)
    assert told["driftrec_seconds_left", "", ""] == 0


@pytest.mark.slow
def test_metrics_that_fail_end_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(*_: object) -> None:
        raise OSError("no agent")

    monkeypatch.setattr(metrics.Counter, "inc", failing)
    assert run(archive(tmp_path / "in"), tmp_path / "out")["state"] == "done"
    assert [record.message for record in caplog.records].count("metrics are off: OSError: no agent") == 1
    assert json.loads((tmp_path / "out/status.json").read_text())["state"] == "done"
