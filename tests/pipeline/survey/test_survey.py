"""A survey: one row per file, little read, sums that are the rows', a measured cost, a page that loads nothing."""

import io
import json
import tarfile
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from skimage.data import astronaut

from driftrec.errors import InvalidInput
from driftrec.jpeg.codec import degrade, encode_jpeg, shift
from driftrec.restoration import adaptive
from driftrec.restoration.opening import open_picture
from pipeline.inputs.listing import list_input
from pipeline.inputs.loose import LooseFiles
from pipeline.inputs.tars import TarPiece
from pipeline.restore.timing import START_S, Limits, calibrate
from pipeline.runs.verify import verify
from pipeline.settings import load
from pipeline.storage import open_store
from pipeline.storage.local import LocalStore
from pipeline.storage.remote import RemoteStore
from pipeline.survey import stage
from pipeline.survey.cost import estimate, find_model
from pipeline.survey.job import plan_survey, read_files, run_survey
from pipeline.survey.settings import SurveySettings
from pipeline.survey.stage import SCHEMA, SurveyShard
from pipeline.survey.summary import Survey, wilson
from tests import made
from tests.pipeline.evaluate.test_evaluate_report import HOSTILE, Page

Row = dict[str, Any]


def archive(path: Path) -> Path:
    """Twelve sound JPEGs, a PNG, and one file of each kind of damage that headers tell."""
    path.mkdir(parents=True)
    for index in range(12):
        image = made.pixels(index, 96, 128)
        if index % 3 == 0:
            image = degrade(image, 20)
        (path / f"{index:02}.jpg").write_bytes(encode_jpeg(image, 40 + 5 * index, "4:4:4" if index % 2 else "4:2:0"))
    Image.fromarray(made.pixels(50, 64, 64)).save(path / "scan.png")
    whole = (path / "01.jpg").read_bytes()
    damage = {"cut": whole[:-900], "empty": b"", "page": b"<html>404</html>", "lie": b"\x89PNG\r\n\x1a\n"}
    for name, data in damage.items():
        (path / f"{name}.jpg").write_bytes(data)
    (path / "notes.txt").write_text("no image")
    return path


def settings_of(source: Path | str, output: Path | str, **changes: Any) -> SurveySettings:
    given = {"input": str(source), "output": str(output), "calibration_s": 0.0, "progress_s": 3600.0}
    return load(SurveySettings, flags=given | changes)


def looked(source: Path | str, output: Path, share: float = 1.0, **changes: Any) -> list[Row]:
    """The rows of a survey's stage, without Ray."""
    settings = settings_of(source, output, **changes)
    looker = SurveyShard(settings, share, LocalStore(str(output)))
    shards = list_input(str(source), settings.shard_bytes, settings.shard_images, settings.limit, cut_tars=True).shards
    for shard in shards:
        (counts,) = looker(shard).to_pylist()
        assert (counts["error"], counts["computed"]) == (None, True)
        assert looker(shard)["computed"].to_pylist() == [False]  # its part is there
    return [row for shard in shards for row in looker.ledger.read_part(shard.id).to_pylist()]


def test_a_row_for_every_file(tmp_path: Path) -> None:
    source = archive(tmp_path / "in")
    rows = {row["key"]: row for row in looked(source, tmp_path / "out")}
    assert sorted(rows) == sorted(path.name for path in source.iterdir() if path.suffix != ".txt")
    for index in range(12):
        row = rows[f"{index:02}.jpg"]
        assert (row["status"], row["format"], row["width"], row["height"]) == ("ok", "JPEG", 128, 96)
        assert (row["quality"], row["exact"]) == (40 + 5 * index, True)
        assert row["subsampling"] == ("4:4:4" if index % 2 else "4:2:0")
        assert row["bytes"] == (source / row["key"]).stat().st_size
        assert (row["decoded"], row["earlier"]) == (True, "aligned" if index % 3 == 0 else "")
        assert row["earlier_quality"] is None or abs(row["earlier_quality"] - 20) <= 2
    assert rows["00.jpg"]["bef"] > rows["11.jpg"]["bef"] >= 0
    assert (rows["scan.png"]["format"], rows["scan.png"]["quality"], rows["scan.png"]["earlier"]) == ("PNG", None, "")
    reasons = {key: row["reason"] for key, row in rows.items() if row["status"] == "failed"}
    assert reasons == {
        "cut.jpg": "truncated", "empty.jpg": "empty", "page.jpg": "not_an_image", "lie.jpg": "truncated",
    }  # fmt: skip
    assert rows["cut.jpg"]["quality"] == 45  # what is known stays


