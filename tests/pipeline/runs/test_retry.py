"""Images that failed, done again: their rows are replaced, all else stays, whatever dies when; and copies of those
that keep failing.
"""

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from driftrec.errors import BadImage, InvalidInput, Reason
from pipeline.inputs import listing
from pipeline.restore import stage
from pipeline.restore.settings import RestoreSettings
from pipeline.runs.redo import only, renewed
from tests import made
from tests.pipeline.offline import Died, die_at, files, ledger, restore

open_picture = stage.open_picture
POOR = {"a/0003.jpg": Reason.out_of_memory, "b/0004.jpg": Reason.internal, "c/0005.jpg": Reason.out_of_memory}


@pytest.fixture(autouse=True)
def _large_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small inputs are not cut finer: several images share a shard."""
    monkeypatch.setattr(listing, "MIN_SHARDS", 1)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Nine images, and one that is broken for good."""
    source = made.folder(tmp_path / "in", 9)
    (source / "b/broken.jpg").write_bytes(b"<html>")
    return source


def fail(monkeypatch: pytest.MonkeyPatch, keys: Collection[str]) -> None:
    """These images fail from now on, the others do not."""

    def opened(data: bytes, key: str, *more: Any) -> Any:
        if key in keys:
            raise BadImage(POOR[key], "for a test")
        return open_picture(data, key, *more)

    monkeypatch.setattr(stage, "open_picture", opened)


def same(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {key: {**row, "seconds": None, "done": None} for key, row in rows.items()}


@pytest.mark.parametrize("layout", ["tree", "tar"])
def test_failed_images_are_done_again_and_nothing_else(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    undisturbed = restore(source, tmp_path / "whole")
    output, settings = tmp_path / "out", {"layout": layout, "shard_images": 2}
    fail(monkeypatch, POOR)
    first = restore(source, output, **settings)
    assert first["reasons"] == {"internal": 1, "not_an_image": 1, "out_of_memory": 2}
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*.png")}
    rows = ledger(output)
    fail(monkeypatch, ())
    assert restore(source, output, **settings) == first  # without the flag nothing is done
    some = restore(source, output, retry_failed="out_of_memory", **settings)
    assert some["reasons"] == {"internal": 1, "not_an_image": 1}
    assert (some["images"], some["images_this_attempt"]) == (10, 2)
    last = restore(source, output, retry_failed="all", **settings)
    assert (last["status"], last["reasons"]) == (undisturbed["status"], {"not_an_image": 1})
    assert last["images_this_attempt"] == 2
    after = ledger(output)
    assert same({key: row for key, row in after.items() if key not in POOR}) == same(
        {key: row for key, row in rows.items() if key not in POOR}
    )
    hashes = {key: row["output_sha256"] for key, row in ledger(tmp_path / "whole").items()}
    assert {key: row["output_sha256"] for key, row in after.items()} == hashes
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_retry_killed_at_any_put_leaves_an_exact_ledger(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restore(source, tmp_path / "whole")
    output = tmp_path / "out"
    fail(monkeypatch, POOR)
    restore(source, output, shard_images=4)
    fail(monkeypatch, ())
    deaths = 0
    for moment in range(1, 40):
        die_at(monkeypatch, moment, "_write")
        try:
            restore(source, output, retry_failed="all", shard_images=4)
            break
        except Died:
            deaths += 1
        rows = ledger(output)
        assert len(rows) == 10
        for row in rows.values():
            if row["output"]:
                assert hashlib.sha256((output / row["output"]).read_bytes()).hexdigest() == row["output_sha256"]
    assert deaths > 5
    assert same(ledger(output)) == same(ledger(tmp_path / "whole"))
    assert files(output / "images") == files(tmp_path / "whole/images")
    assert not list(output.rglob("*.trying"))


@pytest.mark.parametrize("layout", ["tree", "tar"])
def test_copies_of_what_failed(source: Path, tmp_path: Path, layout: str) -> None:
    (source / "a/cut.JPG").write_bytes(made.jpeg(1, 200, 200)[:-900])
    (source / "a/empty.gif").write_bytes(b"")
    result = restore(source, tmp_path / "out", copy_failed=True, layout=layout)
    assert (result["status"]["failed"], result["exit_code"]) == (3, 3)
    rows = ledger(tmp_path / "out")
    for key in ("b/broken.jpg", "a/cut.JPG", "a/empty.gif"):
        row = rows[key]
        assert row["status"] == "failed"
        assert row["output"].endswith(key)
        assert row["output_sha256"] == row["input_sha256"] == hashlib.sha256((source / key).read_bytes()).hexdigest()
        if layout == "tree":
            assert (tmp_path / "out" / row["output"]).read_bytes() == (source / key).read_bytes()
    restore(source, tmp_path / "plain")
    plain = ledger(tmp_path / "plain").values()
    assert not any(row["output"] for row in plain if row["status"] == "failed")
    assert set(files(tmp_path / "plain/images")) == {row["output"][7:] for row in plain if row["output"]}


def test_what_has_no_bytes_is_not_copied(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    members = {"good.jpg": made.jpeg(1), "good.png": b"2", "../up.jpg": b"3"}
    (tmp_path / "in/t.tar").write_bytes(made.tar(members))
    restore(tmp_path / "in", tmp_path / "out", copy_failed=True)
    assert {key: row["output"] for key, row in ledger(tmp_path / "out").items()} == {
        "t/good.jpg": "images/t/good.png",
        "t/good.png": None,
        "t/../up.jpg": None,
    }


def test_a_container_that_was_cut_and_is_whole_again() -> None:
    good: dict[str, Any] = {"key": "t/a", "status": "ok", "reason": None}
    older = [good, failed("t/b", "truncated"), failed("t.tar", "shard_incomplete")]
    again = {"t/b", "t.tar"}
    table = pa.table({"key": ["t/a", "t/b", "t/c"]})
    assert only(table, older, again)["key"].to_pylist() == ["t/b", "t/c"]
    assert only(table, older[:2], {"t/b"})["key"].to_pylist() == ["t/b"]
    newer = [{"key": "t/b", "status": "ok"}, {"key": "t/c", "status": "ok"}]
    assert [row["key"] for row in renewed(older, newer, again)] == ["t/a", "t/b", "t/c"]
    assert renewed(older, [], {"t/b"}) == older  # what has gone keeps its row


def failed(key: str, reason: str) -> dict[str, Any]:
    return {"key": key, "status": "failed", "reason": reason}


def test_an_unknown_reason_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown reason; known are all, empty"):
        RestoreSettings(input="in", output="out", retry_failed="bad_luck")


def test_retry_is_free_and_copies_are_not(source: Path, tmp_path: Path) -> None:
    restore(source, tmp_path / "out", max_failed="1")
    assert restore(source, tmp_path / "out", retry_failed="all", image_timeout_s=50)["reasons"] == {"not_an_image": 1}
    with pytest.raises(InvalidInput, match="copy_failed is False there, True here"):
        restore(source, tmp_path / "out", copy_failed=True)
