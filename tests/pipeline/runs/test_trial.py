"""Images that end or stop their worker: a row after finite tries, the rest of the shard done. Processes really die."""

import ctypes
import faulthandler
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from driftrec.errors import DriftRecError
from pipeline.inputs import listing
from pipeline.inputs.blocks import read_block
from pipeline.restore import stage
from pipeline.restore.job import open_restore
from pipeline.restore.settings import RestoreSettings
from pipeline.runs.crashes import ALONE, MOST, UNEXPLAINED, Trial, forget
from pipeline.runs.run import finish
from pipeline.storage.local import LocalStore
from tests import made
from tests.pipeline.offline import files, ledger, restore

open_picture = stage.open_picture


@pytest.fixture(autouse=True)
def _large_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small inputs are not cut finer: several images share a shard."""
    monkeypatch.setattr(listing, "MIN_SHARDS", 1)


def hang_with_the_lock() -> None:
    """Hang where no other Python thread can run: inside C code that keeps the interpreter's lock."""
    ctypes.PyDLL(None).sleep(600)


WAYS: dict[str, Callable[[], Any]] = {
    "abort": os.abort,
    "segfault": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),  # as the kernel or Ray do for want of memory
    "hang": lambda: time.sleep(600),
    "hang in C": hang_with_the_lock,
}


def in_lives(source: Path, output: Path, bad: dict[str, str], **changes: Any) -> tuple[dict[str, Any], int]:
    """Restore with a new process for each that dies, as Ray starts its actors again: the result, and the deaths."""

    def deadly(data: bytes, key: str, *more: Any) -> Any:
        return WAYS[bad[key]]() if key in bad else open_picture(data, key, *more)

    values = {"model": "identity", "max_failed": "100%", "report": False} | changes
    run, weights, settings = open_restore(RestoreSettings(input=str(source), output=str(output), **values))
    deaths = 0
    for shard in run.todo:
        while True:
            pid = os.fork()
            if not pid:
                faulthandler.disable()
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # it dies with many words
                stage.open_picture = deadly
                row = stage.RestoreShard(settings, weights, run.store)(read_block(shard, None)).to_pylist()[0]
                Path(f"{output}.error").write_text(row["error"] or "")
                os._exit(0)
            if os.waitpid(pid, 0)[1] == 0:
                break
            deaths += 1
            assert deaths <= MOST
        if error := Path(f"{output}.error").read_text():
            raise DriftRecError(error)
    return finish(run), deaths


@pytest.mark.parametrize("layout", ["tree", "tar"])
@pytest.mark.parametrize("way", ["abort", "segfault", "killed"])
def test_an_image_that_ends_its_worker_is_a_row(tmp_path: Path, way: str, layout: str) -> None:
    source, bad = made.folder(tmp_path / "in", 8), "b/0004.jpg"
    settings = {"shard_images": 8, "layout": layout}
    restore(source, tmp_path / "whole", exclude=[bad], **settings)
    result, deaths = in_lives(source, tmp_path / "out", {bad: way}, copy_failed=True, **settings)
    assert deaths == 1 + ALONE
    assert (result["status"]["ok"], result["reasons"]) == (7, {"crashed": 1})
    row = ledger(tmp_path / "out")[bad]
    assert (row["status"], row["reason"], row["stage"]) == ("failed", "crashed", None)
    assert f"ended its worker {ALONE} times" in row["detail"]
    assert row["input_sha256"] == row["output_sha256"]  # copied all the same
    whole = ledger(tmp_path / "whole")
    assert {key: (row["output_sha256"], row["status"]) for key, row in whole.items()} == {
        key: (row["output_sha256"], row["status"]) for key, row in ledger(tmp_path / "out").items() if key != bad
    }
    assert not list((tmp_path / "out").rglob("*.trying"))


@pytest.mark.parametrize("way", ["hang", "hang in C"])
@pytest.mark.parametrize("limit", ["image_timeout_s", "decode_s_per_megapixel"])
def test_an_image_that_hangs_is_a_row(tmp_path: Path, way: str, limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source, bad = made.folder(tmp_path / "in", 5), "a/0003.jpg"
    if limit == "decode_s_per_megapixel":
        monkeypatch.setattr(stage, "DECODE_S", 0.0)
    given = {"image_timeout_s": 1.5} if limit == "image_timeout_s" else {limit: 1.5e6 / (48 * 64)}  # of the smallest
    result, deaths = in_lives(source, tmp_path / "out", {bad: way}, shard_images=8, **given)
    assert deaths == 2  # among others, and alone
    assert (result["status"]["ok"], result["reasons"]) == (4, {"timeout": 1})
    detail = ledger(tmp_path / "out")[bad]["detail"]
    assert f"longer than image_timeout_s={given.get('image_timeout_s', 3600):g}" in detail
    assert "decode_s_per_megapixel" in detail


def test_several_in_one_shard(tmp_path: Path) -> None:
    source = made.folder(tmp_path / "in", 8)
    bad = {"a/0000.jpg": "abort", "b/0001.jpg": "hang", "c/0005.jpg": "killed"}
    result, deaths = in_lives(source, tmp_path / "out", bad, shard_images=8, image_timeout_s=1.5)
    assert result["reasons"] == {"crashed": 2, "timeout": 1}
    assert result["status"]["ok"] == 5
    assert deaths <= 1 + 2 * ALONE + 1
    named = {row["output"] for row in ledger(tmp_path / "out").values() if row["output"]}
    assert named == {f"images/{name}" for name in files(tmp_path / "out/images")}


def test_a_crashed_image_is_tried_again_if_asked(tmp_path: Path) -> None:
    source, bad = made.folder(tmp_path / "in", 4), "a/0003.jpg"
    in_lives(source, tmp_path / "out", {bad: "abort"}, shard_images=8)
    result, deaths = in_lives(source, tmp_path / "out", {}, shard_images=8, retry_failed="crashed")
    assert (deaths, result["status"]["ok"], result["images_this_attempt"]) == (0, 4, 0)  # counted by the driver only


def test_what_no_image_explains_ends_the_run(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    for death in range(UNEXPLAINED):
        assert Trial(store, "s", 10).first == (death == 0)
    with pytest.raises(DriftRecError, match=f"a worker died {UNEXPLAINED} times on the same shard"):
        Trial(store, "s", 10)
    forget(store)
    assert Trial(store, "s", 10).first


def test_a_worker_that_dies_of_everything_ends_the_run(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    for death in range(MOST):
        Trial(store, "s", 1000).begin(f"{death // ALONE}.jpg")
    with pytest.raises(DriftRecError, match=f"a worker died {MOST} times"):
        Trial(store, "s", 1000)


def test_notes_are_beside_the_ledger_and_small(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    trial = Trial(store, "0123456789abcdef", 5)
    trial.begin("a.jpg")
    note = json.loads((tmp_path / "ledger/0123456789abcdef.trying").read_text())
    assert (note["key"], note["died"]) == ("a.jpg", 0)
    trial.end()
    assert not list(tmp_path.rglob("*.trying"))


def test_two_runs_on_one_shard_do_not_trip_over_each_others_notes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other run ends the shard between our look at the note and our reading of it."""
    store = LocalStore(str(tmp_path))
    other, read = Trial(store, "s", 10), LocalStore.read
    monkeypatch.setattr(LocalStore, "read", lambda self, name: (other.end(), read(self, name))[1])
    assert Trial(store, "s", 10).first
