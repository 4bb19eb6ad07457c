"""What an input holds: images whatever they are called, and everything else counted by what it is."""

import io
import os
import struct
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from driftrec.errors import InvalidInput
from pipeline.inputs.kinds import by_content
from pipeline.inputs.listing import list_input
from pipeline.inputs.shards import read_shard
from pipeline.storage.local import LocalStore
from pipeline.survey.settings import SurveySettings
from pipeline.survey.stage import SurveyShard
from tests import made
from tests.pipeline.offline import ledger, restore


def png() -> bytes:
    """A small one."""
    file = io.BytesIO()
    Image.fromarray(made.pixels(1, 24, 24)).save(file, "PNG")
    return file.getvalue()


APPLE = (b"\0\5\x16\7\0\2\0\0Mac OS X        " + struct.pack(">HIII", 1, 9, 50, 3760)).ljust(4096, b"\0")
CONTENTS: dict[str, bytes] = {
    "jpeg": made.jpeg(1),
    "png": png(),
    "apple": APPLE,
    "jp2": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40),
    "psd": b"8BPS" + bytes(60),
    "ppm": b"P6\n4 4\n255\n" + bytes(48),
    "text": b"Dear reader, this is no image.\n",
    "empty": b"",
}
PICTURES = {"jpeg": None, "png": None, "jp2": "truncated", "psd": "unsupported", "ppm": "unsupported"}
NAMES = ("x.jpg_large", "x.jpg?w=640", "x.jpg(1)", "x.pjpeg", "x.jpg~", "noext", "IMG.0001", "x.JPS", "x.jpm", "x.psd")


def keys(listing_of: Path) -> dict[str, str]:
    """Reason by key of every row."""
    table = [row for shard in list_input(str(listing_of)).shards for row in read_shard(shard).to_pylist()]
    return {row["key"]: row["reason"] for row in table}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("content", CONTENTS)
