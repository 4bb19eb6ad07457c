"""The page of an evaluation: its numbers are the summary's, its pictures the images'; it acts and loads nothing."""

import base64
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.evaluate.evaluation import open_evaluate
from pipeline.evaluate.model_pool import Restoring
from pipeline.evaluate.report import write_evaluate_report
from pipeline.evaluate.stage import ScoreShard
from pipeline.evaluate.summary import reduce_ledger, summarize
from pipeline.inputs.shards import read_shard
from pipeline.runs.run import finish
from tests import made
from tests.pipeline.evaluations import clean, settings_of

HOSTILE = """<script>alert(1)<img onerror>"&'"""
VOID = {"meta", "img", "input", "br"}


class Page(HTMLParser):
    """Elements with their attributes, and texts with the element that holds them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html, self.open = html, [("", "")]
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append((tag, dict(attrs).get("class") or ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag, tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.open[-1][0], data.strip()))

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self, tag: str) -> list[str]:
        return [text for name, text in self.texts if name == tag]


def evaluated(source: Path, output: Path, **changes: Any) -> tuple[Page, dict[str, Any]]:
    """The page and summary of an evaluation without Ray."""
    evaluation = open_evaluate(settings_of(source, output, **({"quality": "5,30,30/10"} | changes)))
    run, settings = evaluation.run, evaluation.settings
    models = evaluation.candidates.models
    restoring = Restoring(models, settings.seed, settings.max_pixels) if models else None
    found = (evaluation.conditions, evaluation.candidates, evaluation.plan)
    stage = ScoreShard(settings, *found, restoring, run.store)
    for shard in run.todo:
        counts = stage(read_shard(shard)).to_pylist()[0]
        run.statuses.update(ok=counts["ok"], failed=counts["failed"])
    reduction = reduce_ledger(evaluation)
    summary = summarize(evaluation, reduction)
    write_evaluate_report(evaluation, summary, reduction, finish(run), restoring)
    return Page((output / "report.html").read_text(encoding="utf-8")), json.loads((output / "summary.json").read_text())


def pixels(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB"))


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> tuple[Path, Page, dict[str, Any]]:
    """Seven images, two models and a tool; one image is broken, one a JPEG."""
    folder = tmp_path_factory.mktemp("example")
    source = clean(folder / "in", 5)
    (source / "lossy.jpg").write_bytes(made.jpeg(1))
    (source / f"{HOSTILE}.png").write_bytes(b"no")
    for slug in ("q5-420", "q30-420", "q30-q10-shift4-420"):
        clean(folder / "tool" / slug, 4)
    models = [f"mean={small_model}?fidelity=1", f"{HOSTILE}={small_model}"]
    candidate = [f"tool={folder}/tool"]
    page, summary = evaluated(source, folder / "out", model=models, candidate=candidate, metrics="psnr,ssim,bef")
    return source, page, summary


def test_it_is_one_file_that_loads_and_runs_nothing_foreign(example: tuple[Path, Page, dict[str, Any]]) -> None:
    _, page, _ = example
    assert page.open == [("", "")]  # all elements are closed
    assert not page.all("link") + page.all("iframe") + page.all("object")
    assert all(image["src"].startswith("data:image/") for image in page.all("img"))
    assert not re.search(r"url\(|@import", page.html)
    assert not [a for _, a in page.elements if any(name.startswith("on") or name == "href" for name in a)]
    (script,) = re.findall(r"<script>(.*?)</script>", page.html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = page.all("meta")[2]["content"]
    assert policy.startswith("default-src 'none'")
    assert f"script-src 'sha256-{digest}'" in policy
    assert len(page.html) < 8_000_000


def test_names_are_text(example: tuple[Path, Page, dict[str, Any]]) -> None:
    _, page, _ = example
    assert f"{HOSTILE}.png" in page.text("th")
    assert any(HOSTILE in text for text in page.text("b"))
    assert len(page.all("script")) == 1


def test_tables_hold_the_summarys_numbers(example: tuple[Path, Page, dict[str, Any]]) -> None:
    _, page, summary = example
    shown = {text for _, text in page.texts}
    for condition in summary["conditions"]:
        assert condition["label"] in page.text("h3")
        for candidate in condition["candidates"]:
            metrics = candidate["metrics"]
            for name, text in (("psnr", "{:.2f}"), ("ssim7", "{:.4f}")):
                if metrics[name]["mean"] is not None:
                    assert text.format(metrics[name]["mean"]) in shown
                    low, high = (text.format(metrics[name][edge]) for edge in ("low", "high"))
                    assert f"{low} – {high}" in shown
    best = [
        f"{one['metrics']['psnr']['mean']:.2f}"
        for condition in summary["conditions"]
        for one in condition["candidates"]
        if one["metrics"]["psnr"].get("best")
    ]
    assert len(best) == 3
    assert set(best) <= set(page.text("strong"))
    heads = page.text("span")
    assert {"PSNR ↑", "SSIM ↑", "BEF ↓"} <= set(heads)
    assert "uniform 7x7" in page.text("small")


def test_sections_and_charts(example: tuple[Path, Page, dict[str, Any]]) -> None:
    _, page, summary = example
    assert {"At a glance", "Condition by condition", "Against quality", "How images spread", "Without a score"} <= set(
        page.text("h2")
    )
    charts = [one for one in page.all("svg") if one.get("class") == "chart"]
    metrics = ("PSNR (dB) ↑", "SSIM (uniform 7x7) ↑", "BEF (squared levels of 255) ↓")
    assert [one["aria-label"] for one in charts] == 2 * [f"{metric} against JPEG quality" for metric in metrics]
    assert "Chroma 4:2:0: gains over jpeg, with 95 % intervals" in page.text("h3")
    histograms = [one for one in page.all("svg") if one.get("class", "").startswith("bars")]
    # The tool's files are the references: no finite PSNR, and of another size where these are cropped.
    assert len(histograms) == 3 * 3 * 4 - 3 - 2
    text = " ".join(page.text("li"))
    assert "1 of 7 references are JPEG files themselves" in text
    assert all(warning in page.text("li") for warning in summary["warnings"])
    assert {"not_an_image", "no_partner"} <= set(page.text("span"))


def test_pictures_are_the_images(example: tuple[Path, Page, dict[str, Any]]) -> None:
    source, page, _ = example
    keys = page.text("h4")
    assert len(page.all("img")) == 3 * len(keys) == 3 * 8  # of 7 images four in each list
    truths = [image for image in page.all("img") if image["class"] == "truth"]
    inputs = [image for image in page.all("img") if image["class"] == "input"]
    assert len(truths) == len(inputs) == 8
    for key, truth, before in zip(keys, truths, inputs, strict=True):
        reference, seen = np.asarray(Image.open(source / key).convert("RGB")), pixels(truth["src"])
        height, width = seen.shape[:2]
        assert seen.shape == pixels(before["src"]).shape
        closest = min(
            np.abs(reference[y : y + height, x : x + width].astype(int) - seen).mean()
            for y in range(reference.shape[0] - height + 1)
            for x in range(reference.shape[1] - width + 1)
        )
        assert closest < 3


def test_one_condition_and_no_models(tmp_path: Path) -> None:
    source = clean(tmp_path / "in", 3)
    page, summary = evaluated(source, tmp_path / "one", quality="10")
    assert "At a glance" not in page.text("h2")
    assert "Against quality" not in page.text("h2")
    assert page.text("h1") == ["1 candidate on 3 images, 1 condition"]
    assert len(page.text("h4")) == 4
    assert summary["warnings"] == []
    page, _ = evaluated(source, tmp_path / "none", quality="none", candidate=[f"tool={source}"])
    assert page.open == [("", "")]
    assert "As given" in page.text("h3")


def test_many_conditions_stay_within_bounds(tmp_path: Path) -> None:
    source = clean(tmp_path / "in", 60, 24, 24)
    page, _ = evaluated(source, tmp_path / "out", quality="5,10,20,30,40,50", subsampling="4:2:0,4:4:4")
    assert len(page.text("h4")) == 48
    assert len(page.html) < 6_000_000
