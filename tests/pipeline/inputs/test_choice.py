"""Which images are meant: patterns and lists, of loose files, tar members and Parquet rows alike."""

import gzip
import io
import re
import tarfile
import warnings
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftrec.errors import InvalidInput
from pipeline.inputs.listing import list_input
from pipeline.inputs.location import glob_regex
from pipeline.inputs.selection import Choice
from pipeline.inputs.shards import read_shard
from tests import made
from tests.pipeline.offline import files, ledger, restore

IMAGES = {f"{folder}/{number}.jpg": made.jpeg(number) for folder in ("a", "b") for number in range(3)}
FILES, TAR, ROWS = (list(IMAGES), [f"t/{key}" for key in IMAGES], [f"p/{key}" for key in IMAGES])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The same six images as files, as members of a tar and as rows of a Parquet file."""
    source = tmp_path / "in"
    for name, data in IMAGES.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(data)
    (source / "t.tar").write_bytes(made.tar(IMAGES))
    table = pa.table({"key": ROWS, "jpg": list(IMAGES.values())})
    pq.write_table(table, source / "p.parquet", row_group_size=2)
    return source


@pytest.mark.parametrize(
    ("include", "exclude", "taken"),
    [
        (("2.jpg",), (), {"2"}),  # without a slash: the last part
        (("[01].*",), ("1.jpg",), {"0"}),
        (("**/a/*",), (), {"a"}),  # with one: the whole key
        (("*/2.jpg",), (), {"a/2 of files", "b/2 of files"}),
        ((), ("**/a/**",), {"b"}),
    ],
)
def test_patterns(include: tuple[str, ...], exclude: tuple[str, ...], taken: set[str]) -> None:
    choice = Choice(include, exclude)
    found = {key for key in [*FILES, *TAR, *ROWS] if choice.takes(key)}
    meant = {
        "2": {key for key in [*FILES, *TAR, *ROWS] if key.endswith("/2.jpg")},
        "0": {key for key in [*FILES, *TAR, *ROWS] if key.endswith("/0.jpg")},
        "a": {key for key in [*FILES, *TAR, *ROWS] if "a/" in key},
        "b": {key for key in [*FILES, *TAR, *ROWS] if "b/" in key},
        "a/2 of files": {"a/2.jpg"},
        "b/2 of files": {"b/2.jpg"},
    }
    assert found == set().union(*(meant[name] for name in taken))


def test_only_what_is_meant_is_restored(source: Path, tmp_path: Path) -> None:
    result = restore(source, tmp_path / "out", include=["1.jpg", "2.jpg"], exclude=["**/b/*"])
    rows = ledger(tmp_path / "out")
    expected = {key for key in [*FILES, *TAR, *ROWS] if "a/" in key and key[-5] in "12"}
    assert set(rows) == expected
    assert result["status"] == {"ok": 6, "failed": 0, "skipped": 0}
    whole = restore(source, tmp_path / "whole")
    assert whole["images"] == 18
    assert files(tmp_path / "out/images").items() <= files(tmp_path / "whole/images").items()
    with pytest.raises(InvalidInput, match=r"include is \['1.jpg', '2.jpg'\] there"):
        restore(source, tmp_path / "out", exclude=["**/b/*"])


@pytest.mark.parametrize("kind", ["txt", "csv", "parquet"])
def test_only_listed(source: Path, tmp_path: Path, kind: str) -> None:
    keys = ["a/1.jpg", "t/b/2.jpg", "p/a/0.jpg", "p/a/1.jpg"]
    path = tmp_path / f"keys.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"key": keys, "status": ["failed"] * 4}), path)
    else:
        path.write_text("\n".join(keys) if kind == "txt" else "n,key\n" + "".join(f"1,{key}\n" for key in keys))
    result = restore(source, tmp_path / "out", only_listed=str(path))
    assert set(ledger(tmp_path / "out")) == set(keys)
    assert result["shards"]["listed"] == 3
    path.rename(tmp_path / f"moved.{kind}")  # its content counts, not its place
    assert restore(source, tmp_path / "out", only_listed=str(tmp_path / f"moved.{kind}")) == result


def test_keys_that_are_not_there_are_named(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "keys.txt"
    path.write_text("a/1.jpg\na/9.jpg\nt/none.jpg\n")
    with pytest.raises(InvalidInput, match=r"2 of 3 keys are not in INPUT: a/9\.jpg, t/none\.jpg; write"):
        restore(source, tmp_path / "out", only_listed=str(path))
    path.write_text("\n\n")
    with pytest.raises(InvalidInput, match=r"keys\.txt holds no key"):
        restore(source, tmp_path / "out", only_listed=str(path))
    with pytest.raises(InvalidInput, match=r"none\.txt does not exist"):
        restore(source, tmp_path / "out", only_listed=f"{tmp_path}/none.txt")
    assert not (tmp_path / "out").exists()


def test_another_list_is_another_run(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "keys.txt"
    path.write_text("t/a/1.jpg\n")
    restore(source, tmp_path / "out", only_listed=str(path))
    path.write_text("t/a/2.jpg\n")
    with pytest.raises(InvalidInput, match="INPUT holds other files"):
        restore(source, tmp_path / "out", only_listed=str(path))


def test_a_choice_that_leaves_nothing_is_refused(tmp_path: Path) -> None:
    made.folder(tmp_path / "in", 3)
    with pytest.raises(InvalidInput, match="--include, --exclude and --only-listed leave none"):
        restore(tmp_path / "in", tmp_path / "out", include=["*.gif"])


def test_what_tells_of_a_cut_container_is_never_left_out(tmp_path: Path) -> None:
    (tmp_path / "t.tar").write_bytes(made.tar(IMAGES)[:3000])
    listing = list_input(str(tmp_path / "t.tar"), choice=Choice(include=("nothing",)))
    assert [row["key"] for shard in listing.shards for row in read_shard(shard).to_pylist()] == ["t.tar"]


def test_a_limit_counts_what_is_meant(source: Path) -> None:
    listing = list_input(str(source), limit=5, choice=Choice(include=("1.jpg",)), cut_tars=True)
    keys = [key for shard in listing.shards for key in read_shard(shard)["key"].to_pylist()]
    assert keys == ["a/1.jpg", "b/1.jpg", "p/a/1.jpg", "p/b/1.jpg", "t/a/1.jpg"]


@pytest.mark.parametrize("place", ["include", "exclude", "INPUT"])
@pytest.mark.parametrize("pattern", ["[z-a].jpg", "a/[9-0]*.jpg"])
def test_a_pattern_that_means_nothing_is_named(place: str, pattern: str, source: Path, tmp_path: Path) -> None:
    changes: dict[str, Any]
    url, changes = (f"{source}/{pattern}", {}) if place == "INPUT" else (source, {place: [pattern]})
    last = re.escape(pattern.rpartition("/")[2])
    with pytest.raises(InvalidInput, match=rf"{last}' has a bad character range"):
        restore(url, tmp_path / "out", **changes)


@settings(max_examples=300)
@given(st.text("ab[]!^-\\*?/.|&~\n=", max_size=8))
def test_a_pattern_is_used_or_refused(pattern: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            found = glob_regex(pattern)
        except InvalidInput:
            assert "-" in pattern
            return
    if not set(pattern) & set("[*?"):
        assert found.fullmatch(pattern)


@pytest.mark.parametrize(
    ("pattern", "one", "other"),
    [("[!a].jpg", "b.jpg", "a.jpg"), ("[^a].jpg", "b.jpg", "a.jpg"), ("[!].jpg", "!.jpg", "a.jpg"),
     ("[\\d].jpg", "d.jpg", "1.jpg"), ("[[a].jpg", "[.jpg", "b.jpg"), ("**", "a\n/b.jpg", None)],
)  # fmt: skip
def test_classes(pattern: str, one: str, other: str | None) -> None:
    assert Choice((pattern,)).takes(one)
    assert other is None or not Choice((pattern,)).takes(other)


@pytest.fixture
def odd(source: Path) -> Path:
    """An archive with all kinds of keys that a ledger may hold."""
    parquet = {"key": ["k1", "k1", None, "../up", "k#1", "k1", "p/a/0.jpg"], "jpg": [made.jpeg(9)] * 7}
    pq.write_table(pa.table(parquet), source / "q.parquet", row_group_size=3)
    damaged = pa.table({"key": ["x1", "x2", "x3"], "jpg": [b"1", b"2", b"3"]})
    pq.write_table(damaged, source / "r.parquet", use_dictionary=False)
    place = pq.ParquetFile(source / "r.parquet").metadata.row_group(0).column(0).data_page_offset
    data = bytearray((source / "r.parquet").read_bytes())
    data[place + 2 : place + 40] = bytes(38)
    (source / "r.parquet").write_bytes(data)
    (source / "cut.parquet").write_bytes(b"PAR1 no more")
    (source / "gz.tar").write_bytes(gzip.compress(b"x" * 100))
    members = [("a.jpg", made.jpeg(1)), ("a.jpg", made.jpeg(2)), ("a.jpg", b""), ("../up.jpg", b"1")]
    with tarfile.open(source / "u.tar", "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    (source / "cut.tar").write_bytes((source / "t.tar").read_bytes()[:3000])
    (source / "back\\slash\n.jpg").write_bytes(b"1")
    (source / "nowhere.jpg").symlink_to("none.jpg")
    return source


def test_whatever_a_ledger_holds_can_be_listed(odd: Path, tmp_path: Path) -> None:
    restore(odd, tmp_path / "out")
    rows = ledger(tmp_path / "out")
    assert len({row["reason"] for row in rows.values()}) == 5
    assert {"k1#1", "k1#5", "gz.tar", "cut.parquet", "r.parquet", "r.parquet#2", "cut.tar"} <= rows.keys()
    whole = tmp_path / "keys.parquet"
    pq.write_table(pa.table({"key": list(rows)}), whole)
    restore(odd, tmp_path / "same", only_listed=str(whole))
    told = [{key: row["reason"] for key, row in found.items()} for found in (rows, ledger(tmp_path / "same"))]
    assert told[0] == told[1]
    for number, part in enumerate(sorted((tmp_path / "out/ledger").glob("*.parquet"))):
        listed = set(pq.read_table(part)["key"].to_pylist())
        restore(odd, tmp_path / str(number), only_listed=str(part))
        found = ledger(tmp_path / str(number))
        assert {key for key in listed if not re.search(r"#\d+$", key)} <= found.keys(), listed
        asked = {key.partition("#")[0] for key in listed}
        told_anyway = {"cut.parquet", "r.parquet"}  # what tells of a cut container always stays
        wholes = {key[:-4] for key in listed if key.endswith(".tar")}
        assert all(
            key.partition("#")[0] in asked | told_anyway or key.partition("/")[0] in wholes for key in found
        ), (listed, set(found))


def test_the_place_of_a_row_is_this_row(odd: Path, tmp_path: Path) -> None:
    for number, (key, alone) in enumerate({"k1#5": "k1", "u/a.jpg#1": "u/a.jpg", "p/a/0.jpg#6": "p/a/0.jpg"}.items()):
        (tmp_path / "keys.txt").write_text(key)
        restore(odd, tmp_path / str(number), only_listed=str(tmp_path / "keys.txt"))
        found = {key for key, row in ledger(tmp_path / str(number)).items() if row["status"] == "ok"}
        assert found == {alone}


def test_a_place_that_is_not_there_is_a_warning(
    source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "keys.txt").write_text("a/1.jpg\np/a/0.jpg#77\n")
    with caplog.at_level("WARNING"):
        restore(source, tmp_path / "out", only_listed=str(tmp_path / "keys.txt"))
    assert "p/a/0.jpg#77" in caplog.text
    assert set(ledger(tmp_path / "out")) == {"a/1.jpg"}


def test_a_container_that_was_fetched_again_is_listed_by_its_name(source: Path, tmp_path: Path) -> None:
    for name, keys in (("t.tar", TAR), ("p.parquet", ROWS)):
        (tmp_path / "keys.txt").write_text(name)
        restore(source, tmp_path / name, only_listed=str(tmp_path / "keys.txt"))
        assert set(ledger(tmp_path / name)) == set(keys)