def test_a_foreign_name_is_looked_into(content: str, packed: bool, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in NAMES:
        (folder / name).write_bytes(CONTENTS[content])
    (folder / "ok.jpg").write_bytes(made.jpeg(2))
    if packed:
        (tmp_path / "in").rename(tmp_path / "files")
        folder.mkdir()
        with tarfile.open(folder / "t.tar", "w") as archive:
            archive.add(tmp_path / "files", arcname=".")
    result = restore(folder, tmp_path / "out")
    rows = ledger(tmp_path / "out")
    reasons = {key.removeprefix("t/"): row["reason"] for key, row in rows.items() if not key.endswith("ok.jpg")}
    assert reasons == (dict.fromkeys(NAMES, PICTURES[content]) if content in PICTURES else {})
    if not packed:
        assert sum(result["ignored_files"].values()) + len(rows) == len(NAMES) + 1
        survey = SurveyShard(SurveySettings(input=str(folder), output=str(tmp_path / "s")), 0, LocalStore("s"))
        told = [row for shard in list_input(str(folder)).shards for row in survey.rows(shard.id, shard)]
        assert {row["key"]: row["reason"] for row in told} == {key: row["reason"] for key, row in rows.items()}


@pytest.mark.parametrize("name", ["noext", "q?a=b.jpg", "x.jpg_large", "[1].jpg", "a*.jpg"])
def test_one_file_by_its_name(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(made.jpeg(1))
    assert keys(tmp_path / name) == {name: ""}
    (tmp_path / name).write_bytes(b"text")
    if not name.endswith(".jpg"):
        with pytest.raises(InvalidInput, match="is no image"):
            list_input(str(tmp_path / name))


@pytest.mark.parametrize("content", ["apple", "empty", "jpeg"])
@pytest.mark.parametrize(
    "name", ["._x.jpg", "__MACOSX/._x.jpg", "@eaDir/x.jpg", ".thumbs/x.jpg", "a/.thumbnails/x.jpg"]
)
def test_what_other_programs_leave_beside_is_counted(name: str, content: str, tmp_path: Path) -> None:
    """A photograph that is called as macOS calls its metadata is one, though."""
    for path, data in {name: CONTENTS[content], "x.jpg": made.jpeg(1)}.items():
        (tmp_path / "in" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / path).write_bytes(data)
    found = {"x.jpg": ""} | ({name: ""} if content == "jpeg" and name == "._x.jpg" else {})
    assert keys(tmp_path / "in") == found
    counted = list_input(str(tmp_path / "in")).ignored
    assert counted.total() == 2 - len(found)
    with tarfile.open(tmp_path / "t.tar", "w") as archive:
        archive.add(tmp_path / "in", arcname=".")
    assert keys(tmp_path / "t.tar") == {f"t/{key}": "" for key in found}


@pytest.mark.parametrize("name", ["x.cr2", "y.NEF", "z.dng"])
def test_raw_is_refused_for_what_it_is(name: str, tmp_path: Path) -> None:
    """Most of it is TIFF, whose first picture is a preview."""
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "preview", "TIFF")
    (tmp_path / "preview").rename(tmp_path / name)
    assert keys(tmp_path) == {name: "unsupported"}


@pytest.mark.parametrize("length", [None, 3000, 20481])
@pytest.mark.parametrize("padding", [0, 512, 5120])
def test_tars_one_behind_the_other(padding: int, length: int | None, tmp_path: Path) -> None:
    parts = [{f"{part}{number}.jpg": bytes([number]) * 700 for number in range(12)} for part in "abc"]
    (tmp_path / "t.tar").write_bytes(b"".join(made.tar(part) + bytes(padding) for part in parts))
    listing = list_input(str(tmp_path / "t.tar"), target_bytes=length or 2**20, cut_tars=length is not None)
    found = [row["key"] for shard in listing.shards for row in read_shard(shard).to_pylist()]
    assert found == [f"t/{name}" for part in parts for name in part]


@pytest.mark.parametrize("kind", ["dictionary", "fixed", "struct", "large"])
@pytest.mark.parametrize("column", ["image", "img", "photo"])
def test_columns_of_parquet(column: str, kind: str, tmp_path: Path) -> None:
    data = [b"12", b"34", b"12"]
    images = {
        "dictionary": pa.array(data).dictionary_encode(),
        "fixed": pa.array(data, pa.binary(2)),
        "struct": pa.array([{"bytes": one, "path": None} for one in data]),
        "large": pa.array(data, pa.large_binary()),
    }[kind]
    names = pa.array(["/data/a.jpg", "https://ex.org//c.jpg?w=1", "./d.jpg"]).dictionary_encode()
    pq.write_table(pa.table({"path": names, column: images, "width": [1, 2, 3]}), tmp_path / "p.parquet")
    (shard,) = list_input(str(tmp_path)).shards
    rows = {row["key"]: row["data"] for row in read_shard(shard).to_pylist()}
    assert rows == dict(zip(("data/a.jpg", "ex.org/c.jpg?w=1", "d.jpg"), data, strict=True))


def test_metadata_beside_tars_is_left_out_and_counted(tmp_path: Path) -> None:
    """As img2dataset writes it; alone it is refused."""
    pq.write_table(pa.table({"url": ["u"], "key": ["0"]}), tmp_path / "0.parquet")
    with pytest.raises(InvalidInput, match="no image column"):
        list_input(str(tmp_path))
    (tmp_path / "0.tar").write_bytes(made.tar({"0.jpg": made.jpeg(1), "0.json": b"{}"}))
    assert keys(tmp_path) == {"0/0.jpg": ""}
    assert list_input(str(tmp_path)).ignored == {".parquet without images": 1}


folders = st.sampled_from(["", "a/", "a/b/", "._c/", "@eaDir/", "d e/"])
files = st.sampled_from(["1.jpg", "2", "._1.jpg", "3.txt", "4.jpg_large", "5.tar.gz", "6.PNG", ".7", "8.jp2"])
links = st.sampled_from(["a", "a/b", ".", "..", "nowhere", "1.jpg", "/etc", "d e"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(st.tuples(folders, files), st.sampled_from(sorted(CONTENTS)), min_size=1, max_size=8),
    st.dictionaries(st.tuples(folders, st.sampled_from(["l1", "l2.jpg", "l3.tar"])), links, max_size=4),
)
def test_rows_and_counts_are_all_there_is(
    tmp_path_factory: pytest.TempPathFactory,
    made_of: dict[tuple[str, str], str],
    linked: dict[tuple[str, str], str],
) -> None:
    """Whatever a tree is made of: each file that `find` sees without following links, and each link, is a row or
    counted; none twice.
    """
    root = tmp_path_factory.mktemp("tree") / "in"
    root.mkdir()
    for (folder, name), content in made_of.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / name).write_bytes(CONTENTS[content])
    for (folder, name), target in linked.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / name).symlink_to(
            target if target.startswith("/") else os.path.relpath(root / target, root / folder)
        )
    seen = subprocess.run(["find", root, "!", "-type", "d"], capture_output=True, text=True, check=True).stdout
    (root / "zz.jpg").write_bytes(made.jpeg(1))  # an input without any image is refused
    listing = list_input(str(root))
    rows = [row["key"] for shard in listing.shards for row in read_shard(shard).to_pylist()]
    assert len(rows) == len(set(rows))
    assert len(rows) + listing.ignored.total() == len(seen.splitlines()) + 1
    assert all((root / key).exists() or (root / key).is_symlink() for key in rows)


def test_a_head_tells_without_the_rest() -> None:
    for content, data in CONTENTS.items():
        assert (by_content("x", data[:1024])[0] == "image") == (content in PICTURES)
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(buffer, "AVIF")
    assert by_content("x", buffer.getvalue()[:1024]) == ("image", "")
