"""Tars in pieces: together they hold what the whole holds, each member once, however the tar was written or cut."""

import io
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from driftrec.errors import DriftRecError
from pipeline.inputs.shards import Incoming
from pipeline.inputs.tars import TarFile, tar_rows
from pipeline.storage.local import LocalStore
from tests import made


def rows(path: Path, start: int = 0, stop: int | None = None, near: int | None = None) -> list[Incoming]:
    file = TarFile(LocalStore(str(path.parent)), path.name, start, stop if near is None else near)
    return list(tar_rows(file, path.name, path.stem, start, stop))


def pieces(path: Path, length: int) -> Iterator[list[Incoming]]:
    size = path.stat().st_size
    for start in range(0, size, length):
        yield rows(path, start, start + length if start + length < size else None)


def written(path: Path, kind: int, seed: int, members: int = 60) -> Path:
    """A tar of small members, some of other kinds, some with names that need headers of their own."""
    dice = random.Random(seed)
    with tarfile.open(path, "w", format=kind) as tar:
        for number in range(members):
            long = "é" * 40 + "x" * dice.choice([0, 90]) + "/" if dice.random() < 0.5 else ""
            info = tarfile.TarInfo(f"{long}{number}.{dice.choice(['jpg', 'jpg', 'txt'])}")
            info.size = dice.choice([0, 1, 511, 512, 513, 3000, 9000])
            tar.addfile(info, io.BytesIO(dice.randbytes(info.size)))
            if dice.random() < 0.2:
                folder = tarfile.TarInfo(f"folder{number}.jpg")
                folder.type = tarfile.DIRTYPE
                tar.addfile(folder)
    return path


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("length", [1024, 3000, 5120, 20481, 102400])
def test_pieces_hold_what_the_whole_holds(tmp_path: Path, kind: int, length: int) -> None:
    path = written(tmp_path / "t.tar", kind, length)
    whole = rows(path)
    assert sum(not row.reason for row in whole) == len(whole) > 20
    with tarfile.open(path) as tar:
        files = {m.name: tar.extractfile(m).read() for m in tar.getmembers() if m.isfile() and m.name.endswith("jpg")}
    assert {row.key: row.data for row in whole} == {f"t/{name}": data for name, data in files.items()}
    found = list(pieces(path, length))
    assert [row for piece in found for row in piece] == whole
    assert sum(bool(piece) for piece in found) > 1
    assert rows(path, near=0) == whole  # whatever is read at once


def test_a_member_longer_than_pieces(tmp_path: Path) -> None:
    members = {"a.jpg": b"a" * 100, "long.bin": b"l" * 70_000, "b.jpg": b"b" * 33_000, "c.jpg": b"c"}
    path = tmp_path / "t.tar"
    path.write_bytes(made.tar(members))
    found = list(pieces(path, 4096))
    assert [row.key for piece in found for row in piece] == ["t/a.jpg", "t/b.jpg", "t/c.jpg"]
    assert sum(bool(piece) for piece in found) == 3


@pytest.mark.parametrize("cut", [700, 5000, 20_480, 33_000, 50_000])
def test_a_cut_tar_says_so_once(tmp_path: Path, cut: int) -> None:
    path = written(tmp_path / "t.tar", tarfile.GNU_FORMAT, 1)
    path.write_bytes(path.read_bytes()[:cut])
    whole = rows(path)
    assert [row.key for row in whole if row.reason == "shard_incomplete"] == ["t.tar"]
    found = [row for piece in pieces(path, 4096) for row in piece]
    assert [row._replace(detail="") for row in found] == [row._replace(detail="") for row in whole]


def test_a_tar_in_a_tar_is_not_taken_apart_in_silence(tmp_path: Path) -> None:
    inner = made.tar({f"inner{number}.jpg": b"i" * 900 for number in range(20)})
    path = tmp_path / "t.tar"
    path.write_bytes(made.tar({"a.jpg": b"a", "nested.tar": inner, "b.jpg": b"b"}))
    assert [row.key for row in rows(path)] == ["t/a.jpg", "t/b.jpg"]
    with pytest.raises(DriftRecError, match=r"t\.tar: something at byte \d+ looks like the header.*shard_bytes=\d+"):
        list(pieces(path, 4096))


def test_a_piece_reads_little_more_than_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.tar"
    path.write_bytes(made.tar({f"{number:03}.jpg": bytes([number]) * 50_000 for number in range(200)}))
    asked: list[int] = []
    read = LocalStore.read
    monkeypatch.setattr(
        LocalStore, "read", lambda self, name, at=0, n=None: (asked.append(n), read(self, name, at, n))[1]
    )
    found = rows(path, 5 * 2**20, 6 * 2**20)
    assert 18 < len(found) < 24
    assert sum(asked) < 1.5 * 2**20
    assert len(asked) < 6
