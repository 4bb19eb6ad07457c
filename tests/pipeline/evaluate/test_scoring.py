"""The evaluate stage without Ray: every image, condition and candidate is a row, and no row depends on another."""

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from driftrec.image import decode
from driftrec.jpeg.codec import degrade
from driftrec.metrics import PAIR_METRICS
from pipeline.degrade import DegradeShard
from pipeline.evaluate.conditions import damage
from pipeline.evaluate.model_pool import Output
from pipeline.evaluate.settings import DegradeSettings
from pipeline.evaluate.stage import Gate
from pipeline.inputs.listing import list_shards
from pipeline.inputs.shards import read_shard
from pipeline.model_source import find
from pipeline.restore.settings import RestoreSettings
from pipeline.restore.stage import RestoreShard
from pipeline.storage.base import StorageError
from pipeline.storage.local import LocalStore
from tests import made
from tests.pipeline.evaluations import by_place, clean, make, score

TWO = {"quality": "10,30/10", "metrics": "psnr,ssim,ssim_gaussian,bef,psnrb,psnr_y"}


def tensor(rgb: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)[None].double() / 255


def test_rows_and_their_values(tmp_path: Path) -> None:
    source = clean(tmp_path / "in", 5)
    rows = score(source, tmp_path / "out", model=["identity"], **TWO)
    keys = sorted(str(path.relative_to(source)) for path in source.rglob("*.png"))
    slugs, names = ["q10-420", "q30-q10-shift4-420"], ["jpeg", "identity"]
    places = [(row["key"], row["condition"], row["candidate"]) for row in rows]
    assert places == [(key, slug, name) for key in keys for slug in slugs for name in names]
    for row in rows:
        reference = np.asarray(Image.open(source / row["key"]))
        if row["second_quality"] is None:
            jpeg = degrade(reference, 10)
        else:
            reference = np.ascontiguousarray(reference[row["crop_y"] :, row["crop_x"] :])
            whole = degrade(np.asarray(Image.open(source / row["key"])), 30)
            jpeg = degrade(np.ascontiguousarray(whole[row["crop_y"] :, row["crop_x"] :]), 10)
        assert (row["status"], row["width"], row["height"]) == ("ok", reference.shape[1], reference.shape[0])
        for metric in ("psnr", "ssim", "ssim_gaussian", "bef", "psnrb", "psnr_y"):
            expected = float(PAIR_METRICS[metric](tensor(reference), tensor(jpeg)))
            assert row["ssim7" if metric == "ssim" else metric] == pytest.approx(expected, rel=1e-6, abs=1e-9)
        assert row["nfe"] == (0 if row["candidate"] == "identity" else None)
        assert row["reference_format"] == "PNG"


def test_rows_do_not_depend_on_batches_threads_or_company(tmp_path: Path, small_model: Path) -> None:
    source = clean(tmp_path / "in", 6)
    models = [f"sample={small_model}", f"mean={small_model}?fidelity=1"]
    common = {"model": models, "subsampling": "4:2:0,4:4:4", **TWO}
    one = score(source, tmp_path / "one", threads=1, batch_size=1, **common)
    assert one == score(source, tmp_path / "many", threads=3, batch_size=7, **common)
    for path in list(source.rglob("*.png"))[::2]:
        path.unlink()
    fewer = score(source, tmp_path / "fewer", threads=2, batch_size=3, **common)
    assert len(fewer) == 3 * 4 * 3
    assert by_place(fewer).items() <= by_place(one).items()
    other = by_place(score(source, tmp_path / "seed", seed=1, **common))
    assert all(row["psnr"] != other[place]["psnr"] for place, row in by_place(fewer).items() if place[2] == "sample")


