"""Outputs as tars: the bytes of the tree, in tars that are equal however they came about; one output, one owner."""

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from pipeline.inputs import listing
from pipeline.runs.outputs import read_output
from pipeline.storage.base import NotFound
from pipeline.storage.local import LocalStore
from tests import made
from tests.pipeline.offline import files, ledger, restore


@pytest.fixture(autouse=True)
def _large_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small inputs are not cut finer: several images share a shard."""
    monkeypatch.setattr(listing, "MIN_SHARDS", 1)


def members(folder: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for path in sorted(folder.glob("shards/*.tar")):
        with tarfile.open(path) as tar:
            names = tar.getnames()
            assert names == sorted(names)
            found |= {name: tar.extractfile(name).read() for name in names}  # type: ignore[union-attr]
    return found


def test_tars_hold_what_the_tree_holds(tmp_path: Path) -> None:
    source = made.folder(tmp_path / "in", 9)
    (source / f"c/{'long name, ünïcode ' * 6}.jpg").write_bytes(made.jpeg(3))
    (source / "b/broken.jpg").write_bytes(b"no")
    restore(source, tmp_path / "tree", shard_images=4)
    result = restore(source, tmp_path / "out", layout="tar", shard_images=4, codec_threads=4, batch_size=3)
    assert not (tmp_path / "out/images").exists()
    assert members(tmp_path / "out") == files(tmp_path / "tree/images")
    rows = ledger(tmp_path / "out")
    for key, row in ledger(tmp_path / "tree").items():
        assert rows[key]["output_sha256"] == row["output_sha256"]
        if row["output"]:
            data = read_output(LocalStore(str(tmp_path / "out")), rows[key]["output"])
            assert data == (tmp_path / "tree" / row["output"]).read_bytes()
    named = {row["output"].partition("#")[0] for row in rows.values() if row["output"]}
    assert named == {f"shards/{name}" for name in files(tmp_path / "out/shards")}
    with pytest.raises(NotFound, match="no such member"):
        read_output(LocalStore(str(tmp_path / "out")), rows["a/0000.jpg"]["output"] + "x")
    again = restore(source, tmp_path / "again", layout="tar", shard_images=4, codec_threads=1, batch_size=1)
    assert files(tmp_path / "again/shards") == files(tmp_path / "out/shards")
    assert again["status"] == result["status"]


def test_resume_and_sweep_of_tars(tmp_path: Path) -> None:
    source, output = made.folder(tmp_path / "in", 32), tmp_path / "out"
    restore(source, output, layout="tar", shard_images=2)
    whole = files(output / "shards")
    (output / "_RESULT.json").unlink()
    for part in sorted(output.glob("ledger/*.parquet"))[::2]:
        part.unlink()
    keep = {"shards/mine.tar": b"1", "shards/notes.txt": b"2"}
    leave = [f"shards/{'0' * 16}.tar", f"shards/{'0' * 16}-{'1' * 16}.tar", "ledger/0.trying"]
    for name in [*keep, *leave]:
        (output / name).write_bytes(b"1")
    result = restore(source, output, layout="tar", shard_images=2)
    assert result["images_this_attempt"] == 16
    assert files(output / "shards") == whole | {"mine.tar": b"1", "notes.txt": b"1"}
    assert not any((output / name).exists() for name in leave)


def test_an_output_belongs_to_the_first_member_of_its_name(tmp_path: Path) -> None:
    """Whether a tar is one shard or many; and again if a kill comes in between."""
    images = [(f"{number:02}.jpg", made.jpeg(number, 256, 256)) for number in range(12)]
    images += [("00.jpg", made.jpeg(50)), ("01.png", made.jpeg(51)), ("03.JPG", made.jpeg(52)), ("00.jpg", b"bad")]
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, data in images:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    (tmp_path / "in").mkdir()
    (tmp_path / "in/t.tar").write_bytes(file.getvalue())
    whole = restore(tmp_path / "in", tmp_path / "whole")
    assert whole["reasons"] == {"duplicate_name": 4}
    small: dict[str, Any] = {"shard_bytes": 20_480}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listing, "MIN_PIECE", 1)
        cut = restore(tmp_path / "in", tmp_path / "cut", **small)
        assert cut["shards"]["listed"] > 3
        assert (cut["status"], cut["reasons"]) == (whole["status"], whole["reasons"])
        assert files(tmp_path / "cut/images") == files(tmp_path / "whole/images")
        (tmp_path / "cut/_RESULT.json").unlink()
        for part in sorted((tmp_path / "cut/ledger").glob("*.parquet"))[::2]:
            part.unlink()
        assert restore(tmp_path / "in", tmp_path / "cut", **small)["reasons"] == whole["reasons"]
    assert files(tmp_path / "cut/images") == files(tmp_path / "whole/images")
    one, other = ([*ledger(tmp_path / name).values()] for name in ("whole", "cut"))
    hashes = [{row["output"]: row["output_sha256"] for row in rows} for rows in (one, other)]
    assert hashes[0] == hashes[1]
