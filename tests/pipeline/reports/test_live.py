"""The page of a run that is at work: it says what status.json says, gives way to the report, and is no stranger."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from driftrec.errors import DriftRecError, StorageFull
from pipeline.inputs import listing
from pipeline.reports.live import live_page
from pipeline.restore.job import run_restore
from pipeline.restore.settings import RestoreSettings
from pipeline.runs.ledger import Ledger
from pipeline.runs.reporter import Status
from pipeline.runs.verify import verify
from pipeline.settings import load
from tests.pipeline.evaluate.test_evaluate_report import HOSTILE, Page
from tests.pipeline.evaluations import clean
from tests.pipeline.offline import no_ray


@pytest.fixture(autouse=True)
def few_shards(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(listing, "MIN_SHARDS", 1)
    with no_ray():
        yield


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Eight images, two a shard; one of them is broken."""
    folder = clean(tmp_path / "in", 7)
    (folder / "a/0000b.png").write_bytes(b"<html>404</html>")
    return folder


def run(source: Path, output: Path, **changes: Any) -> dict[str, Any]:
    places = {"input": str(source), "output": str(output), "model": "identity"}
    given = {"shard_images": 2, "max_failed": "1", "status_s": 0.02, "progress_s": 3600.0}
    return run_restore(load(RestoreSettings, flags=places | given | changes))


def page(output: Path) -> Page:
    return Page((output / "report.html").read_text())


def refreshes(found: Page) -> bool:
    return any(meta.get("http-equiv") == "refresh" for meta in found.all("meta"))


def fail_at(patch: pytest.MonkeyPatch, moment: int) -> None:
    """The part of this number cannot be written any more."""
    commits, commit = iter(range(1, 100)), Ledger.commit

    def failing(self: Ledger, *given: Any) -> bool:
        if next(commits) == moment:
            time.sleep(0.1)
            raise StorageFull("no room left")
        return commit(self, *given)

    patch.setattr(Ledger, "commit", failing)


@pytest.mark.parametrize("report", [True, False])
def test_a_run_that_failed_says_so_until_the_report_comes(source: Path, tmp_path: Path, report: bool) -> None:
    output = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        fail_at(patch, 3)
        with pytest.raises(DriftRecError, match="no room left"):
            run(source, output)
    found = page(output)
    assert found.text("h1") == ["restore: failed, 2 of 4 shards"]
    assert "no room left" in " ".join(found.text("p"))
    assert not refreshes(found)
    result = run(source, output, report=report)
    assert result["state"] == "done"
    assert (output / "report.html").exists() == report
    if report:
        assert page(output).text("h1") == ["7 of 8 images restored"]
    assert (verify(str(output))["state"], verify(str(output))["found"]["extra"]) == ("sound", 0)


def test_while_it_works_it_loads_itself_anew(source: Path, tmp_path: Path) -> None:
    output, seen = tmp_path / "out", []
    commits, commit = iter(range(1, 100)), Ledger.commit

    def looking(self: Ledger, *given: Any) -> bool:
        if next(commits) == 3:
            ends = time.monotonic() + 30
            while not seen and time.monotonic() < ends:
                status = json.loads((output / "status.json").read_text())
                if status["shards"]["done"] == 2 and (output / "report.html").exists():
                    seen.append(page(output))
                time.sleep(0.05)
        return commit(self, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ledger, "commit", looking)
        run(source, output)
    assert seen[0].text("h1")[0].startswith("restore: running, ")
    assert refreshes(seen[0])
    assert not any("http" in value for _, given in seen[0].elements for value in given.values() if value)
    assert page(output).text("h1") == ["7 of 8 images restored"]


def test_without_a_report_there_is_no_page(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "out", report=False)
    assert not (tmp_path / "out/report.html").exists()


@pytest.mark.parametrize("state", ["running", "failed", "interrupted"])
@pytest.mark.parametrize("known", [True, False])
def test_any_status_makes_a_page(source: Path, tmp_path: Path, state: str, known: bool) -> None:
    """What is not known is left out; what is hostile is escaped."""
    run(source, tmp_path / "out")
    status: Status = json.loads((tmp_path / "out/status.json").read_text())
    status["state"], status["error"] = state, HOSTILE
    status["reasons"] = {HOSTILE: 1} if known else {}
    number = 3.25 if known else None
    status["images_listed"] = 8 if known else None
    status["seconds_left"] = status["cost"] = status["max_cost"] = status["idle_share"] = number
    status["last_interval"] = {"seconds": 0.0, "images_per_second": number, "megapixels_per_second": number}
    text = live_page(status)
    assert HOSTILE not in text
    assert refreshes(Page(text)) == (state == "running")
    assert ("Cost so far" in text) == known