def test_a_model_scores_as_the_files_that_the_restore_job_makes_of_degraded_ones(
    tmp_path: Path, small_model: Path
) -> None:
    source, store = clean(tmp_path / "in", 4), LocalStore(str(tmp_path / "jpegs"))
    settings = DegradeSettings(input=str(source), output=".", quality="10,30/10")  # type: ignore[arg-type]
    stage = make(source, tmp_path / "out", model=[f"m={small_model}"], **TWO)
    table = pa.concat_tables([read_shard(shard) for shard in list_shards(str(source))])
    assert DegradeShard(settings, stage.conditions, store)(table).to_pylist()[0]["ok"] == 4
    for condition in stage.conditions:
        jpegs = tmp_path / "jpegs/images" / condition.slug
        restore = RestoreSettings(input=".", output=".", model=str(small_model))
        restored = pa.concat_tables([read_shard(shard) for shard in list_shards(str(jpegs))])
        output = LocalStore(str(tmp_path / "restored" / condition.slug))
        assert RestoreShard(restore, find(str(small_model)), output)(restored).to_pylist()[0]["ok"] == 4
    files = f"files={tmp_path}/restored/{{condition}}/images"
    model = f"m={small_model}?adaptive=true"
    rows = by_place(score(source, tmp_path / "both", model=[model], candidate=[files], **TWO))
    for (key, slug, name), row in rows.items():
        if name == "files":
            assert (row["status"], row["nfe"]) == ("ok", None)
            other = rows[key, slug, "m"]
            for metric in ("psnr", "ssim7", "ssim_gaussian", "bef", "psnrb", "psnr_y"):
                assert row[metric] == other[metric]
    assert rows["a/0000.png", "q10-420", "m"]["psnr"] != rows["a/0000.png", "q10-420", "jpeg"]["psnr"]


def test_partners_that_are_missing_or_wrong_are_rows_with_reasons(tmp_path: Path) -> None:
    source, files = clean(tmp_path / "in", 6), tmp_path / "files"
    for number, path in enumerate(sorted(source.rglob("*.png"))):
        target = files / path.relative_to(source).with_suffix(".webp")
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            if number == 1:
                image = image.crop((0, 0, 30, 30))
            if number != 0:
                image.save(target, lossless=True)
        if number == 2:
            target.write_bytes(target.read_bytes()[:-40])
        if number == 3:
            target.unlink()
            target.mkdir()
    rows = by_place(score(source, tmp_path / "out", candidate=[f"tool={files}"]))
    keys = sorted({key for key, _, _ in rows})
    told = {key: rows[key, "q10-420", "tool"] for key in keys}
    assert [told[key]["reason"] for key in keys[:4]] == ["no_partner", "size_mismatch", "truncated", "unreadable"]
    assert "the candidate has 30x30 pixels, the reference 56x" in told[keys[1]]["detail"]
    assert all(told[key]["status"] == "failed" and told[key]["psnr"] is None for key in keys[:4])
    assert all(told[key]["psnr"] == float("inf") and told[key]["ssim7"] == 1 for key in keys[4:])
    assert {rows[key, "q10-420", "jpeg"]["status"] for key in keys} == {"ok"}


def test_bad_references_are_rows_and_their_neighbours_are_unchanged(tmp_path: Path) -> None:
    source = clean(tmp_path / "in", 4)
    before = by_place(score(source, tmp_path / "before", **TWO))
    (source / "a/page.jpg").write_bytes(b"<html>")
    (source / "b/empty.png").write_bytes(b"")
    Image.fromarray(made.pixels(3, 4, 200)).save(source / "b/flat.png")
    Image.fromarray(made.pixels(3, 9, 40)).save(source / "b/low.png")
    rows = by_place(score(source, tmp_path / "out", **TWO))
    assert len(rows) == 8 * 2
    assert before.items() <= rows.items()
    reasons = {place[:2]: row["reason"] for place, row in rows.items() if place not in before}
    assert reasons == {
        **{("a/page.jpg", slug): "not_an_image" for slug in ("q10-420", "q30-q10-shift4-420")},
        **{("b/empty.png", slug): "empty" for slug in ("q10-420", "q30-q10-shift4-420")},
        **{("b/flat.png", slug): "too_small" for slug in ("q10-420", "q30-q10-shift4-420")},
        **{("b/low.png", slug): "too_small" for slug in ("q10-420", "q30-q10-shift4-420")},
    }
    assert "ssim_gaussian needs sides of 11 pixels" in rows["b/low.png", "q10-420", "jpeg"]["detail"]
    assert "too few to crop up to 4" in rows["b/flat.png", "q30-q10-shift4-420", "jpeg"]["detail"]


