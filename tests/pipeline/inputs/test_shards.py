"""Shards: the same input gives the same list; every image in it has a row, with data or a reason."""

import io
import logging
import os
import tarfile
from functools import partial
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from driftrec.errors import InvalidInput
from pipeline.inputs.collisions import OutputName
from pipeline.inputs.listing import Listing, list_input, list_shards
from pipeline.inputs.names import output_name
from pipeline.inputs.selection import Choice
from pipeline.inputs.shards import read_shard
from pipeline.storage import base
from pipeline.storage.local import LocalStore
from tests import made

PNG = partial(output_name, wanted="png")


def rows(listing: Listing) -> dict[str, tuple[str, bytes]]:
    """key -> (reason, data); keys must be unique."""
    found = [row for shard in listing.shards for row in read_shard(shard, PNG).to_pylist()]
    keyed = {row["key"]: (row["reason"], row["data"]) for row in found}
    assert len(keyed) == len(found)
    assert all(bool(row["reason"]) == bool(row["detail"]) for row in found)
    return keyed


def reasons(listing: Listing) -> dict[str, str]:
    return {key: reason for key, (reason, _) in rows(listing).items()}


def write(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"data of {name}".encode("utf-8", "surrogateescape"))
    return folder


def test_a_folder_is_listed_the_same_wherever_it_lies_and_however_it_was_written(tmp_path: Path) -> None:
    names = [f"{folder}/{number}.jpg" for folder in ("b", "a-b", "a") for number in range(40)]
    one = list_input(str(write(tmp_path / "one", *names)))
    other = list_input(str(write(tmp_path / "other", *reversed(names))))
    assert [shard.id for shard in one.shards] == [shard.id for shard in other.shards]
    assert one.digest == other.digest
    assert one.images == 120
    assert len(one.shards) == 15
    (tmp_path / "other/a/7.jpg").write_bytes(b"another size")
    assert list_input(str(tmp_path / "other")).digest != one.digest


