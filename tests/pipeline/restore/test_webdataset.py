"""What data sets hold beside their images goes along: captions, labels, other columns; and other tools read it."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image

from driftrec.errors import InvalidInput
from pipeline.degrade import run_degrade
from pipeline.evaluate.evaluation import list_references
from pipeline.evaluate.settings import DegradeSettings, EvaluateSettings
from pipeline.inputs.shards import read_shard
from pipeline.runs.verify import verify
from pipeline.survey.job import run_survey
from pipeline.survey.settings import SurveySettings
from pipeline.train.job import list_data
from pipeline.train.settings import TrainSettings
from tests import made
from tests.pipeline.offline import ledger, no_ray, restore

PARTS = ("png", "txt", "json")


def img2dataset(folder: Path, tars: int = 2, each: int = 3) -> Path:
    """Tars as img2dataset writes them: jpg, json and txt of each sample side by side."""
    folder.mkdir()
    for tar in range(tars):
        of: dict[str, bytes] = {}
        for number in range(each):
            key = f"{tar:05}{number:04}"
            of[f"{key}.jpg"] = made.jpeg(10 * tar + number)
            of[f"{key}.json"] = json.dumps({"key": key, "caption": f"caption {key}", "width": 64}).encode()
            of[f"{key}.txt"] = f"caption {key}".encode()
        (folder / f"{tar:05}.tar").write_bytes(made.tar(of))
    return folder


def samples(output: Path) -> dict[str, dict[str, Any]]:
    """What a reader of WebDataset finds, by key."""
    urls = [str(path) for path in sorted(output.glob("shards/*.tar"))]
    return {sample["__key__"]: sample for sample in webdataset.WebDataset(urls, shardshuffle=False)} if urls else {}


def members(tar: Path) -> list[str]:
    """Names of the members of a tar."""
    with tarfile.open(tar) as opened:
        return opened.getnames()


def test_tars_of_img2dataset_come_out_with_their_captions(tmp_path: Path) -> None:
    source, output = img2dataset(tmp_path / "in"), tmp_path / "out"
    result = restore(source, output, layout="webdataset")
    assert (result["status"]["ok"], len(list(output.glob("shards/*.tar")))) == (6, 2)
    found = samples(output)
    assert sorted(found) == [f"{tar:05}/{tar:05}{number:04}" for tar in range(2) for number in range(3)]
    for key, sample in found.items():
        name = key.rpartition("/")[2]
        assert sample["txt"] == f"caption {name}".encode()
        assert json.loads(sample["json"]) == {"key": name, "caption": f"caption {name}", "width": 64}
        assert Image.open(io.BytesIO(sample["png"])).size == (64, 48)
    assert verify(str(output))["state"] == "sound"
    again = restore(output / "shards", tmp_path / "twice", layout="webdataset")  # what it writes it reads
    assert again["status"]["ok"] == 6
    assert {sample["txt"] for sample in samples(tmp_path / "twice").values()} == {s["txt"] for s in found.values()}


def test_a_parquet_file_with_a_column_photo(tmp_path: Path) -> None:
    table = {
        "photo": [made.jpeg(number) for number in range(4)],
        "thumb": [b"small"] * 4,
        "caption": ["one", "two", None, "vier Ä"],
        "stars": [1, 2, 3, None],
        "at": pa.array([0, 1, 2, 3], pa.timestamp("s")),
        "key": ["x/a", "x/b.jpg", "x/c", "x/d"],
    }
    pq.write_table(pa.table(table), tmp_path / "in.parquet", row_group_size=3)
    with pytest.raises(InvalidInput, match="no image column; give --image-column"):
        restore(tmp_path / "in.parquet", tmp_path / "out")
    with pytest.raises(InvalidInput, match=r"no image column 'fotos'; of its columns these hold bytes: photo, thumb"):
        restore(tmp_path / "in.parquet", tmp_path / "out", image_column="fotos")
    output = tmp_path / "out"
    restore(tmp_path / "in.parquet", output, image_column="photo", layout="webdataset")
    found = samples(output)
    told = {key: json.loads(sample["json"]) for key, sample in found.items()}
    at = "1970-01-01 00:00:01"
    assert told["x/b"] == {"thumb": "c21hbGw=", "caption": "two", "stars": 2, "at": at, "key": "x/b.jpg"}
    assert {key: sample.get("txt", b"").decode() for key, sample in found.items()} == {
        "x/a": "one",
        "x/b": "two",
        "x/c": "",
        "x/d": "vier Ä",
    }
    assert all("png" in sample for sample in found.values())
    assert verify(str(output))["state"] == "sound"


@pytest.mark.parametrize("layout", ["tree", "tar"])
def test_other_layouts_carry_nothing(tmp_path: Path, layout: str) -> None:
    source = img2dataset(tmp_path / "in")
    restore(source, tmp_path / "out", layout=layout)
    found = [name for path in (tmp_path / "out").glob("shards/*.tar") for name in members(path)]
    found += [path.name for path in (tmp_path / "out/images").rglob("*.*")]
    assert len(found) == 6
    assert all(name.endswith(".png") for name in found)


def test_a_sample_without_an_output_has_nothing_beside_it(tmp_path: Path) -> None:
    of = {"a.jpg": b"<html>", "a.txt": b"lost", "b.jpg": made.jpeg(1), "b.txt": b"kept", "c.txt": b"alone"}
    (tmp_path / "in.tar").write_bytes(made.tar(of))
    restore(tmp_path / "in.tar", tmp_path / "out", layout="webdataset", max_failed="1")
    assert {key: sample["txt"] for key, sample in samples(tmp_path / "out").items()} == {"in/b": b"kept"}
    restore(tmp_path / "in.tar", tmp_path / "copied", layout="webdataset", max_failed="1", copy_failed=True)
    found = samples(tmp_path / "copied")
    assert (found["in/a"]["jpg"], found["in/a"]["txt"]) == (b"<html>", b"lost")


@pytest.mark.parametrize("end", [700, 3000, 6000])
def test_a_tar_that_was_cut(tmp_path: Path, end: int) -> None:
    source = img2dataset(tmp_path / "in", tars=1)
    path = source / "00000.tar"
    path.write_bytes(path.read_bytes()[:end])
    restore(source, tmp_path / "out", layout="webdataset", max_failed="100%")
    rows = ledger(tmp_path / "out")
    assert any(row["reason"] in ("shard_incomplete", "truncated") for row in rows.values())
    for key, sample in samples(tmp_path / "out").items():
        assert sample.get("txt", b"") in (b"", f"caption {key[6:]}".encode())


def test_images_of_one_sample_share_what_is_beside_them(tmp_path: Path) -> None:
    of = {"a.jpg": made.jpeg(1), "a.mask.png": made.jpeg(2), "a.cls": b"7", "b.jpg": made.jpeg(3), "b.cls": b"8"}
    (tmp_path / "in.tar").write_bytes(made.tar(of))
    restore(tmp_path / "in.tar", tmp_path / "out", layout="webdataset")
    (tar,) = (tmp_path / "out/shards").glob("*.tar")
    assert members(tar) == ["in/a.cls", "in/a.mask.png", "in/a.png", "in/b.cls", "in/b.png"]
    assert [sample["cls"] for sample in samples(tmp_path / "out").values()] == [b"7", b"8"]
    for number, changes in enumerate(({"exclude": ["*.mask.png"]}, {"exclude": ["**/a.jpg"]})):
        restore(tmp_path / "in.tar", tmp_path / f"some{number}", layout="webdataset", **changes)
        assert [sample["cls"] for sample in samples(tmp_path / f"some{number}").values()] == [b"7", b"8"]
    of["a.jpg"] = b"<html>"
    (tmp_path / "in.tar").write_bytes(made.tar(of))
    restore(tmp_path / "in.tar", tmp_path / "broken", layout="webdataset", max_failed="1")
    assert [sample["cls"] for sample in samples(tmp_path / "broken").values()] == [b"7", b"8"]


def test_sidecars_of_any_name(tmp_path: Path) -> None:
    of = {"2.jpg": made.jpeg(1), "2.bin": b"\0", "2.npy": b"n", "2.pyd": b"p", "2": b"none"}
    (tmp_path / "in.tar").write_bytes(made.tar(of))
    restore(tmp_path / "in.tar", tmp_path / "out", layout="webdataset")
    (tar,) = (tmp_path / "out/shards").glob("*.tar")
    assert members(tar) == ["in/2", "in/2.bin", "in/2.npy", "in/2.png", "in/2.pyd"]
    assert verify(str(tmp_path / "out"))["state"] == "sound"


def test_an_archive_that_grows_keeps_what_was_beside(tmp_path: Path) -> None:
    source, output = img2dataset(tmp_path / "in"), tmp_path / "out"
    restore(source, output, layout="webdataset")
    before = samples(output)
    img2dataset(tmp_path / "more", tars=3)
    (tmp_path / "more/00002.tar").rename(source / "00002.tar")
    (source / "00000.tar").unlink()
    result = restore(source, output, layout="webdataset")
    assert (result["images_this_attempt"], result["no_longer_in_input"], result["images"]) == (3, 3, 9)
    after = samples(output)
    for key, sample in before.items():
        assert {name: after[key][name] for name in PARTS} == {name: sample[name] for name in PARTS}
    assert len(after) == 9
    assert verify(str(output))["state"] == "sound"


def test_a_named_column_serves_every_job(tmp_path: Path) -> None:
    columns = {"photo": [made.jpeg(1)], "image": [b"no"]}
    path = str(tmp_path / "in.parquet")
    pq.write_table(pa.table(columns), path)
    for column, ok in ((None, 0), ("photo", 1)):
        given = {"image_column": column, "max_failed": "1"}
        with no_ray():
            surveyed = run_survey(SurveySettings(input=path, output=f"{path}-s{ok}", calibration_s=0, **given))
            degraded = run_degrade(DegradeSettings(input=path, output=f"{path}-d{ok}", quality="10", **given))
        restored = restore(path, f"{path}-r{ok}", **given)
        assert [result["status"]["ok"] for result in (surveyed, degraded, restored)] == [ok] * 3
        references = list_references(EvaluateSettings(reference=path, output=f"{path}-e", image_column=column))
        assert read_shard(references.shards[0])["data"][0].as_py() == columns[column or "image"][0]
    given = {"patches": {"size": 32}, "image_column": "photo"}
    assert list_data(TrainSettings(data=path, output=f"{path}-t", **given)).clean.images == 1
    with pytest.raises(InvalidInput, match="no image of DATA can be used"):
        list_data(TrainSettings(data=path, output=f"{path}-t", **given | {"image_column": "image"}))
