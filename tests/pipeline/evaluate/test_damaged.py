"""Damaged files that are given: they score as the JPEGs that an evaluation makes, wherever they lie; what is no pair is
told.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from driftrec.errors import InvalidInput
from driftrec.image import decode
from driftrec.jpeg.codec import encode_jpeg
from pipeline.evaluate.evaluation import Evaluation, open_evaluate
from pipeline.evaluate.model_pool import Restoring
from pipeline.evaluate.report import write_evaluate_report
from pipeline.evaluate.stage import ScoreShard
from pipeline.evaluate.summary import reduce_ledger, summarize
from pipeline.inputs.names import stem
from pipeline.inputs.shards import read_shard
from pipeline.runs.run import finish
from pipeline.settings import load
from tests.pipeline.evaluations import EvaluateSettings, Row, by_place, clean
from tests.pipeline.inputs.test_pairing import SIDES, Files, Maker, folder, images

METRICS = "psnr,ssim,bef"


def opened(source: str | Path, output: Path, **changes: Any) -> Evaluation:
    given = {"reference": str(source), "output": str(output), "metrics": METRICS}
    return open_evaluate(load(EvaluateSettings, flags=given | changes))


def scored(evaluation: Evaluation) -> dict[tuple[str, str, str], Row]:
    """The rows of an evaluation without Ray, by place."""
    settings, run, models = evaluation.settings, evaluation.run, evaluation.candidates.models
    restoring = Restoring(models, settings.seed, settings.max_pixels) if models else None
    found = (evaluation.conditions, evaluation.candidates, evaluation.plan)
    stage = ScoreShard(settings, *found, restoring, run.store, damaged=evaluation.damaged)
    rows: list[Row] = []
    for shard in run.listing.shards:
        assert stage(read_shard(shard)).to_pylist()[0]["error"] is None
        rows += stage.ledger.read_part(shard.id).to_pylist()
    return by_place([row | {"seconds": None} for row in rows])


def jpegs(files: Files, quality: int = 10) -> Files:
    """The same names and pictures as JPEG files."""
    return {f"{stem(name)}.jpg": encode_jpeg(decode(data).rgb8, quality, "4:2:0") for name, data in files.items()}


@pytest.mark.parametrize(("clean_side", "damaged_side"), SIDES, ids=lambda maker: maker.__name__)
def test_given_files_score_as_those_that_are_made(
    tmp_path: Path, clean_side: Maker, damaged_side: Maker, small_model: Path
) -> None:
    files = images(False, ".png")
    source, damaged = clean_side(tmp_path / "clean", files), damaged_side(tmp_path / "damaged", jpegs(files))
    common = {"model": [f"sample={small_model}"]}
    given = scored(opened(source, tmp_path / "given", damaged=damaged, **common))
    made = scored(opened(source, tmp_path / "made", quality="10", **common))
    assert len(given) == 2 * len(files)
    differ = ("condition", "quality", "subsampling")
    for (key, slug, name), row in given.items():
        assert slug == "none"
        assert row["status"] == "ok"
        assert row == made[key, "q10-420", name] | {one: row[one] for one in differ}
        assert [row[one] for one in differ] == ["none", None, None]


def test_other_tools_stand_beside_them(tmp_path: Path) -> None:
    files = images(False, ".png")
    source, damaged = folder(tmp_path / "clean", files), folder(tmp_path / "damaged", jpegs(files, 5))
    tool = folder(tmp_path / "tool", jpegs(files, 50))
    rows = scored(opened(source, tmp_path / "out", damaged=damaged, candidate=[f"tool={tool}"]))
    assert {name for _, _, name in rows} == {"jpeg", "tool"}
    for key in files:
        assert rows[key, "none", "tool"]["psnr"] > rows[key, "none", "jpeg"]["psnr"] + 1


def test_what_is_no_pair_is_a_row_with_a_reason(tmp_path: Path, small_model: Path) -> None:
    source = clean(tmp_path / "clean", 5)
    damaged = tmp_path / "damaged"
    for number, path in enumerate(sorted(source.rglob("*.png"))):
        target = damaged / path.relative_to(source).with_suffix(".jpg")
        target.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.array(Image.open(path))
        data = encode_jpeg(pixels[: 24 if number == 1 else None], 10, "4:2:0")
        target.write_bytes({2: b"<html>", 3: b""}.get(number, data))
        if number == 0:
            target.unlink()
    rows = scored(opened(source, tmp_path / "out", damaged=str(damaged), model=[f"mean={small_model}?fidelity=1"]))
    keys = sorted({key for key, *_ in rows})
    for name in ("jpeg", "mean"):
        told = [rows[key, "none", name] for key in keys]
        assert [row["reason"] for row in told] == ["no_partner", "size_mismatch", "not_an_image", "empty", None]
        assert [row["psnr"] is None for row in told] == [True] * 4 + [False]
    assert "the damaged image: no damaged image of this name" in rows[keys[0], "none", "jpeg"]["detail"]
    assert "the candidate has 56x24 pixels, the reference 56x" in rows[keys[1], "none", "mean"]["detail"]


def test_the_page_shows_the_files_that_were_given(tmp_path: Path, small_model: Path) -> None:
    files = images(False, ".png")
    lost = {"b/nobody.jpg": jpegs(files)["a/0.jpg"]}
    source, damaged = folder(tmp_path / "clean", files), folder(tmp_path / "damaged", jpegs(files) | lost)
    evaluation = opened(source, tmp_path / "out", damaged=damaged, model=[f"m={small_model}"])
    scored(evaluation)
    evaluation.run.statuses.update(ok=len(files))
    reduction = reduce_ledger(evaluation)
    summary = summarize(evaluation, reduction)
    restoring = Restoring(evaluation.candidates.models, 0, 10**6)
    write_evaluate_report(evaluation, summary, reduction, finish(evaluation.run), restoring)
    unmatched = json.loads((tmp_path / "out/summary.json").read_text())["failures"]["files_without_reference"]
    assert unmatched == [{"candidate": "jpeg", "condition": "none", "files": 1, "first": ["b/nobody.jpg"]}]
    page = (tmp_path / "out/report.html").read_text()
    assert f"as given in {damaged}" in page
    assert page.count("<figure") >= 2 * (len(files) // 2)
    assert "1 files of candidates" in page


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"damaged": "{tmp}/none"}, r"--damaged: .*/none does not exist"),
        ({"damaged": "{tmp}/empty"}, r"--damaged: .*/empty holds no image"),
        ({"damaged": "{tmp}/others"}, r"not one reference has a file of its name in .*/others; a/0 needs .* a/0\.jpg"),
        ({"damaged": "{tmp}/twice"}, r"--damaged: .*a/0\.(jpg|png)"),
        ({"quality": "10"}, "damaged images are given: leave out quality, which would make them"),
        ({"quality": "10", "second_quality": "5"}, "leave out quality and second_quality"),
        ({"output": "{tmp}/damaged/out"}, "lie in each other"),
        ({"damaged": " "}, "give a path or URL"),
    ],
)
def test_what_is_wrong_is_told_before_the_start(tmp_path: Path, changes: dict[str, str], told: str) -> None:
    files = images(False, ".png")
    source = folder(tmp_path / "clean", files)
    folder(tmp_path / "damaged", jpegs(files))
    folder(tmp_path / "others", {f"x{name}": data for name, data in jpegs(files).items()})
    folder(tmp_path / "twice", files | jpegs(files))
    (tmp_path / "empty").mkdir()
    given = {"damaged": "{tmp}/damaged", "output": "{tmp}/out"} | changes
    filled = {name: value.format(tmp=tmp_path) for name, value in given.items()}
    with pytest.raises(InvalidInput, match=told):
        opened(source, Path(filled.pop("output")), **filled)


def test_other_files_are_another_run_and_another_place_is_not(tmp_path: Path) -> None:
    files = images(False, ".png")
    source, damaged = folder(tmp_path / "clean", files), folder(tmp_path / "damaged", jpegs(files))
    opened(source, tmp_path / "out", damaged=damaged)
    moved = (tmp_path / "damaged").rename(tmp_path / "moved")
    opened(source, tmp_path / "out", damaged=str(moved), quality="none")
    folder(moved, jpegs(files, 30))
    with pytest.raises(InvalidInput, match="damaged is "):
        opened(source, tmp_path / "out", damaged=str(moved))
    with pytest.raises(InvalidInput, match="conditions is "):
        opened(source, tmp_path / "out", quality="10")
