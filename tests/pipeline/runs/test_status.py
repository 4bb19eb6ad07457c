"""status.json: whatever the job, the end and the store, it says how the run ended and counts what the ledger counts."""

import io
import json
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from driftrec.errors import DriftRecError, InvalidInput, StorageFull
from pipeline.degrade import run_degrade
from pipeline.evaluate.job import run_evaluate
from pipeline.evaluate.settings import DegradeSettings, EvaluateSettings
from pipeline.inputs import listing
from pipeline.restore.job import run_restore
from pipeline.restore.settings import RestoreSettings
from pipeline.runs.ledger import Ledger
from pipeline.runs.run import Run
from pipeline.runs.verify import verify
from pipeline.settings import load
from pipeline.storage import open_store
from pipeline.storage.base import StorageError
from pipeline.storage.local import LocalStore
from pipeline.storage.remote import RemoteStore
from pipeline.survey.job import run_survey
from pipeline.survey.settings import SurveySettings
from tests import made
from tests.pipeline.evaluations import clean
from tests.pipeline.offline import no_ray

JOBS: dict[str, tuple[Callable[..., dict[str, Any]], type, dict[str, Any]]] = {
    "restore": (run_restore, RestoreSettings, {"model": "identity", "report": False}),
    "evaluate": (run_evaluate, EvaluateSettings, {"metrics": "psnr,bef", "quality": "10,20", "report": False}),
    "degrade": (run_degrade, DegradeSettings, {"quality": "10,20"}),
    "survey": (run_survey, SurveySettings, {"calibration_s": 0.0, "report": False}),
}
SHARDS, AT = 4, 3  # of the input; and that in which the run ends


