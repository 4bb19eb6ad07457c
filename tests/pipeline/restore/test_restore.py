"""The restore job through Ray: exact ledgers, equal bytes, resume, and ends that say what happened."""

import json
import os
import tarfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from driftrec.errors import DriftRecError, InvalidInput
from pipeline.cluster.graph import work_through
from pipeline.restore.job import run_restore
from pipeline.restore.settings import RestoreSettings
from tests import made

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(300)]


def restore(source: Path, output: Path, **changes: Any) -> dict[str, Any]:
    values = {"model": "identity", "actors": 1, "report": False, "progress_s": 3600} | changes
    return run_restore(RestoreSettings(input=str(source), output=str(output), **values))


def ledger(output: Path) -> list[dict[str, Any]]:
    return [row for part in sorted(output.glob("ledger/*.parquet")) for row in pq.read_table(part).to_pylist()]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_is_restored_once_and_for_all(tmp_path: Path) -> None:
    source, output = made.folder(tmp_path / "in", 30), tmp_path / "out"
    (source / "a/broken.jpg").write_bytes(b"<html>")
    (source / "notes.txt").write_text("not an image")
    result = restore(source, output, max_failed="5%")
    assert result["exit_code"] == 0
    assert result["status"] == {"ok": 30, "failed": 1, "skipped": 0}
    assert result["reasons"] == {"not_an_image": 1}
    assert result["ignored_files"] == {".txt": 1}
    rows = ledger(output)
    keys = [str(path.relative_to(source)) for path in source.rglob("*.jpg")]
    assert Counter(row["key"] for row in rows) == Counter(keys)
    assert set(files(output / "images")) == {row["output"][7:] for row in rows if row["output"]}
    assert {path.name for path in output.iterdir()} == {"run.json", "images", "ledger", "status.json", "_RESULT.json"}
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}
    assert restore(source, output, max_failed="5%") == result
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()} == before


def test_more_failures_than_allowed(tmp_path: Path) -> None:
    source = made.folder(tmp_path / "in", 3)
    (source / "x.jpg").write_bytes(b"")
    assert restore(source, tmp_path / "out")["exit_code"] == 3


@pytest.mark.slow
def test_bytes_do_not_depend_on_batches_actors_or_order(tmp_path: Path, small_model: Path) -> None:
    images = files(made.folder(tmp_path / "in/t", 8))
    (tmp_path / "tars").mkdir()
    names = sorted(images)
    shuffled = [*names[5:], *names[:5]][::-1]
    (tmp_path / "tars/t.tar").write_bytes(made.tar({name: images[name] for name in shuffled}))  # keys are the same
    outputs, rows = {}, {}
    for name, source, settings in [
        ("one", "in", {"actors": 1, "batch_size": 1}),
        ("three", "in", {"actors": 3, "batch_size": 8}),  # more than there are CPUs
        ("tar", "tars", {"actors": 1, "batch_size": 3}),
    ]:
        restore(tmp_path / source, tmp_path / name, model=str(small_model), **settings)
        outputs[name] = files(tmp_path / name / "images")
        there = sorted(ledger(tmp_path / name), key=lambda row: row["key"])
        rows[name] = [{**row, "seconds": 0, "done": None} for row in there]
    assert len(outputs["one"]) == 8
    assert outputs["one"] == outputs["three"] == outputs["tar"]
    assert rows["one"] == rows["three"] == rows["tar"]


def test_only_what_is_missing_is_computed(tmp_path: Path) -> None:
    source, output = made.folder(tmp_path / "in", 32), tmp_path / "out"
    restore(source, output)
    whole = files(output / "images")
    (output / "_RESULT.json").unlink()
    parts = sorted(output.glob("ledger/*.parquet"))
    for part in parts[::2]:
        for row in pq.read_table(part).to_pylist()[:1]:
            (output / row["output"]).unlink()
        part.unlink()
    (output / "images/a/orphan.png").write_bytes(b"of an attempt that was killed")
    kept = {part: part.stat().st_mtime_ns for part in parts[1::2]}
    kept |= {
        output / row["output"]: (output / row["output"]).stat().st_mtime_ns
        for part in parts[1::2]
        for row in pq.read_table(part).to_pylist()
    }
    result = restore(source, output)
    assert result["shards"] == {"listed": 16, "done": 16, "resumed": 8}
    assert (result["images"], result["images_this_attempt"]) == (32, 16)
    assert files(output / "images") == whole
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_tars_and_parquet(tmp_path: Path) -> None:
    import pyarrow as pa

    source = tmp_path / "in"
    source.mkdir()
    images = {f"{number}.jpg": made.jpeg(number) for number in range(6)}
    (source / "one.tar").write_bytes(made.tar(images))
    (source / "two.tar").write_bytes(made.tar(images)[:4000])  # cut within a member
    (source / "none.tar").write_bytes(made.tar({"readme.txt": b"-"}))
    columns = {"jpg": list(images.values()), "key": [f"p/{key}" for key in images]}
    pq.write_table(pa.table(columns), source / "p.parquet")
    result = restore(source, tmp_path / "out")
    assert result["exit_code"] == 3
    assert result["reasons"]["shard_incomplete"] == 1
    outputs = set(files(tmp_path / "out/images"))
    assert {f"one/{number}.png" for number in range(6)} | {f"p/{number}.png" for number in range(6)} <= outputs
    assert any(name.startswith("two/") for name in outputs)
    assert result["shards"]["done"] == 4


