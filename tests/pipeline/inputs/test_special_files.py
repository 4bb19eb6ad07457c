"""Names in INPUT that are no files: each that promises an image is a row, all others are counted; none is opened."""

import errno
import os
import socket
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from driftrec.errors import InvalidInput
from pipeline.inputs.listing import list_input
from pipeline.inputs.location import open_input
from pipeline.inputs.selection import read_keys
from pipeline.storage.base import StorageError
from pipeline.storage.local import LocalStore
from pipeline.survey.settings import SurveySettings
from pipeline.survey.stage import SurveyShard
from tests import made
from tests.pipeline.offline import ledger, restore

pytestmark = pytest.mark.timeout(30)  # seconds: who opens a pipe waits for ever


def listening(path: Path) -> None:
    server = socket.socket(socket.AF_UNIX)
    here = os.getcwd()
    os.chdir(path.parent)  # the paths of sockets are short
    server.bind(path.name)
    os.chdir(here)
    server.close()


KINDS: dict[str, Callable[[Path], None]] = {
    "nowhere": lambda path: path.symlink_to("none.jpg"),
    "circle": lambda path: path.symlink_to(path.name),
    "below a file": lambda path: path.symlink_to("ok.jpg/x.jpg"),
    "folder": lambda path: path.symlink_to("folder"),
    "out and nowhere": lambda path: path.symlink_to("/nowhere/none.jpg"),
    "pipe": os.mkfifo,
    "link to a pipe": lambda path: (os.mkfifo(path.parent / "pipe.txt"), path.symlink_to("pipe.txt"))[1],
    "socket": listening,
    "device": lambda path: path.symlink_to("/dev/zero"),
}
NO_FILES = "links that lead nowhere, pipes, sockets, devices"
NAMES = {"x.jpg": "row", "y.tar": "row", "z.parquet": "row", "n.txt": "counted", "none": "counted"}


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_name_that_is_no_file(kind: str, name: str, alone: bool, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "folder").mkdir(parents=True)
    (folder / "ok.jpg").write_bytes(made.jpeg(1))
    KINDS[kind](folder / name)
    if alone and kind != "below a file":
        (folder / "ok.jpg").unlink()
    if alone and NAMES[name] == "counted" and kind != "below a file":
        with pytest.raises(InvalidInput, match="files of other kinds"):
            restore(folder, tmp_path / "out")
        return
    result = restore(folder, tmp_path / "out")
    rows = ledger(tmp_path / "out")
    if NAMES[name] == "row":
        assert rows[name]["reason"] in ("unreadable", "unsafe_name")
        assert rows[name]["detail"].endswith("put the file in its place")
    counted = dict(list_input(str(folder)).ignored)
    words = "links to folders that are read elsewhere" if kind == "folder" else NO_FILES
    expected = Counter([NO_FILES] if kind == "link to a pipe" else [])
    expected += Counter([words] if NAMES[name] == "counted" else [])
    assert counted == expected == result["ignored_files"]
    assert len(rows) == (NAMES[name] == "row") + (folder / "ok.jpg").exists()
    settings = SurveySettings(input=str(folder), output=str(tmp_path / "survey"))
    survey = SurveyShard(settings, 0, LocalStore(settings.output))
    found = [row for shard in list_input(str(folder)).shards for row in survey.rows(shard.id, shard)]
    assert {row["key"]: row["reason"] for row in found if row["status"] == "failed"} == {
        key: row["reason"] for key, row in rows.items() if row["status"] == "failed"
    }


@pytest.mark.parametrize("name", ["x.jpg", "x.tar", "x.parquet"])
def test_a_pipe_given_by_its_name(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    restore(tmp_path / name, tmp_path / "out")
    assert {key: row["reason"] for key, row in ledger(tmp_path / "out").items()} == {name: "unreadable"}


def test_a_store_waits_for_no_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.jpg")
    with pytest.raises(StorageError, match=r"x\.jpg is a pipe, socket or device"):
        LocalStore(str(tmp_path)).read("x.jpg")
    with pytest.raises(InvalidInput, match=r"--only-listed .*x\.jpg is a pipe"):
        read_keys(str(tmp_path / "x.jpg"))


@pytest.mark.parametrize("exclude", [(), ("closed",), ("a/closed/**",), ("*.png",)])
def test_a_folder_that_cannot_be_listed_is_a_row(
    exclude: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends no run; its row goes where it is left out."""
    (tmp_path / "in/a/closed").mkdir(parents=True)
    (tmp_path / "in/a/ok.jpg").write_bytes(made.jpeg(1))
    scandir = os.scandir

    def closed(path: Path) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    restore(tmp_path / "in", tmp_path / "out", exclude=exclude, copy_failed=True)
    failed = {key: row for key, row in ledger(tmp_path / "out").items() if row["status"] == "failed"}
    assert failed.keys() == (set() if exclude and "closed" in exclude[0] else {"a/closed"})
    for row in failed.values():
        assert row["reason"] == "unreadable"
        assert "a folder that may not be listed: check owner and mode" in row["detail"]


@pytest.mark.parametrize("where", ["inside", "itself", "above", "outside", "outside, inside a folder"])
def test_a_linked_folder_is_read_by_its_own_name_or_told(where: str, tmp_path: Path) -> None:
    """What lies in INPUT is restored once; what lies elsewhere is not read, and its row says so."""
    folder = tmp_path / "in"
    for name in ("in/b/far.jpg", "elsewhere/far.jpg"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(made.jpeg(1))
    link = folder / ("b/link" if "folder" in where else "2019")
    target = {"inside": folder / "b", "itself": folder, "above": tmp_path}.get(where, tmp_path / "elsewhere")
    link.symlink_to(target)
    result = restore(folder, tmp_path / "out", copy_failed=True)
    rows = ledger(tmp_path / "out")
    assert rows["b/far.jpg"]["status"] == "ok"
    if where in ("inside", "itself"):
        assert rows.keys() == {"b/far.jpg"}
        assert result["ignored_files"] == {"links to folders that are read elsewhere": 1}
    else:
        (row,) = (row for key, row in rows.items() if key != "b/far.jpg")
        assert (row["key"], row["reason"]) == (link.relative_to(folder).as_posix(), "unsafe_name")
        assert "a link to a folder out of the input" in row["detail"]


@pytest.mark.parametrize("name", ["a", "a.jpg", "a.tar"])
def test_an_input_that_may_not_be_looked_at_is_told_so(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not that it does not exist."""
    stat = Path.stat

    def refused(self: Path, **options: Any) -> os.stat_result:
        if self.name == name:
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return stat(self, **options)

    (tmp_path / name).write_bytes(b"")
    monkeypatch.setattr(Path, "is_dir", lambda self: False)  # closed, too
    monkeypatch.setattr(Path, "stat", refused)
    with pytest.raises(InvalidInput, match=f"{name}: Permission denied; check owner and mode"):
        open_input(str(tmp_path / name))