@pytest.fixture(autouse=True)
def few_shards(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(listing, "MIN_SHARDS", 1)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # workers of pytest-xdist ignore it
    with no_ray():
        yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Eight images, two a shard; one of them is broken, and in the first shard."""
    folder = clean(tmp_path / "in", 7)
    (folder / "a/0000b.png").write_bytes(b"<html>404</html>")
    return folder


@pytest.fixture(params=["local", "memory"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "out") if request.param == "local" else f"memory://{tmp_path.name}/out"


def run(job: str, source: Path, output: str, **changes: Any) -> dict[str, Any]:
    work, model, usual = JOBS[job]
    places = {"reference" if job == "evaluate" else "input": str(source), "output": output}
    given = {"shard_images": 2, "max_failed": "1", "status_s": 0.02, "progress_s": 3600.0}
    return work(load(model, flags=places | usual | given | changes))


def told(output: str) -> dict[str, Any]:
    return json.loads(open_store(output).read("status.json"))


def counted(output: str) -> dict[str, Any]:
    """What the ledger says of images, by their keys."""
    store = open_store(output)
    parts = [store.read(name) for name, _ in store.list("ledger") if name.endswith(".parquet")]
    rows = [row for part in parts for row in pq.read_table(io.BytesIO(part)).to_pylist()]
    failed = {row["key"] for row in rows if row["status"] == "failed"}
    ok = {row["key"] for row in rows if row["status"] == "ok"} - failed
    reason_of = {row["key"]: row["reason"] for row in sorted(rows, key=lambda row: row["status"] == "failed")}
    reasons = Counter(reason for reason in reason_of.values() if reason)
    assert reasons.total() == len(reason_of) - len(ok)
    return {"shards": len(parts), "ok": len(ok), "failed": len(failed), "reasons": dict(reasons)}


def agrees(output: str) -> bool:
    """Whether status.json counts what the ledger does."""
    status, ledger = told(output), counted(output)
    ours = {"shards": status["shards"]["done"], "reasons": status["reasons"]}
    return ours | {name: status["status"][name] for name in ("ok", "failed")} == ledger


def end_at(patch: pytest.MonkeyPatch, moment: int, end: Callable[[], None]) -> None:
    """From now on `end` comes before the part of this number is written."""
    commits, commit = iter(range(1, 100)), Ledger.commit

    def ending(self: Ledger, *given: Any) -> bool:
        if next(commits) == moment:
            end()
        return commit(self, *given)

    patch.setattr(Ledger, "commit", ending)


def fail() -> None:
    raise StorageFull("no room left")


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)
    time.sleep(60)


def spend(patch: pytest.MonkeyPatch) -> None:
    """The money is gone, and the shard takes long."""
    patch.setattr(Run, "cost", property(lambda self: 7.0))
    time.sleep(60)


def attempt(job: str, end: str, source: Path, output: str) -> dict[str, Any]:
    """A first attempt that ends so; what is said of it."""
    with pytest.MonkeyPatch.context() as patch:
        if end == "failed":
            end_at(patch, AT, fail)
            with pytest.raises(DriftRecError, match="no room left") as caught:
                run(job, source, output)
            return dict(caught.value.result)
        if end == "interrupted":
            end_at(patch, AT, interrupt)
        if end == "cost":
            end_at(patch, AT, lambda: spend(patch))
        return run(job, source, output, price_per_hour=1.0, max_cost=5.0)


@pytest.mark.parametrize("end", ["done", "failed", "interrupted", "cost"])
@pytest.mark.parametrize("job", JOBS)
def test_it_tells_the_truth(job: str, end: str, source: Path, output: str) -> None:
    result = attempt(job, end, source, output)
    status = told(output)
    state = "interrupted" if end == "cost" else end
    assert (status["job"], status["state"], result["state"]) == (job, state, state)
    assert status["fingerprint"] == result["fingerprint"]
    assert status["error"] == result.get("error")
    assert agrees(output)
    done = SHARDS if end == "done" else AT - 1
    assert status["shards"] == {"listed": SHARDS, "done": done, "resumed": 0, "left": SHARDS - done}
    assert status["seconds_left"] == (0 if end == "done" else None)
    assert status["workers"] == result["workers"] == 1
    assert status["images_listed"] == 8
    if end == "cost":
        assert (result["exit_code"], result["cost"], status["cost"]) == (130, 7.0, 7.0)
        assert "max_cost 5 is reached" in result["error"]
    elif end == "interrupted":
        assert (result["exit_code"], result.get("error")) == (130, None)
    again = run(job, source, output, price_per_hour=1.0, max_cost=50.0)
    assert again["state"] == told(output)["state"] == "done"
    assert agrees(output)
    assert told(output)["images"] == again["images"] == 8
    assert told(output)["reasons"] == again["reasons"]
    assert told(output)["images_this_attempt"] == (8 if end == "done" else 4)
    assert (verify(output)["state"], verify(output)["found"]["extra"]) == ("sound", 0)


def test_while_it_runs_it_says_so(source: Path, tmp_path: Path) -> None:
    output, seen = str(tmp_path / "out"), []

    def look() -> None:
        ends = time.monotonic() + 30
        while not seen and time.monotonic() < ends:
            status = told(output)
            if status["shards"]["done"] == AT - 1:
                seen.append((status, agrees(output)))
            time.sleep(0.01)

    with pytest.MonkeyPatch.context() as patch:
        end_at(patch, AT, look)
        run("restore", source, output)
    status, agreed = seen[0]
    assert (status["state"], agreed) == ("running", True)
    assert status["seconds_left"] is not None
    assert status["images_per_second"] > 0
    assert status["cost"] is None


def test_the_limit_holds_for_all_attempts_together(source: Path, tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    attempt("restore", "cost", source, output)
    before = counted(output)
    again = run("restore", source, output, price_per_hour=1.0, max_cost=6.0)  # 7 are spent
    assert (again["state"], again["exit_code"]) == ("interrupted", 130)
    assert "those before 7.00" in again["error"]
    assert counted(output) == before
    assert told(output)["cost_before"] == pytest.approx(7, abs=1e-3)
    finished = run("restore", source, output, price_per_hour=1.0, max_cost=7.5)
    assert finished["state"] == "done"
    assert finished["cost_before"] == pytest.approx(7, abs=1e-2)


def test_a_limit_needs_a_price(source: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="max_cost needs price_per_hour"):
        run("restore", source, str(tmp_path / "out"), max_cost=1.0)


def test_what_is_done_again_is_counted_once(source: Path, tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    run("restore", source, output)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ledger, "replace", lambda *_: fail())
        with pytest.raises(DriftRecError):
            run("restore", source, output, retry_failed="all")
    status = told(output)
    assert status["status"] == {"ok": 7, "failed": 0, "skipped": 0}  # the one that failed is to be done again
    assert (status["shards"]["left"], status["reasons"]) == (1, {})
    (source / "a/0000b.png").write_bytes((source / "a/0002.png").read_bytes()[:16])
    run("restore", source, output, retry_failed="all")
    assert agrees(output)


@pytest.mark.parametrize("store", [LocalStore, RemoteStore])
def test_where_it_cannot_be_written_the_run_goes_on(
    store: type, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put = store.put

    def refusing(self: Any, name: str, data: bytes) -> None:
        if name == "status.json":
            raise StorageError("refused")
        put(self, name, data)

    monkeypatch.setattr(store, "put", refusing)
    output = str(tmp_path / "out") if store is LocalStore else f"memory://{tmp_path.name}/out"
    assert run("restore", source, output)["state"] == "done"
    assert not open_store(output).exists("status.json")
    assert [record.message for record in caplog.records if "refused" in record.message] == [
        f"{open_store(output).where('status.json')} could not be written: refused"
    ]
    assert run("restore", source, output)["state"] == "done"  # of older runs there is none either


@pytest.mark.parametrize("text", [b"", b"[]", b'{"cost": "much"}', b"\xff", b'{"fingerprint": 1, "cost": NaN}'])
def test_what_stands_there_before_does_no_harm(text: bytes, source: Path, tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    attempt("restore", "failed", source, output)
    open_store(output).put("status.json", text)
    assert run("restore", source, output, price_per_hour=1.0)["cost_before"] == 0
    assert agrees(output)


@pytest.mark.s3
@pytest.mark.timeout(300)
@pytest.mark.parametrize("end", ["done", "failed", "cost"])
def test_on_s3(end: str, source: Path, bucket: str) -> None:
    attempt("restore", end, source, f"{bucket}/out")
    assert told(f"{bucket}/out")["state"] == ("interrupted" if end == "cost" else end)
    assert agrees(f"{bucket}/out")


def test_images_of_a_tar_count_once_where_two_have_one_output_name(tmp_path: Path) -> None:
    (folder := tmp_path / "tars").mkdir()
    members = {f"{name}.jpg": made.jpeg(seed) for seed, name in enumerate("abcd")} | {"a.png": made.jpeg(7)}
    (folder / "x.tar").write_bytes(made.tar(members))  # the last shows to be none too early when all is done
    output = str(tmp_path / "out")
    run("restore", folder, output, max_failed="100%", shard_bytes=2000)
    assert agrees(output)
    assert told(output)["images"] == 5
    assert told(output)["reasons"] == {"duplicate_name": 1}