@pytest.mark.parametrize("wait_s", [0.0, 60.0])
@pytest.mark.parametrize("place", ["file://", "memory://"])
def test_a_long_listing_says_how_far_it_is_while_it_goes_on(
    place: str, wait_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(base, "WORD_S", wait_s)
    monkeypatch.setattr(base, "SEVERAL", 4)
    caplog.set_level(logging.INFO)
    store = fsspec.filesystem(place.removesuffix("://"))
    store.makedirs(f"{tmp_path}/in", exist_ok=True)
    for number in range(10):
        store.pipe(f"{tmp_path}/in/{number}.jpg", b"data")
    source = list_input(f"{place}{tmp_path}/in").source
    said = [record.getMessage() for record in caplog.records]
    expected = [f"listing {source.store.url}: {n} names so far" for n in (4, 8) if not wait_s]
    assert said == [f"listing {source.url}", *expected]


def test_every_file_of_a_folder_is_read_once_or_counted(tmp_path: Path) -> None:
    images = ["x.jpg", "a/y.JPEG", "a/b/z.png", "a-b/w.tiff", "c/ä ö.webp"]
    listing = list_input(str(write(tmp_path / "in", *images, "notes.txt", "a/.jpg", "b/more.txt", "README")))
    assert {key: data.decode() for key, (_, data) in rows(listing).items()} == {n: f"data of {n}" for n in images}
    assert listing.ignored == {".txt": 2, "": 2}


def test_shards_close_at_bytes_and_at_images(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(100):
        (folder / f"{number:03}.jpg").write_bytes(bytes(1000))
    assert [shard.images for shard in list_shards(str(folder), max_images=64)] == [7] * 14 + [2]
    assert [shard.images for shard in list_shards(str(folder), max_images=5)] == [5] * 20
    assert [shard.images for shard in list_shards(str(folder), target_bytes=2500)] == [3] * 33 + [1]


def test_limit_takes_the_first_images(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", *(f"{number:02}.jpg" for number in range(50)))
    (tmp_path / "in/t1.tar").write_bytes(made.tar({f"{number}.jpg": b"x" for number in range(9)}))
    (tmp_path / "in/t2.tar").write_bytes(made.tar({f"{number}.jpg": b"y" for number in range(9)}))
    for limit in (1, 7, 50, 52, 59, 61, 100):
        listing = list_input(str(folder), limit=limit, output_name=PNG)
        assert len(rows(listing)) == min(limit, 68), limit
    whole = {shard.id for shard in list_shards(str(folder))}
    assert sum(shard.id not in whole for shard in list_shards(str(folder), limit=7)) == 1  # the one that was cut


def test_two_names_on_one_output_are_refused_naming_both(tmp_path: Path) -> None:
    for number, (one, other) in enumerate([("a.jpg", "a.png"), ("x/A.jpg", "x/a.jpg"), ("Ab/1.jpg", "aB/1.JPG")]):
        folder = write(tmp_path / str(number), one, other, "other.jpg")
        with pytest.raises(InvalidInput, match="rename") as caught:
            list_input(str(folder), output_name=PNG)
        assert one in str(caught.value)
        assert other in str(caught.value)
        list_input(str(folder))  # where no outputs are written it does not matter
    same = write(tmp_path / "same", "a.jpg", "a.png")
    assert list_input(str(same), output_name=partial(output_name, wanted="same")).images == 2


def test_an_output_that_would_need_the_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", "x.jpg", "x.png/y.jpg")
    with pytest.raises(InvalidInput, match=r"x\.jpg"):
        list_input(str(folder), output_name=PNG)


def test_tars_that_would_share_a_folder_are_refused(tmp_path: Path) -> None:
    for number, (tar, other) in enumerate([("a.tar", "a/x.jpg"), ("a.tar", "A.tar"), ("a.tar", "a/b.tar")]):
        folder = write(tmp_path / str(number), tar, other)
        with pytest.raises(InvalidInput, match=r"a\.tar"):
            list_input(str(folder), output_name=PNG)
    assert list_input(str(write(tmp_path / "fine", "a.tar", "b/c.tar", "d/x.jpg")), output_name=PNG).shards


def test_unsafe_file_names_are_rows_and_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "in", "ok.jpg", "a\x1b[31mb.jpg", os.fsdecode(b"caf\xe9.jpg"), "x\u202egpj.jpg")
    opened: list[str] = []
    read = LocalStore.read
    monkeypatch.setattr(LocalStore, "read", lambda self, name: opened.append(name) or read(self, name))
    expected = {"ok.jpg": "", r"a\x1b[31mb.jpg": "unsafe_name", r"caf\udce9.jpg": "unsafe_name"}
    assert reasons(list_input(str(folder), output_name=PNG)) == expected | {r"x\u202egpj.jpg": "unsafe_name"}
    assert opened == ["ok.jpg"]


def test_a_file_that_vanished_or_shrank_is_a_row(tmp_path: Path) -> None:
    listing = list_input(str(write(tmp_path / "in", "a.jpg", "b.jpg", "c.jpg")))
    (tmp_path / "in/a.jpg").unlink()
    (tmp_path / "in/b.jpg").write_bytes(b"")
    assert reasons(listing) == {"a.jpg": "unreadable", "b.jpg": "unreadable", "c.jpg": ""}


def test_tar_members(tmp_path: Path) -> None:
    members = {"000/a.jpg": b"1", "000/a.json": b"{}", "./b.png": b"22", "cls.txt": b"x", "c.JPG": b""}
    (tmp_path / "set.tar").write_bytes(made.tar(members))
    listing = list_input(str(tmp_path / "set.tar"))
    assert listing.images is None
    assert rows(listing) == {"set/000/a.jpg": ("", b"1"), "set/b.png": ("", b"22"), "set/c.JPG": ("", b"")}


def test_hostile_tar_members_are_rows(tmp_path: Path) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name in ("../up.jpg", "/abs.jpg", "a\x1b.jpg", "good.jpg", "good.jpg", "good.png", "GOOD.jpg"):
            tar.addfile(tarfile.TarInfo(name))
        for name, kind in (("sym.jpg", tarfile.SYMTYPE), ("hard.jpg", tarfile.LNKTYPE), ("dev.jpg", tarfile.CHRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    (tmp_path / "t.tar").write_bytes(file.getvalue())
    assert reasons(list_input(str(tmp_path / "t.tar"), output_name=PNG)) == {
        "t/../up.jpg": "unsafe_name",
        "t//abs.jpg": "unsafe_name",
        r"t/a\x1b.jpg": "unsafe_name",
        "t/good.jpg": "",
        "t/good.jpg#4": "duplicate_name",
        "t/good.png": "duplicate_name",
        "t/GOOD.jpg": "duplicate_name",
        "t/sym.jpg": "unsafe_name",
        "t/hard.jpg": "unsafe_name",
        "t/dev.jpg": "unsupported",
    }


def test_a_tar_cut_anywhere_gives_what_was_whole_and_says_so(tmp_path: Path) -> None:
    whole = made.tar({f"{number}.jpg": bytes([number]) * 700 for number in range(3)})
    assert whole[:5] == b"0.jpg"
    each = 512 + 1024  # header, and 700 bytes rounded up
    path = tmp_path / "t.tar"
    cuts = [0, 1, 511, 512, 600, each - 1, each, each + 100, 2 * each + 1211, 3 * each - 300, 3 * each, 3 * each + 99]
    for cut in cuts:
        path.write_bytes(whole[:cut])
        found = reasons(list_input(str(path), output_name=PNG))
        assert found.pop("t.tar") == "shard_incomplete", cut
        good = [key for key, reason in found.items() if not reason]
        assert len(good) == sum(number * each + 512 + 700 <= cut for number in range(3)), cut
        assert set(found.values()) <= {"", "truncated"}
    path.write_bytes(whole[: 3 * each + 512])
    assert set(reasons(list_input(str(path))).values()) == {""}


def test_a_tar_header_that_lies_about_its_size_ends_the_tar(tmp_path: Path) -> None:
    data = bytearray(made.tar({"a.jpg": b"1", "b.jpg": b"2"}))
    second = 1024
    data[second + 124 : second + 136] = b"\xff" + b"\xff" * 11  # a negative size in base 256
    header = data[second : second + 512]
    header[148:156] = b" " * 8
    data[second + 148 : second + 156] = f"{sum(header):06o}\0 ".encode()
    (tmp_path / "t.tar").write_bytes(data)
    found = reasons(list_input(str(tmp_path / "t.tar")))
    assert found["t/a.jpg"] == ""
    assert found["t.tar"] == "shard_incomplete"


def test_globs(tmp_path: Path) -> None:
    for name in ("x-0.tar", "x-1.tar", "y-0.tar", "deep/x-2.tar"):
        path = tmp_path / "s" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(made.tar({"i.jpg": b"1"}))
    for pattern, keys in {
        "x-*.tar": {"x-0/i.jpg", "x-1/i.jpg"},
        "?-0.tar": {"x-0/i.jpg", "y-0/i.jpg"},
        "[!x]-0.tar": {"y-0/i.jpg"},
        "**/x-*.tar": {"x-0/i.jpg", "x-1/i.jpg", "deep/x-2/i.jpg"},
    }.items():
        assert set(rows(list_input(f"{tmp_path}/s/{pattern}"))) == keys, pattern


def parquet(path: Path, columns: dict[str, list[object]], group: int = 2) -> str:
    pq.write_table(pa.table(columns), path, row_group_size=group)
    return str(path)


def test_parquet_row_groups(tmp_path: Path) -> None:
    path = parquet(tmp_path / "p.parquet", {"jpg": [b"1", b"22", None, b"4", b""]})
    listing = list_input(path)
    assert [shard.images for shard in listing.shards] == [2, 2, 1]
    assert rows(listing) == {
        "p/0": ("", b"1"),
        "p/1": ("", b"22"),
        "p/2": ("empty", b""),
        "p/3": ("", b"4"),
        "p/4": ("", b""),
    }


def test_parquet_structs_and_keys(tmp_path: Path) -> None:
    images = [{"bytes": bytes([number]), "path": "same.jpg"} for number in range(4)]
    path = parquet(tmp_path / "p.parquet", {"image": images, "id": ["a.jpg", "b", "a.png", None]})
    listing = list_input(path, output_name=PNG)
    expected = {"a.jpg": "", "b": "", "a.png#2": "duplicate_name", "p/3": ""}
    assert {key: reason for key, (reason, _) in rows(listing).items()} == expected


def test_a_key_that_another_parquet_file_has_is_a_duplicate(tmp_path: Path) -> None:
    parquet(tmp_path / "1.parquet", {"bytes": [b"1", b"2"], "key": ["a", "b"]})
    parquet(tmp_path / "2.parquet", {"bytes": [b"3", b"4"], "key": ["c", "a"]})
    listing = list_input(f"{tmp_path}/*.parquet", output_name=PNG)
    assert reasons(listing) == {"a": "", "b": "", "c": "", "a#1": "duplicate_name"}


def test_a_cut_parquet_is_a_row_and_its_neighbour_is_read(tmp_path: Path) -> None:
    parquet(tmp_path / "1.parquet", {"jpg": [b"1", b"2"]})
    whole = Path(parquet(tmp_path / "2.parquet", {"jpg": [os.urandom(3000), os.urandom(3000), b"3"]})).read_bytes()
    (tmp_path / "2.parquet").write_bytes(whole[:-20])
    found = reasons(list_input(f"{tmp_path}/*.parquet", output_name=PNG))
    assert found == {"1/0": "", "1/1": "", "2.parquet": "shard_incomplete"}
    (tmp_path / "2.parquet").write_bytes(whole[:8] + b"\xff" * 40 + whole[48:])  # the first row group's page header
    found = reasons(list_input(f"{tmp_path}/*.parquet", output_name=PNG))
    assert found == {"1/0": "", "1/1": "", "2/0": "shard_incomplete", "2/1": "shard_incomplete", "2/2": ""}


def test_parquet_without_images_is_refused(tmp_path: Path) -> None:
    path = parquet(tmp_path / "p.parquet", {"text": ["a"], "image": ["no bytes"]})
    with pytest.raises(InvalidInput, match=r"p\.parquet: no image column.*it has text, image"):
        list_input(path)


@pytest.mark.parametrize(
    ("name", "told"),
    [("none", "does not exist"), ("empty", "it is empty"), ("texts", "2 files of other"), ("x.tar.gz", "unpack it")],
)
def test_useless_inputs_are_refused_by_name(tmp_path: Path, name: str, told: str) -> None:
    (tmp_path / "empty/sub").mkdir(parents=True)
    write(tmp_path, "texts/a.txt", "texts/b/c.md", "x.tar.gz")
    with pytest.raises(InvalidInput, match=told) as caught:
        list_input(str(tmp_path / name))
    assert str(tmp_path / name) in str(caught.value)


def test_one_file_is_an_input(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg", "b.jpg")
    assert list(rows(list_input(str(tmp_path / "a.jpg")))) == ["a.jpg"]
    with_stars = write(tmp_path / "[1] *", "a.jpg")
    assert list(rows(list_input(str(with_stars)))) == ["a.jpg"]


def test_a_folder_with_signs_of_a_glob_is_a_folder(tmp_path: Path) -> None:
    assert list(rows(list_input(str(write(tmp_path / "[ab]", "x.jpg"))))) == ["x.jpg"]


def test_many_names_cost_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver holds O(shards): 20 bytes an image where a list of names would take 100 and more."""
    import tracemalloc

    count = 200_000
    names = ((f"folder-{number // 1000:04}/image-{number:09}.jpg", 50_000) for number in range(count))
    monkeypatch.setattr(LocalStore, "entries", lambda self, patient: names)
    tracemalloc.start()
    listing = list_input(str(tmp_path), output_name=PNG)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert listing.images == count
    assert kept / count < 25


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()], ids=str)
def test_a_key_that_is_no_text_is_one_row(kind: pa.DataType, tmp_path: Path) -> None:
    keys = [b"good.jpg", b"\xff\xfebad.jpg", None, b""]
    column = pa.array(keys, pa.binary_view() if kind == pa.string_view() else pa.binary())
    column = column.view(kind) if kind != pa.large_string() else column.cast(pa.large_binary()).view(kind)
    pq.write_table(pa.table({"key": column, "image": [b"1", b"2", b"3", b"4"]}), tmp_path / "p.parquet")
    parquet(tmp_path / "q.parquet", {"key": ["q.jpg"], "image": [b"5"]})
    expected = {"good.jpg": "", r"\udcff\udcfebad.jpg": "unsafe_name", "p/2": "", "": "unsafe_name", "q.jpg": ""}
    assert reasons(list_input(str(tmp_path), output_name=PNG)) == expected


@pytest.mark.parametrize("choice", [Choice(), Choice(include=("*.jpg",)), Choice(listed=frozenset({"q.jpg", "y2"}))])
@pytest.mark.parametrize("named", [None, PNG])
@pytest.mark.parametrize("damage", [b"\xff" * 58, bytes(58), None])
def test_a_row_group_whose_keys_are_damaged_is_its_rows(
    damage: bytes | None, named: OutputName | None, choice: Choice, tmp_path: Path
) -> None:
    """Whatever the listing wants to know of them."""
    path, keys = tmp_path / "p.parquet", [f"{letter}{number}" for letter in "xy" for number in range(4)]
    table = pa.table({"key": keys, "image": [key.encode() for key in keys]})
    pq.write_table(table, path, row_group_size=4, use_dictionary=False)
    place = pq.ParquetFile(path).metadata.row_group(0).column(0).data_page_offset
    data = bytearray(path.read_bytes())
    data[place + 2 : place + 60] = damage or os.urandom(58)
    path.write_bytes(data)
    parquet(tmp_path / "q.parquet", {"key": ["q.jpg"], "image": [b"5"]})
    listing = list_input(str(tmp_path), output_name=named, choice=choice)
    found = [row for shard in listing.shards for row in read_shard(shard, named).to_pylist()]
    assert [row["key"] for row in found[:4]] == ["p.parquet", *(f"p.parquet#{number}" for number in range(1, 4))]
    assert {row["reason"] for row in found[:4]} == {"shard_incomplete"}
    assert all("row group 0 cannot be read" in row["detail"] for row in found[:4])
    taken = [key for key in (*keys[4:], "q.jpg") if choice.takes(key)]
    assert [row["key"] for row in found[4:] if not row["reason"]] == taken
    assert listing.images == len(found)


def test_a_chain_of_headers_ends_its_tar_alone(tmp_path: Path) -> None:
    def header(name: str, kind: bytes, size: int) -> bytes:
        info = tarfile.TarInfo(name)
        info.type, info.size = kind, size
        return info.tobuf(tarfile.GNU_FORMAT)

    long = header("././@LongLink", b"L", 2) + b"a\0".ljust(512, b"\0")
    rest = header("x.jpg", b"0", 1) + b"1".ljust(512, b"\0") + bytes(10240)
    good = made.tar({"good.jpg": b"1"})[:1024]
    for count in (10, 1500, 4000):
        (tmp_path / "t.tar").write_bytes(good + long * count + rest)
        for cut in (False, True):
            listing = list_input(str(tmp_path / "t.tar"), output_name=PNG, cut_tars=cut)
            found = [row for shard in listing.shards for row in read_shard(shard, PNG).to_pylist()]
            assert (found[0]["key"], found[0]["reason"]) == ("t/good.jpg", "")
            broken = [row for row in found if row["reason"]]
            assert {row["key"] for row in broken} == ({"t.tar"} if count > 1000 else set())
            assert all(row["reason"] == "shard_incomplete" for row in broken)