def test_a_tar_and_a_parquet_file_give_the_rows_of_a_folder(tmp_path: Path) -> None:
    source = archive(tmp_path / "in")
    files = {path.name: path.read_bytes() for path in sorted(source.iterdir()) if path.suffix != ".txt"}
    plain = {row["key"]: row for row in looked(source, tmp_path / "plain")}
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed/a.tar").write_bytes(made.tar(files))
    pq.write_table(pa.table({"key": list(files), "image": list(files.values())}), tmp_path / "packed/b.parquet")
    rows = looked(tmp_path / "packed", tmp_path / "out")
    assert len(rows) == 2 * len(files)
    for row in rows:
        assert row == plain[row["key"].removeprefix("a/")] | {"key": row["key"]}


def test_decoding_tells_what_headers_do_not(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    png = io.BytesIO()
    Image.fromarray(made.pixels(0, 64, 64)).save(png, "PNG")
    broken = bytearray(png.getvalue())
    broken[len(broken) // 2] ^= 1
    (tmp_path / "in/a.png").write_bytes(bytes(broken))
    (tmp_path / "in/b.jpg").write_bytes(made.jpeg(0))
    unseen = looked(tmp_path / "in", tmp_path / "none", share=0.0)
    assert [(row["status"], row["decoded"], row["bef"]) for row in unseen] == [("ok", False, None)] * 2
    seen = looked(tmp_path / "in", tmp_path / "all")
    assert [(row["status"], row["reason"], row["stage"]) for row in seen] == [
        ("failed", "corrupt", "decode"), ("ok", None, None),
    ]  # fmt: skip


def test_the_sample_is_a_function_of_key_and_seed(tmp_path: Path) -> None:
    source = made.folder(tmp_path / "in", 60)

    def chosen(output: str, **changes: Any) -> list[str]:
        return [row["key"] for row in looked(source, tmp_path / output, 0.3, **changes) if row["decoded"]]

    first = chosen("a")
    assert 8 <= len(first) <= 30
    assert chosen("b", shard_images=7) == first
    assert chosen("c", seed=1) != first
    for pixels, share in (("all", 1.0), ("none", 0.0), ("10%", 0.1), ("0.25", 0.25), ("auto", 1.0)):
        assert settings_of(source, tmp_path, pixels=pixels).share(60, 0) == share
    assert settings_of(source, tmp_path).share(10**6, 0) == 0.01
    assert settings_of(source, tmp_path).share(None, 10**9) == 0.1
    with pytest.raises(InvalidInput, match="give auto, all, none, or a share"):
        settings_of(source, tmp_path, pixels="some")
    with pytest.raises(InvalidInput, match="gpu_price_per_hour needs gpu_megapixels_per_s"):
        settings_of(source, tmp_path, gpu_price_per_hour=3)


class Counting(LocalStore):
    """Counts the bytes that are read."""

    taken = 0

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        data = super().read(name, offset, length)
        type(self).taken += len(data)
        return data


def test_of_loose_files_only_ends_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (600, 600, 3), dtype=np.uint8)
    for index in range(5):
        (tmp_path / f"in/{index}.jpg").write_bytes(encode_jpeg(noise, 95))
    monkeypatch.setattr("pipeline.storage.LocalStore", Counting)
    rows = looked(str(tmp_path / "in"), tmp_path / "out", share=0.0)
    size = sum(row["bytes"] for row in rows)
    assert (len(rows), size > 2_000_000) == (5, True)
    assert 0 < Counting.taken <= 5 * (2 * stage.NEAR)


def test_names_and_storage_give_reasons(tmp_path: Path) -> None:
    source = made.folder(tmp_path / "in", 3)
    (source / "a/evil\u202egpj.jpg").write_bytes(made.jpeg(0))
    shards = list_input(str(source)).shards
    (source / "a/0000.jpg").unlink()
    looker = SurveyShard(settings_of(source, tmp_path / "out"), 0.0, LocalStore(str(tmp_path / "out")))
    rows = [row for shard in shards for row in looker.rows(shard.id, shard)]
    assert Counter((row["status"], row.get("reason")) for row in rows) == {
        ("failed", "unreadable"): 1, ("failed", "unsafe_name"): 1, ("ok", None): 2,
    }  # fmt: skip
    assert "\\u202e" in next(row["key"] for row in rows if row.get("reason") == "unsafe_name")


def test_sums_are_those_of_the_rows(tmp_path: Path) -> None:
    rows = looked(archive(tmp_path / "in"), tmp_path / "out")
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    whole, halves = Survey(), Survey()
    whole.add("s", table)
    halves.add("s", table.slice(7))
    halves.add("s", table.slice(0, 7))
    assert whole == halves
    sound = [row for row in rows if row["status"] == "ok"]
    assert (whole.files, whole.sound, whole.decoded) == (len(rows), 13, 13)
    assert whole.pixels == sum(row["width"] * row["height"] for row in sound)
    assert whole.good_pixels == 2 * 128 * 96  # quality 90 and 95
    assert whole.earlier == {"": 8, "aligned": 4}
    assert whole.once_jpeg == {"": 1}
    assert [-(-row["quality"] // 10) for _, row in whole.examples(4)] == [4, 5, 6, 7]  # a band each
    low, high = wilson(4, 12) or (0, 0)
    assert (round(low, 4), round(high, 4)) == (0.1381, 0.6094)  # as statsmodels gives it
    assert wilson(0, 0) is None


FORMS = {"a.png": {}, "b.tif": {}, "c.webp": {"lossless": True}, "d.bmp": {}}


def test_what_was_a_jpeg_is_found_in_every_format_as_a_restore_finds_it(tmp_path: Path) -> None:
    photo = np.ascontiguousarray(astronaut()[20:276, 100:356])
    for name, options in FORMS.items():
        for quality, cut in product((None, 30, 75), (0, 3)):
            pixels = shift(photo if quality is None else degrade(photo, quality), cut, cut)
            path = tmp_path / "in" / f"{quality} {cut} {name}"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(pixels).save(path, **options)
    result = run_survey(settings_of(tmp_path / "in", tmp_path / "out", pixels="all"))
    for row in pq.read_table(tmp_path / "out/report.parquet").to_pylist():
        quality, cut = row["key"].split()[:2]
        there = {"None": "", **dict.fromkeys(("30", "75"), "shifted" if int(cut) else "aligned")}[quality]
        assert (row["key"], row["earlier"], str(row["earlier_quality"])) == (row["key"], there, quality)
        picture = open_picture((tmp_path / "in" / row["key"]).read_bytes())
        assert adaptive.history(picture)[:2] == (row["earlier_quality"], bool(there))
    assert result["once_jpeg"] | {"interval": None} == {
        "looked_at": 24, "aligned": 8, "shifted": 8, "share": pytest.approx(2 / 3), "interval": None
    }  # fmt: skip
    assert result["compressed_before"]["looked_at"] == 0
    page = Page((tmp_path / "out/report.html").read_text())
    assert any("24 pictures of other formats that were decoded, 16 were once JPEGs" in note for note in page.text("p"))


def test_the_cost_is_measured_on_the_files(tmp_path: Path, small_model: Path) -> None:
    source = made.folder(tmp_path / "in", 3)
    settings = settings_of(
        *(source, tmp_path / "out"),
        model=str(small_model), calibration_s=0.01, gpu_megapixels_per_s=2.0, gpu_price_per_hour=3.0,
    )
    rows = looked(source, tmp_path / "out")
    survey = Survey()
    survey.add("s", pa.Table.from_pylist(rows, schema=SCHEMA))
    files = [(path.name, path.read_bytes()) for path in sorted(source.rglob("*.jpg"))]
    model = find_model(settings)
    limits = Limits(settings.seed, settings.max_pixels, settings.calibration_s)
    found = calibrate(files, *model, limits, 1)
    assert found.pieces >= 1
    assert found.seconds > 0
    assert found.nfe >= found.pieces
    assert calibrate([("a.jpg", b"no")], *model, limits, 0).pieces == 0
    assert calibrate([], *model, limits, 1).pieces == 0
    cost = estimate(settings, None, survey, files)  # nothing measured
    assert "measured" not in cost
    assert cost["stated"]["gpu_hours"] == pytest.approx(survey.pixels / 2e6 / 3600)
    assert cost["stated"]["gpu_cost"] == pytest.approx(3 * cost["stated"]["gpu_hours"])
    assert cost["stated"]["gpu_cost_below_good"] == pytest.approx(3 * cost["stated"]["gpu_hours_below_good"])
    with pytest.raises(InvalidInput):
        find_model(settings_of(source, tmp_path, model=str(tmp_path / "none.safetensors")))


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.timeout(300)
def test_a_survey(tmp_path: Path, small_model: Path) -> None:
    source, output = archive(tmp_path / "in"), tmp_path / "out"
    (source / f"{HOSTILE.replace('/', '')}.jpg").write_bytes(made.jpeg(3))
    given = {"model": str(small_model), "calibration_s": 0.01, "gpu_megapixels_per_s": 4.0, "price_per_hour": 7.0}
    result = run_survey(settings_of(source, output, **given))
    assert (result["exit_code"], result["status"]) == (3, {"ok": 14, "failed": 4, "skipped": 0})
    assert result["reasons"] == {"empty": 1, "not_an_image": 1, "truncated": 2}
    summary = json.loads((output / "summary.json").read_text())
    assert {name: summary[name] for name in ("files", "damaged", "cost")} == {
        name: result[name] for name in ("files", "damaged", "cost")
    }
    assert summary["ignored_files"] == {".txt": 1}
    assert summary["jpeg"]["quality"]["40"] == 1
    measured = summary["cost"]["measured"]
    work = summary["megapixels"] / measured["megapixels_per_s"]
    assert measured["hours"] == pytest.approx((START_S + work) / 3600, rel=0.01)
    assert measured["cost"] == pytest.approx(7 * measured["hours"])
    assert measured["cost_below_good"] < measured["cost"]
    rows = pq.read_table(output / "report.parquet").to_pylist()
    assert [row["key"] for row in rows] == sorted(row["key"] for row in rows)
    assert len(rows) == 18

    page = Page((output / "report.html").read_text())
    assert page.text("h1") == ["18 images, 0.155 megapixels"]
    assert not any("http" in value for _, found in page.elements for value in found.values())
    assert [tag for tag, _ in page.elements if tag in ("script", "link", "iframe")] == ["script"]
    assert sum(image["src"].startswith("data:image/webp") for image in page.all("img")) == 12
    assert "truncated" in page.text("span")
    assert "Money" in page.text("th")

    (output / "_RESULT.json").unlink()
    parts = sorted((output / "ledger").iterdir())
    kept = {part: part.stat().st_mtime_ns for part in parts[1:]}
    parts[0].unlink()
    again = run_survey(settings_of(source, output, **given | {"calibration_s": 0.0, "report": False}))
    assert again["shards"]["resumed"] == len(parts) - 1
    assert kept == {part: part.stat().st_mtime_ns for part in kept}
    assert pq.read_table(output / "report.parquet").to_pylist() == rows
    assert run_survey(settings_of(source, output, **given | {"calibration_s": 0.0, "report": False})) == again
    assert verify(str(output))["state"] == "sound"
    (output / "summary.json").unlink()
    assert verify(str(output))["first"] == {"missing": ["summary.json"]}
    run_survey(settings_of(source, output, **given | {"calibration_s": 0.0, "report": False}))
    assert verify(str(output))["state"] == "sound"
    with pytest.raises(InvalidInput, match=r"share is 1\.0 there, 0\.0 here"):
        run_survey(settings_of(source, output, pixels="none"))


def test_a_plan_writes_nothing_and_no_input_is_refused(tmp_path: Path) -> None:
    told = plan_survey(settings_of(archive(tmp_path / "in"), tmp_path / "out"))
    assert (told["images"], told["share_decoded"], told["shards_done"]) == (17, 1.0, 0)
    assert not (tmp_path / "out").exists()
    (tmp_path / "nothing").mkdir()
    for source, words in (("nothing", "it is empty"), ("missing", "does not exist")):
        with pytest.raises(InvalidInput, match=words):
            run_survey(settings_of(tmp_path / source, tmp_path / "out"))


def test_examples_are_read_from_every_kind_of_shard(tmp_path: Path) -> None:
    source = made.folder(tmp_path / "in", 4)
    data = (source / "a/0000.jpg").read_bytes()
    with tarfile.open(source / "t.tar", "w") as tar:
        tar.add(source / "a/0000.jpg", "x.jpg")
    shards = {shard.id: shard for shard in list_input(str(source)).shards}
    tar_shard = next(shard for shard in shards.values() if isinstance(shard, TarPiece))
    loose = next(shard for shard in shards.values() if isinstance(shard, LooseFiles))
    wanted = [(tar_shard.id, {"key": "t/x.jpg"}), (loose.id, {"key": "a/0000.jpg"}), (loose.id, {"key": "a/gone.jpg"})]
    assert read_files(shards, wanted) == [({"key": "t/x.jpg"}, data), ({"key": "a/0000.jpg"}, data)]


@pytest.mark.s3
def test_on_s3_ends_are_read_by_range(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(bucket)
    noise = np.random.default_rng(0).integers(0, 256, (900, 900, 3), dtype=np.uint8)
    data = encode_jpeg(noise, 95)
    for index in range(3):
        store.put(f"in/{index}.jpg", data)
    store.put("in/cut.jpg", data[:-1000])
    taken: list[int] = []
    plain = RemoteStore.read

    def read(self: RemoteStore, name: str, offset: int = 0, length: int | None = None) -> bytes:
        found = plain(self, name, offset, length)
        taken.append(len(found))
        return found

    monkeypatch.setattr(RemoteStore, "read", read)
    rows = looked(f"{bucket}/in", tmp_path / "out", share=0.0)
    assert [row["reason"] for row in rows] == [None, None, None, "truncated"]
    ends = stage.FAR + 64  # bytes, in two requests
    assert sum(taken) == 4 * ends + len(data) - 1000  # the cut one is read whole
    assert len(taken) == 4 * 2 + 1