def test_what_a_reference_is_stands_in_its_rows(tmp_path: Path) -> None:
    source = clean(tmp_path / "in", 1)
    (source / "lossy.jpg").write_bytes(made.jpeg(1, quality=40))
    rgba = np.dstack([made.pixels(2, 40, 56), np.full((40, 56), 9, np.uint8)])
    Image.fromarray(rgba).save(source / "glass.png")
    Image.fromarray(made.pixels(3, 40, 56)[..., 0]).save(source / "grey.png")
    rows = by_place(score(source, tmp_path / "out"))
    lossy, glass, grey = (rows[key, "q10-420", "jpeg"] for key in ("lossy.jpg", "glass.png", "grey.png"))
    assert (lossy["reference_format"], lossy["reference_quality"]) == ("JPEG", 40)
    assert glass["detail"] == "transparency is not compared"
    assert grey["status"] == "ok"
    assert grey["jpeg_bytes"] < glass["jpeg_bytes"]  # compressed as grey


def test_without_damage_files_are_compared_with_references(tmp_path: Path) -> None:
    source = clean(tmp_path / "in", 3)
    rows = score(source, tmp_path / "out", quality="none", candidate=[f"same={source}"])
    assert [(row["condition"], row["candidate"], row["quality"], row["bef"] is None) for row in rows] == [
        ("none", "same", None, False)
    ] * 3
    assert all(row["psnr"] == float("inf") for row in rows)


class Failing:
    """Restores nothing of some images, and ends the run on others."""

    def restore(self, model: str, files: Any, key: str) -> Any:
        if key == "b/0001.jpg":
            raise StorageError("the model is gone")
        return [Output(decode(file).rgb, 3, 0.5) for file in files]


def test_what_ends_the_run_leaves_no_part(tmp_path: Path) -> None:
    source = clean(tmp_path / "in", 3)
    stage = make(source, tmp_path / "out", model=["identity"])
    stage.restoring = Failing()
    table = pa.concat_tables([read_shard(shard) for shard in list_shards(str(source))])
    summary = stage(table).to_pylist()[0]
    assert (summary["error"], summary["computed"]) == ("the model is gone", False)
    assert stage.ledger.committed() == set()


def test_a_shard_with_a_part_is_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = clean(tmp_path / "in", 2)
    rows = score(source, tmp_path / "out")
    monkeypatch.setattr("pipeline.evaluate.stage.decode", lambda *_: pytest.fail("computed again"))
    assert score(source, tmp_path / "out") == rows


def test_a_gate_lets_in_what_fits_and_one_alone_always() -> None:
    gate, inside, worst = Gate(10), 0, 0
    lock = threading.Lock()

    def pass_through(amount: int) -> None:
        nonlocal inside, worst
        with gate.holding(amount):
            with lock:
                inside += amount
                worst = max(worst, inside)
            time.sleep(0.005)
            with lock:
                inside -= amount

    threads = [threading.Thread(target=pass_through, args=[amount]) for amount in (4, 5, 9, 1, 3, 25, 6, 2) * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert inside == 0
    assert worst == 25  # alone


def test_damage_is_what_the_degrade_job_writes(tmp_path: Path) -> None:
    source = clean(tmp_path / "in", 2)
    settings = DegradeSettings(input=str(source), output=".", quality="10,50/30")  # type: ignore[arg-type]
    stage = make(source, tmp_path / "out", quality="10,50/30")
    DegradeShard(settings, stage.conditions, LocalStore(str(tmp_path / "jpegs")))(
        pa.concat_tables([read_shard(shard) for shard in list_shards(str(source))])
    )
    for condition in stage.conditions:
        for key in ("a/0000", "b/0001"):
            written = (tmp_path / "jpegs/images" / condition.slug / f"{key}.jpg").read_bytes()
            picture = decode((source / f"{key}.png").read_bytes())
            assert written == damage(picture, f"{key}.png", condition, 0)
