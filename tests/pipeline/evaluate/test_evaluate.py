"""The evaluate job through Ray: exact ledgers, reports that are functions of them, resume, and refusals."""

import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from driftrec.errors import DriftRecError, InvalidInput
from driftrec.jpeg.codec import encode_jpeg
from pipeline.cluster.graph import Pool
from pipeline.evaluate.evaluation import open_evaluate
from pipeline.evaluate.job import run_evaluate
from pipeline.evaluate.model_pool import start_pool, stop_pool
from pipeline.model_source import find
from pipeline.runs.verify import verify
from tests import made
from tests.pipeline.evaluations import by_place, clean, score, settings_of

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(400)]

ONE_EACH = {"actors": 1, "scorers": 1}  # a process takes seconds to start
TWO = {"quality": "10,30/10", "progress_s": 3600.0}


@pytest.fixture(scope="session")
def mobilenet(tmp_path_factory: pytest.TempPathFactory) -> str:
    """--weights of MobileNetV2 features: random, and so shaped that they do not vanish on their way."""
    from torchvision.models import mobilenet_v2

    torch.manual_seed(0)
    state = mobilenet_v2().state_dict()
    for value in state.values():
        if value.ndim > 1:
            value.normal_(std=(2 / value[0].numel()) ** 0.5)
    path = tmp_path_factory.mktemp("weights") / "mobilenet_v2.safetensors"
    save_file(state, path)
    return f"mobilenet={path}"


def evaluate(source: Path, output: Path, **changes: Any) -> dict[str, Any]:
    return run_evaluate(settings_of(source, output, **(ONE_EACH | TWO | changes)))


def report(output: Path) -> list[dict[str, Any]]:
    return pq.read_table(output / "report.parquet").to_pylist()


