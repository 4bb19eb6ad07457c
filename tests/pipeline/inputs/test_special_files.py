"""Names in INPUT that are no files: each that promises an image is a row, all others are counted; none is opened."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from driftrec.errors import InvalidInput
from pipeline.inputs.listing import list_input
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
    extra = {".txt": 1} if kind == "link to a pipe" else {}
    counted = dict(list_input(str(folder)).ignored)
    if NAMES[name] == "counted":
        suffix = ".txt" if name == "n.txt" else ""
        extra[suffix] = extra.get(suffix, 0) + 1
    assert counted == extra == result["ignored_files"]
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


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in/a/closed").mkdir(parents=True)
    scandir = os.scandir

    def closed(path: Path) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(InvalidInput, match="in/a/closed: Permission denied"):
        list_input(str(tmp_path / "in"))
