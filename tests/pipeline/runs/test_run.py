"""A run: OUTPUT is claimed once, other fingerprints are refused by name, the end is counted and written."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from driftrec.errors import DriftRecError, InvalidInput
from pipeline.inputs.listing import list_input
from pipeline.inputs.location import check_apart, open_input
from pipeline.runs.ledger import FAILED, OK
from pipeline.runs.run import Exit, Run, earlier_result, finish, open_run, stop
from pipeline.storage import open_store
from tests import made


@pytest.fixture
def source(tmp_path: Path) -> str:
    return str(made.folder(tmp_path / "in", 6))


def start(source: str, output: Path, max_failed: str = "0", **identity: Any) -> Run:
    return open_run("restore", str(output), list_input(source), {"seed": 0}, {"seed": 0} | identity, max_failed)


def do_all(run: Run, failed: int = 0) -> None:
    """Write a part for all that is to do; the first `failed` images as failed."""
    for shard in run.todo:
        rows = [{"key": f"{shard.id}/{number}", "status": OK} for number in range(shard.images)]
        for row in rows[:failed]:
            row |= {"status": FAILED, "reason": "corrupt"}
        failed = max(0, failed - len(rows))
        run.ledger.commit(shard.id, rows)


def test_a_run_from_start_to_end(source: str, tmp_path: Path) -> None:
    run = start(source, tmp_path / "out")
    assert len(run.todo) == len(run.listing.shards) == 6
    document = json.loads((tmp_path / "out/run.json").read_text())
    assert document["fingerprint"] == run.fingerprint
    assert document["input"] == {"url": source, "shards": 6, "images": 6}
    assert document["versions"]["torch"]
    do_all(run)
    result = finish(run)
    assert result == json.loads((tmp_path / "out/_RESULT.json").read_text())
    assert (result["state"], result["exit_code"], result["interrupted"]) == ("done", 0, False)
    assert result["status"] == {"ok": 6, "failed": 0, "skipped": 0}
    assert result["shards"] == {"listed": 6, "done": 6, "resumed": 0}
    again = start(source, tmp_path / "out")
    assert again.todo == []
    assert earlier_result(again) == result


def test_resume_takes_what_is_missing(source: str, tmp_path: Path) -> None:
    run = start(source, tmp_path / "out")
    done = run.todo[2]
    run.ledger.commit(done.id, [{"key": "x", "status": OK}])
    stop(run, Exit.INTERRUPTED)
    again = start(source, tmp_path / "out")
    assert again.resumed == {done.id}
    assert [shard.id for shard in again.todo] == [s.id for s in run.listing.shards if s.id != done.id]
    assert not (tmp_path / "out/_RESULT.json").exists()
    assert earlier_result(again) is None


def test_other_settings_are_refused_naming_what_differs(source: str, tmp_path: Path) -> None:
    start(source, tmp_path / "out", steps=8)
    with pytest.raises(InvalidInput, match=r"belongs to another run: steps is 8 there, 4 here.*choose another OUTPUT"):
        start(source, tmp_path / "out", steps=4)
    with pytest.raises(InvalidInput, match="the model's weights are others"):
        start(source, tmp_path / "out", steps=8, weights="abc")
    made.folder(Path(source), 7)
    with pytest.raises(InvalidInput, match="INPUT holds other files than it did"):
        start(source, tmp_path / "out", steps=8)


def test_the_place_of_input_and_output_does_not_matter(source: str, tmp_path: Path) -> None:
    start(source, tmp_path / "out")
    Path(source).rename(tmp_path / "moved")
    (tmp_path / "out").rename(tmp_path / "out2")
    start(str(tmp_path / "moved"), tmp_path / "out2")


def test_a_folder_that_is_not_a_runs_is_refused(source: str, tmp_path: Path) -> None:
    (tmp_path / "photos/images").mkdir(parents=True)
    (tmp_path / "photos/images/mine.png").write_bytes(b"1")
    with pytest.raises(InvalidInput, match=r"photos holds images/mine\.png but no run\.json"):
        start(source, tmp_path / "photos")
    (tmp_path / "photos/run.json").write_text("[]")
    with pytest.raises(InvalidInput, match=r"run\.json is not a run's"):
        start(source, tmp_path / "photos")
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="OUTPUT"):
        start(source, tmp_path / "file")


@pytest.mark.parametrize(("max_failed", "code"), [("0", 3), ("1", 3), ("2", 0), ("33%", 3), ("34%", 0)])
def test_exit_code_counts_failures(source: str, tmp_path: Path, max_failed: str, code: int) -> None:
    run = start(source, tmp_path / "out", max_failed)
    do_all(run, failed=2)
    result = finish(run)
    assert result["exit_code"] == code
    assert result["status"] == {"ok": 4, "failed": 2, "skipped": 0}
    assert result["reasons"] == {"corrupt": 2}


def test_a_count_that_is_off_is_an_error(source: str, tmp_path: Path) -> None:
    run = start(source, tmp_path / "out")
    for number, shard in enumerate(run.todo):
        run.ledger.commit(shard.id, [{"key": str(number), "status": OK}] * (2 if number == 3 else 1))
    with pytest.raises(DriftRecError, match="1 keys occur twice"):
        finish(run)
    lost = start(source, tmp_path / "lost")
    for shard in lost.todo:
        lost.ledger.commit(shard.id, [])
    with pytest.raises(DriftRecError, match="0 rows for 6 listed images"):
        finish(lost)


def test_stop_says_what_happened(source: str, tmp_path: Path) -> None:
    run = start(source, tmp_path / "out")
    stop(run, Exit.INTERRUPTED)
    assert json.loads((tmp_path / "out/_RESULT.json").read_text())["interrupted"] is True
    assert stop(run, Exit.FAILED, "disk")["error"] == "disk"


@pytest.mark.parametrize(
    ("source", "output", "fine"),
    [
        ("in", "in", False),
        ("in", "in/out", False),
        ("out/images", "out", False),
        ("in", "in2", True),
        ("out/x", "out", True),
    ],
)
def test_input_and_output_must_lie_apart(tmp_path: Path, source: str, output: str, fine: bool) -> None:
    made.folder(tmp_path / source, 1)
    (tmp_path / "link").symlink_to(tmp_path / source)
    for name in (source, "link"):
        try:
            check_apart(open_input(str(tmp_path / name)), open_store(str(tmp_path / output)))
            assert fine
        except InvalidInput as error:
            assert not fine
            assert "lie in each other" in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("then", "warned"),
    [
        ({}, ""),
        ({"cpu": "Another 9000"}, "cpu was Another 9000"),
        ({"versions": {"torch": "1.0"}}, "torch was 1.0"),
        ({"cpu": None, "versions": {}}, ""),  # of an older version, which did not say
    ],
)
def test_another_machine_is_told_of_and_not_refused(
    source: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, then: dict[str, Any], warned: str
) -> None:
    run = start(source, tmp_path / "out")
    document = json.loads((tmp_path / "out/run.json").read_text())
    assert document["cpu"]
    (tmp_path / "out/run.json").write_text(json.dumps(document | then))
    caplog.clear()
    assert start(source, tmp_path / "out").fingerprint == run.fingerprint
    assert (warned in caplog.text) if warned else not caplog.text


@pytest.mark.parametrize(("size", "later_s", "told"), [(0, 0, ""), (0, 60, "warned"), (0, -60, ""), (1, 60, "refused")])
def test_a_changed_input_is_told_of(
    source: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, size: int, later_s: float, told: str
) -> None:
    """Of the same size it is another file only by its time, and a time may be only touched."""
    start(source, tmp_path / "out")
    path = sorted(Path(source).rglob("*.jpg"))[2]
    data, newest = path.read_bytes(), max(other.stat().st_mtime for other in Path(source).rglob("*.jpg"))
    path.write_bytes(data[:-3] + b"xyz" + b"x" * size)
    os.utime(path, (newest + later_s, newest + later_s))
    caplog.clear()
    if told == "refused":
        with pytest.raises(InvalidInput, match="INPUT holds other files"):
            start(source, tmp_path / "out")
    else:
        assert start(source, tmp_path / "out").listing.images == 6
        assert (f"{path.relative_to(source)} was changed" in caplog.text) == bool(told)