def timeless(conditions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The summary's conditions without their seconds."""
    return [
        condition | {"candidates": [one | {"seconds_mean": None} for one in condition["candidates"]]}
        for condition in conditions
    ]


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_an_evaluation_from_start_to_end(tmp_path: Path, small_model: Path) -> None:
    source, output = clean(tmp_path / "in", 6), tmp_path / "out"
    models = [f"mean={small_model}?fidelity=1", f"sample={small_model}"]
    result = evaluate(source, output, model=models, actors=2)
    assert (result["exit_code"], result["images"], result["reasons"]) == (0, 6, {})
    assert result == json.loads((output / "_RESULT.json").read_text())
    names = {path.name for path in output.iterdir()}
    beside = {"report.parquet", "summary.json", "report.html"}
    assert names == {"run.json", "ledger", "status.json", "_RESULT.json"} | beside

    rows = score(source, tmp_path / "without-ray", model=models, **TWO)
    assert [row | {"seconds": None} for row in report(output)] == rows
    frame = pd.read_parquet(output / "report.parquet")
    assert len(frame) == 6 * 2 * 3
    query = f"select candidate, avg(psnr) from '{output}/report.parquet' where status = 'ok' group by all order by all"
    by_duckdb = dict(duckdb.sql(query).fetchall())
    assert by_duckdb == pytest.approx(frame.groupby("candidate").psnr.mean().to_dict())
    summary = json.loads((output / "summary.json").read_text())
    assert result["conditions"] == summary["conditions"]
    for condition in summary["conditions"]:
        for told in condition["candidates"]:
            chosen = frame[(frame.condition == condition["condition"]) & (frame.candidate == told["candidate"])]
            assert (told["ok"], told["failed"]) == (6, 0)
            for metric in ("psnr", "ssim7", "psnrb", "bef"):
                assert told["metrics"][metric]["mean"] == pytest.approx(chosen[metric].mean(), rel=1e-12)
    assert [one["spec"] for one in summary["candidates"][1:]] == models
    assert summary["recipe"]["versions"]["torch"]
    assert "score-cards" in (output / "report.html").read_text()

    before = files(output)
    assert evaluate(source, output, model=models, actors=1) == result
    assert files(output) == before


@pytest.mark.slow
def test_only_what_is_missing_is_computed(tmp_path: Path, small_model: Path, mobilenet: str) -> None:
    source, output = clean(tmp_path / "in", 8), tmp_path / "out"
    given = {"model": [str(small_model)], "metrics": "psnr,fid_mobilenet,kid_mobilenet", "weights": [mobilenet]}
    given |= {"report": False}
    evaluate(source, output, **given)
    whole, summary = report(output), json.loads((output / "summary.json").read_text())
    parts = sorted((output / "ledger").iterdir())
    for part in parts[::2]:
        part.unlink()
    for part in parts[::4]:
        (output / "sets" / part.name).unlink()  # else only the part itself was not written any more
    (output / "_RESULT.json").unlink()
    (output / "report.parquet").write_bytes(b"half")
    kept = {name: found for name, found in files(output).items() if name.startswith(("ledger", "sets"))}
    result = evaluate(source, output, **given)
    assert result["shards"] == {"listed": len(parts), "done": len(parts), "resumed": len(parts) // 2}
    assert result["images_this_attempt"] == 4
    assert kept.items() <= files(output).items()
    assert report(output) == whole
    again = json.loads((output / "summary.json").read_text())
    assert timeless(again["conditions"]) == timeless(summary["conditions"])
    assert again["recipe"] == summary["recipe"]
    assert verify(str(output))["state"] == "sound"

    (output / "report.parquet").unlink()
    (output / "sets" / parts[1].name).unlink()
    first = verify(str(output), quick=True)["first"]
    assert sorted(first["missing"]) == ["report.parquet", f"sets/{parts[1].name}"]
    assert first.keys() == {"missing"}
    assert evaluate(source, output, **given)["images_this_attempt"] == 1
    assert report(output) == whole
    assert verify(str(output))["state"] == "sound"


@pytest.mark.slow
def test_numbers_do_not_depend_on_the_number_of_actors(tmp_path: Path, small_model: Path, mobilenet: str) -> None:
    source = clean(tmp_path / "in", 8)
    given = {"model": [str(small_model)], "metrics": "psnr,ssim,fid_mobilenet,kid_mobilenet", "weights": [mobilenet]}
    one = evaluate(source, tmp_path / "one", actors=1, scorers=1, threads=1, report=False, **given)
    many = evaluate(source, tmp_path / "many", actors=3, scorers=2, threads=3, batch_size=1, report=False, **given)
    assert report(tmp_path / "one") == report(tmp_path / "many")
    for condition, other in zip(one["conditions"], many["conditions"], strict=True):
        for candidate, twin in zip(condition["candidates"], other["candidates"], strict=True):
            for name, metric in candidate["metrics"].items():
                expected = twin["metrics"][name]
                assert (metric.pop("gain", None) or {}) == pytest.approx(expected.pop("gain", None) or {}, rel=1e-9)
                assert metric == pytest.approx(expected, rel=1e-9)


@pytest.mark.slow
def test_given_files_are_scored_in_place_of_made_ones(tmp_path: Path, small_model: Path) -> None:
    source, damaged, output = clean(tmp_path / "in", 5), tmp_path / "damaged", tmp_path / "out"
    for path in sorted(source.rglob("*.png"))[1:]:
        target = damaged / path.relative_to(source).with_suffix(".jpg")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(encode_jpeg(np.array(Image.open(path)), 10, "4:2:0"))
    given = {"model": [str(small_model)], "damaged": str(damaged), "quality": "none", "max_failed": 1}
    result = evaluate(source, output, **given)
    assert (result["exit_code"], result["reasons"]) == (0, {"no_partner": 1})
    rows = {(row["key"], row["candidate"]): row for row in report(output)}
    expected = by_place(score(source, tmp_path / "made", model=[str(small_model)], quality="10"))
    for (key, name), row in rows.items():
        twin = expected[key, "q10-420", name]
        assert (row["condition"], row["quality"]) == ("none", None)
        assert row["psnr"] == (None if row["reason"] else twin["psnr"])
    assert [key for (key, _), row in rows.items() if row["reason"]] == ["a/0000.png"] * 2
    before = files(output)
    assert evaluate(source, output, **given) == result
    assert files(output) == before


@pytest.mark.slow
def test_pairs_that_are_no_pairs_are_counted(tmp_path: Path) -> None:
    source, tool = clean(tmp_path / "in", 6), tmp_path / "tool"
    for number, path in enumerate(sorted(source.rglob("*.png"))):
        for slug in ("q10-420", "q30-q10-shift4-420"):
            target = tool / slug / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            with Image.open(path) as image:
                (image.crop((0, 0, 20, 20)) if number == 2 else image).save(target)
    (tool / "q10-420/a/0000.png").unlink()
    (tool / "q10-420/extra.png").write_bytes(b"")
    (source / "b/broken.jpg").write_bytes(b"no")
    (source / "b/lossy.jpg").write_bytes(made.jpeg(5))
    result = evaluate(source, tmp_path / "out", candidate=[f"tool={tool}"])
    assert result["exit_code"] == 3
    assert result["status"] == {"ok": 0, "failed": 8, "skipped": 0}  # the whole image where the crop of it was wanted
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    reasons = {(one["candidate"], one["reason"]): one["rows"] for one in summary["failures"]["reasons"]}
    assert reasons["jpeg", "not_an_image"] == reasons["tool", "not_an_image"] == 2
    assert reasons["tool", "no_partner"] == 1 + 2  # and lossy.jpg under both conditions
    assert reasons["tool", "size_mismatch"] >= 2
    unmatched = summary["failures"]["files_without_reference"]
    assert unmatched == [{"candidate": "tool", "condition": "q10-420", "files": 1, "first": ["extra.png"]}]
    told = " ".join(summary["warnings"])
    assert "1 of 8 references are JPEG files themselves: the reference is lossy" in told
    assert "1 files of candidates belong to no reference" in told
    page = (tmp_path / "out/report.html").read_text()
    assert all(text in page for text in ("no_partner", "size_mismatch", "extra.png", "the reference is lossy"))
    single = {one["candidate"]: one for one in result["conditions"][0]["candidates"]}
    assert (single["tool"]["ok"], single["tool"]["failed"]) == (4, 4)
    none = dict.fromkeys(("mean", "low", "high", "gain"))
    assert single["tool"]["metrics"]["psnr"] == none | {"images": 0, "not_finite": 4}


@pytest.mark.slow
def test_a_model_that_changes_under_the_run_ends_it(tmp_path: Path, small_model: Path) -> None:
    source, model = clean(tmp_path / "in", 2), tmp_path / "m.safetensors"
    model.write_bytes(small_model.read_bytes())
    evaluation = open_evaluate(settings_of(source, tmp_path / "out", model=[str(model)]))
    model.write_bytes(small_model.read_bytes()[:-1])
    pool = start_pool(evaluation.candidates.models, 0, 10**6, Pool(1, 0.5, 0))
    try:
        with pytest.raises(DriftRecError, match=r"m\.safetensors"):
            pool.restore("m", [made.jpeg(0)], "k")
    finally:
        stop_pool(pool)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"reference": "{tmp}/none"}, "REFERENCE .*/none does not exist|none does not exist"),
        ({"metrics": "psnr,sim"}, "--metrics: 'sim' not known; there are psnr, psnr_y"),
        ({"metrics": "lpips"}, r"lpips needs alexnet-owt-7be5be79\.pth.*--weights lpips=PATH"),
        ({"metrics": "dists"}, r"dists needs vgg16-397923af\.pth.*--weights dists=PATH"),
        ({"metrics": "brisque"}, r"brisque needs brisque_svm_weights\.pt, published by .*piq"),
        ({"metrics": "recall"}, r"inception needs pt_inception"),
        ({"metrics": "fid"}, r"inception needs pt_inception-2015-12-05-6726825d\.pth"),
        ({"metrics": "accuracy"}, r"resnet50 needs resnet50-.*\.pth"),
        ({"metrics": "accuracy", "classifier": "resnet51"}, "'resnet51'"),
        ({"damaged": "{tmp}/none", "quality": "none"}, "--damaged: .*none does not exist"),
        ({"weights": ["lpips"]}, "write it as NAME=PATH or NAME=URL"),
        ({"weights": ["lpipz=x"]}, "no weights are called 'lpipz'"),
        ({"metrics": "lpips", "weights": ["lpips={tmp}/none.pth"]}, r"--weights lpips=.*none\.pth: no such file"),
        ({"labels": "x.csv"}, "serves the metric accuracy, which --metrics does not name"),
        ({"model": ["nothing"]}, "model 'nothing'"),
        ({"output": "{tmp}/in/out"}, "lie in each other"),
        ({"output": "{tmp}/done", "seed": 5}, "seed is 0 there, 5 here"),
        ({"output": "{tmp}/done", "quality": "20"}, r"conditions is \['q10-420'\] there, \['q20-420'\] here"),
        ({"reference": "{tmp}/twice"}, r"x\.jpg and x\.png cannot both be written|x\.png and x\.jpg"),
    ],
)
def test_bad_input_is_refused_before_anything_starts(
    tmp_path: Path, changes: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = clean(tmp_path / "in", 2)
    (tmp_path / "twice").mkdir()
    for name in ("x.jpg", "x.png"):
        (tmp_path / "twice" / name).write_bytes(made.jpeg(0))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    if changes.get("output", "").endswith("done"):
        open_evaluate(settings_of(source, tmp_path / "done"))
    monkeypatch.setattr("pipeline.evaluate.job._attempt", lambda *_: pytest.fail("something was started"))

    def filled(value: Any) -> Any:
        if isinstance(value, list):
            return [filled(item) for item in value]
        return value.format(tmp=tmp_path) if isinstance(value, str) else value

    given = {"output": str(tmp_path / "out")} | {name: filled(value) for name, value in changes.items()}
    place = Path(given.pop("reference", source))
    with pytest.raises(InvalidInput, match=told):
        run_evaluate(settings_of(place, Path(given.pop("output")), **given))


def test_another_file_of_the_same_name_is_another_run(tmp_path: Path) -> None:
    source = clean(tmp_path / "in", 2)
    tool = clean(tmp_path / "tool", 2)
    open_evaluate(settings_of(source, tmp_path / "out", candidate=[f"tool={tool}"]))
    moved = tool.rename(tmp_path / "moved")
    open_evaluate(settings_of(source, tmp_path / "out", candidate=[f"tool={moved}"]))  # the place does not matter
    (moved / "a/0000.png").write_bytes(b"another")
    with pytest.raises(InvalidInput, match=r"candidate tool is \"files .* there"):
        open_evaluate(settings_of(source, tmp_path / "out", candidate=[f"tool={moved}"]))


def test_weights_are_known_by_their_content(small_model: Path) -> None:
    assert len(find(str(small_model)).sha256) == 64
