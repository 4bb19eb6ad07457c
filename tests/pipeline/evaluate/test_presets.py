"""Published tables as settings: what is given beside one wins, and its rows stand beside ours where they belong."""

import json
from pathlib import Path
from typing import Any

import pytest

from driftrec.errors import InvalidInput
from pipeline.evaluate.conditions import conditions_of
from pipeline.evaluate.evaluation import open_evaluate
from pipeline.evaluate.metrics import known_metrics
from pipeline.evaluate.presets import PRESETS, published_under
from pipeline.evaluate.settings import EvaluateSettings
from pipeline.settings import load
from tests.pipeline.evaluate.test_evaluate_report import Page, evaluated
from tests.pipeline.evaluations import clean

RANGES = {"psnr": (20, 40), "psnrb": (20, 40), "ssim": (0.5, 1), "lpips": (0, 1), "kid": (0, 1), "fid": (1, 500)}


def settings_of(**changes: Any) -> EvaluateSettings:
    return load(EvaluateSettings, flags={"reference": "in", "output": "out"} | changes)


def slugs(settings: EvaluateSettings) -> list[str]:
    return [condition.slug for condition in conditions_of(settings)]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_conditions_metrics_and_rows_that_fit_them(name: str) -> None:
    preset, settings = PRESETS[name], settings_of(preset=name)
    assert set(settings.metrics) <= set(known_metrics())
    assert settings.subsampling == ("4:2:0",)
    assert bool(preset.published) == (preset.images is not None)
    assert len({row.name for row in preset.published}) == len(preset.published)
    for row in preset.published:
        assert set(row.scores) <= set(slugs(settings))
        for scores in row.scores.values():
            assert set(scores) <= set(settings.metrics)
            for metric, score in scores.items():
                low, high = next(bounds for start, bounds in RANGES.items() if metric.startswith(start))
                assert low <= score <= high  # raw, not times 100


def test_the_tables_are_those_that_papers_print() -> None:
    assert slugs(settings_of(preset="live1")) == ["q10-420", "q20-420", "q40-420"]
    doubled = ["q30-q10", "q10-q30", "q30-q30", "q50-q30", "q30-q50"]
    assert slugs(settings_of(preset="paper-table-4")) == [f"{pair}-shift4-420" for pair in doubled]
    rows = {row["name"]: row["metrics"] for row in published_under("live1", "q20-420", {"psnr": "psnr", "psnrb": "b"})}
    assert rows["SwinIR"] == {"psnr": 30.45, "b": 29.97}
    assert rows["QGAC"] == {"psnr": 29.88}
    faces = published_under("paper-celebahq", "q10-420", {metric: metric for metric in known_metrics()})
    assert faces[2]["name"] == "DDRM"
    ddrm = {"ssim9": 0.86, "psnr": 29.98, "lpips": 0.114, "kid": 0.0224, "fid": 33.4}
    assert faces[2]["metrics"] == pytest.approx(ddrm)
    assert published_under(None, "q10-420", {"psnr": "psnr"}) == []


@pytest.mark.parametrize("given", [{"quality": "10"}, {"metrics": "psnr,gmsd"}, {"subsampling": "4:4:4"}, {"seed": 3}])
def test_what_is_given_beside_a_preset_wins(given: dict[str, Any], tmp_path: Path) -> None:
    plain, preset = settings_of(**given), settings_of(preset="live1")
    both = settings_of(preset="live1", **given)
    for name in type(both).model_fields:
        assert getattr(both, name) == getattr(plain if name in given else preset, name), name
    lines = "".join(f"{name}: '{value}'\n" for name, value in given.items())
    (tmp_path / "settings.yaml").write_text(f"reference: in\noutput: out\npreset: live1\n{lines}")
    assert load(EvaluateSettings, config=str(tmp_path / "settings.yaml")) == both


def test_all_settings_of_a_preset_make_the_same_settings_again() -> None:
    settings = settings_of(preset="live1", quality="20")
    assert EvaluateSettings.model_validate(settings.model_dump()) == settings


@pytest.mark.parametrize("name", ["live2", "", "LIVE1", "paper-table-2"])
def test_an_unknown_preset_is_refused_with_the_list(name: str) -> None:
    with pytest.raises(InvalidInput, match=f"unknown preset '{name}'; known: {', '.join(PRESETS)}"):
        settings_of(preset=name)


def test_a_preset_of_images_that_are_damaged_already_gives_its_metrics() -> None:
    settings = settings_of(preset="live1", damaged="there")
    assert slugs(settings) == ["none"]
    assert settings.metrics == ("psnr", "ssim_gaussian", "psnrb")


def test_a_preset_is_the_same_run_as_its_settings(tmp_path: Path) -> None:
    given = {"reference": str(clean(tmp_path / "in", 2)), "output": str(tmp_path / "out")}
    first = open_evaluate(load(EvaluateSettings, flags=given | {"preset": "live1"})).run.fingerprint
    again = load(EvaluateSettings, flags=given | dict(PRESETS["live1"].settings))
    assert open_evaluate(again).run.fingerprint == first
    with pytest.raises(InvalidInput, match="metrics is"):
        open_evaluate(load(EvaluateSettings, flags=given | {"preset": "live1", "metrics": "psnr"}))


def rows_of(page: Page, label: str) -> dict[str, list[str]]:
    """Cells by row of the table under one condition."""
    texts = [text for _, text in page.texts]
    table = texts[texts.index(label) :]
    names = [row.name for row in PRESETS["live1"].published]
    return {name: table[table.index(name) + 1 : table.index(name) + 5] for name in names if name in table[:60]}


def test_published_rows_stand_beside_ours(tmp_path: Path) -> None:
    source = clean(tmp_path / "in", 3)
    given = {"preset": "live1", "quality": "10,40", "metrics": "psnr,psnrb,ssim"}
    page, summary = evaluated(source, tmp_path / "out", **given)
    tables = {table["condition"]: table for table in summary["conditions"]}
    for slug, names in {"q10-420": 5, "q40-420": 3}.items():
        published = tables[slug]["published"]
        assert len(published) == names
        assert all(row["metrics"].keys() <= {"psnr", "psnrb"} for row in published)  # no gaussian SSIM here
    assert summary["preset"]["name"] == "live1"
    assert any(
        "means over 29 images of LIVE1" in warning and "ours over 3" in warning for warning in summary["warnings"]
    )
    shown = rows_of(page, "Quality 10, 4:2:0")
    assert shown["SwinIR"] == ["published", "28.06", "27.76", "–"]
    assert shown["QGAC"] == ["published", "27.62", "–", "–"]
    assert [row["candidate"] for row in tables["q10-420"]["candidates"]] == ["jpeg"]
    assert page.text("span").count("published") == 8


def test_where_no_rows_are_known_it_is_said(tmp_path: Path) -> None:
    page, summary = evaluated(
        clean(tmp_path / "in", 2), tmp_path / "out", preset="paper-table-4", metrics="psnr", quality="30/10"
    )
    assert summary["preset"]["published"] == "published rows: none known here"
    assert all(table["published"] == [] for table in summary["conditions"])
    assert "published rows: none known here" in page.html
    assert not any("published rows are means" in warning for warning in summary["warnings"])
    plain, told = evaluated(clean(tmp_path / "in", 2), tmp_path / "plain", metrics="psnr")
    assert told["preset"] is None
    assert "Preset" not in plain.html
    assert json.dumps(told)