@pytest.mark.slow
def test_storage_that_fails_in_a_worker_ends_the_run_and_it_goes_on_later(tmp_path: Path) -> None:
    source, output = made.folder(tmp_path / "in", 8), tmp_path / "out"
    output.mkdir()
    (output / "images").write_text("a file where a folder is wanted")
    with pytest.raises(DriftRecError, match=r"out/images/.*/0.*png") as caught:
        restore(source, output)
    result = json.loads((output / "_RESULT.json").read_text())
    assert (result["state"], result["exit_code"], result["error"]) == ("failed", 1, str(caught.value))
    (output / "images").unlink()
    assert restore(source, output)["status"]["ok"] == 8


@pytest.mark.chaos
def test_images_that_end_or_stop_their_actor_are_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of Ray really aborts, and another hangs: the run goes on, and the rest of their shard is done."""
    from pipeline.restore import job as job

    class Deadly(job.RestoreShard):
        def _load(self, table: Any, row: int) -> Any:
            key = table["key"][row].as_py() if not table["reason"][row].as_py() else ""
            with self.watchdog.watch():
                if key == "t/3.jpg":
                    os.abort()
                if key == "t/5.jpg":
                    time.sleep(600)
            return super()._load(table, row)

    monkeypatch.setattr(job, "RestoreShard", Deadly)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/t.tar").write_bytes(made.tar({f"{number}.jpg": made.jpeg(number) for number in range(8)}))
    made.folder(tmp_path / "in", 3)
    result = restore(tmp_path / "in", tmp_path / "out", image_timeout_s=5, max_failed=2)
    assert (result["exit_code"], result["reasons"]) == (0, {"crashed": 1, "timeout": 1})
    assert result["status"] == {"ok": 9, "failed": 2, "skipped": 0}
    assert {row["key"]: row["reason"] for row in ledger(tmp_path / "out") if row["reason"]} == {
        "t/3.jpg": "crashed",
        "t/5.jpg": "timeout",
    }
    assert result["workers"] > 1
    assert 0 <= result["idle_share"] < 1


def test_a_tar_is_spread_over_actors_and_written_as_tars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.inputs.listing.MIN_PIECE", 1)
    (tmp_path / "in").mkdir()
    images = {f"{number:03}.jpg": made.jpeg(number, quality=95) for number in range(48)}
    (tmp_path / "in/t.tar").write_bytes(made.tar(images))
    result = restore(tmp_path / "in", tmp_path / "out", layout="tar", actors=2)
    assert result["shards"]["listed"] > 2
    assert result["status"]["ok"] == 48
    assert result["megapixels_this_attempt"] == pytest.approx(48 * 48 * 64 / 1e6, abs=1e-3)
    written = list((tmp_path / "out/shards").glob("*.tar"))
    assert result["shards"]["listed"] - 1 <= len(written) <= result["shards"]["listed"]  # the last may hold no image
    names: list[str] = []
    for path in written:
        with tarfile.open(path) as tar:
            names += tar.getnames()
    assert sorted(names) == [f"t/{Path(name).stem}.png" for name in images]


def test_a_model_that_changes_under_the_run_ends_it(tmp_path: Path, small_model: Path) -> None:
    from pipeline.restore import job as job

    source = made.folder(tmp_path / "in", 4)
    model = tmp_path / "m.safetensors"
    model.write_bytes(small_model.read_bytes())
    settings = RestoreSettings(input=str(source), output=str(tmp_path / "out"), model=str(model), report=False)
    run, weights, settings = job.open_restore(settings)
    model.write_bytes(small_model.read_bytes()[:-1])
    with pytest.raises(DriftRecError, match=r"m\.safetensors"):
        work_through(run, job._graph(4, settings, weights, run.store), 1.0)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"input": "{tmp}/none"}, r"/none does not exist"),
        ({"input": "{tmp}/empty"}, r"/empty holds no image"),
        ({"model": "{tmp}/pickle.safetensors"}, r"pickle\.safetensors: this is a pickle"),
        ({"model": "nothing"}, "model 'nothing'"),
        ({"output": "{tmp}/in/out"}, "lie in each other"),
        ({"output": "{tmp}/done", "seed": 5}, "seed is 0 there, 5 here"),
        ({"output": "{tmp}/other"}, r"other holds images/x\.png but no run\.json"),
    ],
)
def test_bad_input_is_refused_before_anything_starts(
    tmp_path: Path, changes: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.folder(tmp_path / "in", 2)
    (tmp_path / "empty").mkdir()
    (tmp_path / "pickle.safetensors").write_bytes(b"\x80\x02}q\x00.")
    (tmp_path / "other/images").mkdir(parents=True)
    (tmp_path / "other/images/x.png").write_bytes(b"")
    places = {"input": f"{tmp_path}/in", "output": f"{tmp_path}/done", "model": "identity", "report": False}
    if changes.get("seed"):
        run_restore(RestoreSettings(**places))
    monkeypatch.setattr("pipeline.restore.job.work_through", lambda *_: pytest.fail("something was started"))
    given = {name: value.format(tmp=tmp_path) if isinstance(value, str) else value for name, value in changes.items()}
    with pytest.raises(InvalidInput, match=told):
        run_restore(RestoreSettings(**{**places, **given}))
