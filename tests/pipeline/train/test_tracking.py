"""Weights & Biases and MLflow: they are told the metrics, a resume goes on in the same run, and they stop nothing."""

import importlib.util
from pathlib import Path

import pytest

from driftrec.errors import InvalidInput
from pipeline.storage.local import LocalStore
from pipeline.train import trackers
from pipeline.train.metrics_log import Journal, scalars
from pipeline.train.trackers import Cautious, check_trackers

LINES = [
    {"step": 2, "time": 100.0, "loss": 0.5},
    {"step": 4, "time": 110.0, "loss": 0.25, "validation": {"mean": {"psnr": 27.5}}},
]
SETTINGS = {"optimizer.lr": 1e-3, "data": "d"}
needs = {
    name: pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is an extra")
    for name in trackers.TRACKERS
}


def test_a_line_is_its_numbers():
    assert dict(scalars(LINES[1])) == {"loss": 0.25, "validation/mean/psnr": 27.5}


def test_what_is_missing_is_named_before_anything_starts(monkeypatch: pytest.MonkeyPatch):
    check_trackers([])
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InvalidInput, match=r"track: wandb is not installed; pip install wandb"):
        check_trackers(["wandb"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(InvalidInput, match="mlflow needs its server's address; set MLFLOW_TRACKING_URI"):
        check_trackers(["mlflow"])
    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.raises(InvalidInput, match="set WANDB_DIR"):
        check_trackers(["wandb"])


def test_only_their_own_variables_travel(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_API_KEY", "k")
    monkeypatch.setenv("OTHER_API_KEY", "o")
    travelling = trackers.environment()
    assert travelling["WANDB_API_KEY"] == "k"
    assert "OTHER_API_KEY" not in travelling


class Broken:
    def __init__(self, *arguments: object) -> None:
        self.told = 0

    def tell(self, line: object) -> None:
        self.told += 1
        raise ConnectionError("no network\nat all")

    def close(self) -> None:
        raise AssertionError("it was given up")


def test_a_tracker_that_fails_is_given_up_and_the_journal_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(trackers.TRACKERS, "wandb", Broken)
    tracker = Cautious("wandb", "name", "id", SETTINGS)
    for line in LINES:
        tracker.tell(line)
    assert tracker.failure == "wandb: no network at all"
    journal = Journal(LocalStore(str(tmp_path)), 0)
    journal.listeners = [tracker]
    journal.close()
    monkeypatch.setitem(trackers.TRACKERS, "wandb", lambda *_: 1 / 0)
    assert "division" in Cautious("wandb", "name", "id", SETTINGS).failure


@needs["mlflow"]
def test_mlflow_has_the_metrics_and_goes_on_in_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/mlruns")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    for line in LINES:  # each by an attempt of its own
        tracker = Cautious("mlflow", "runs/x", "abc", SETTINGS)
        tracker.tell(line)
        tracker.close()
        assert tracker.failure == ""
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("driftrec")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params == {"optimizer.lr": "0.001", "data": "d"}
    assert run.data.metrics == {"loss": 0.25, "validation/mean/psnr": 27.5}
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "loss")] == [(2, 0.5), (4, 0.25)]


@needs["wandb"]
@pytest.mark.timeout(300)
def test_wandb_is_told_the_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Offline it writes what it would send into files of its own."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    tracker = Cautious("wandb", "runs/x", "abc", SETTINGS)
    for line in LINES:
        tracker.tell(line)
    tracker.close()
    assert tracker.failure == ""
    (record,) = tmp_path.rglob("run-abc.wandb")
    content = record.read_bytes()
    for told in (b"validation/mean/psnr", b"27.5", b"optimizer.lr"):
        assert told in content
