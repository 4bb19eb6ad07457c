"""The train job on one worker: what it leaves, how it goes on, and what it refuses."""

import hashlib
import json
import os
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.train.torch import TorchTrainer
from safetensors.torch import load_file

from driftrec.errors import InvalidInput, TrainingDiverged
from driftrec.networks.config import NetworkConfig
from driftrec.networks.ncsnpp import NCSNpp, parameter_count
from jobs import train as command
from pipeline.cluster import connection
from pipeline.inputs.listing import list_shards
from pipeline.runs.verify import verify
from pipeline.settings import load
from pipeline.storage.local import LocalStore
from pipeline.train import job
from pipeline.train.checkpoints import Mark
from pipeline.train.feed import Feed
from pipeline.train.metrics_log import Journal
from pipeline.train.settings import TrainSettings
from pipeline.train.windows import Drawing, PatchConfig, Position
from pipeline.train.worker import Group, start_position
from tests import made

STEPS = 8
SMALL = {
    "network": {"preset": "tiny", "width": 8},
    "optimizer": {"steps": STEPS, "lr": 1e-3, "warmup": 2},
    "patches": {"size": 16, "per_image": 3},
    "batch_size": 4,
    "shuffle_buffer": 12,
    "threads": 1,
    "checkpoint_every": 3,
    "log_every": 2,
    "keep": 5,
}


def small(data: Path, output: Path, **changes: Any) -> TrainSettings:
    return TrainSettings.model_validate(SMALL | {"data": str(data), "output": str(output)} | changes)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = made.folder(tmp_path_factory.mktemp("data"), 9)
    (folder / "b/page.jpg").write_bytes(b"<!DOCTYPE html><html></html>")
    return folder


@pytest.fixture(scope="module")
def trained(ray_cluster: None, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """OUTPUT and result of an undisturbed run."""
    output = tmp_path_factory.mktemp("trained")
    return output, job.run_train(small(data, output))


def lines(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_a_model_its_metrics_and_a_result(trained: tuple[Path, dict[str, Any]]):
    output, result = trained
    assert json.loads((output / "_RESULT.json").read_text()) == result
    assert (result["state"], result["exit_code"], result["steps"]) == ("done", 0, STEPS)
    assert result["skipped"] == {"not_an_image": 1}
    assert [line["step"] for line in lines(output)] == [2, 3, 4, 6, 8]  # at log_every 2 and checkpoint_every 3
    timings = {"images_per_s", "waiting_for_data", "seconds", "time"}
    for line in lines(output):
        assert set(line) == {"step", "epoch", "loss", "gradient_norm", "lr"} | timings
        assert 0 < line["loss"] < 10
        assert 0 <= line["waiting_for_data"] <= 1
    document = json.loads((output / "run.json").read_text())
    assert document["settings"]["optimizer"]["steps"] == STEPS
    assert document["versions"]["torch"] == version("torch")
    assert len(document["identity"]["input"]) == 64


def test_a_finished_run_is_not_trained_again(trained: tuple[Path, dict[str, Any]], data: Path):
    output, result = trained
    before = (output / "metrics.jsonl").stat().st_mtime_ns
    assert job.run_train(small(data, output)) == result
    assert (output / "metrics.jsonl").stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_model_that_is_gone_is_written_anew_and_one_that_was_changed_is_told_of(
    trained: tuple[Path, dict[str, Any]], data: Path, tmp_path: Path
):
    whole, result = trained
    output = tmp_path / "out"
    shutil.copytree(whole, output)
    assert verify(str(output))["state"] == "sound"
    model = bytearray((output / "model.safetensors").read_bytes())
    model[-1] ^= 1
    (output / "model.safetensors").write_bytes(model)
    assert verify(str(output), quick=True)["state"] == "sound"
    assert verify(str(output))["first"] == {"changed": ["model.safetensors"]}
    told = job.run_train(small(data, output))
    assert (told["state"], told["exit_code"]) == ("incomplete", 3)
    (output / "model.safetensors").unlink()
    assert verify(str(output))["first"] == {"missing": ["model.safetensors"]}
    again = job.run_train(small(data, output))
    assert (again["state"], again["exit_code"], again["steps"]) == ("done", 0, STEPS)
    assert again["checkpoint"].endswith(result["checkpoint"].rpartition("/")[2])
    models = [load_file(folder / "model.safetensors") for folder in (output, whole)]  # their cards tell other seconds
    assert all(torch.equal(models[0][name], weight) for name, weight in models[1].items())
    assert verify(str(output))["state"] == "sound"


@pytest.mark.slow
def test_a_resumed_run_equals_the_unbroken_one_bit_for_bit(
    trained: tuple[Path, dict[str, Any]], data: Path, tmp_path: Path
):
    whole, _ = trained
    broken = tmp_path / "broken"
    shutil.copytree(whole, broken)  # as it was when it was killed at step 5, the checkpoint of step 6 half written
    (broken / "_RESULT.json").unlink()
    (broken / f"checkpoints/step-{STEPS:08d}.json").unlink()
    (broken / f"checkpoints/step-{STEPS:08d}.safetensors").unlink()
    os.truncate(broken / "checkpoints/step-00000006.safetensors", 1000)
    (broken / "model.safetensors").unlink()

    resumed = job.run_train(small(data, broken, log_every=2, keep=1))
    assert resumed["steps"] == STEPS
    name = f"checkpoints/step-{STEPS:08d}.safetensors"
    assert (broken / name).read_bytes() == (whole / name).read_bytes()
    models = [load_file(output / "model.safetensors") for output in (broken, whole)]  # their cards tell other seconds
    assert all(torch.equal(models[0][name], weight) for name, weight in models[1].items())
    timings = {"images_per_s", "waiting_for_data", "seconds", "time"}
    told = [{k: v for k, v in line.items() if k not in timings} for line in lines(broken)]
    expected = [{k: v for k, v in line.items() if k not in timings} for line in lines(whole)]
    assert told == expected


@pytest.mark.slow
def test_divergence_names_the_step_and_the_last_good_checkpoint(ray_cluster: None, data: Path, tmp_path: Path):
    optimizer = SMALL["optimizer"] | {"lr": 10.0, "clip": 1e30, "warmup": 0}
    with pytest.raises(TrainingDiverged) as diverged:
        job.run_train(small(data, tmp_path, optimizer=optimizer, checkpoint_every=1))
    assert 1 < diverged.value.step <= STEPS
    last = tmp_path / f"checkpoints/step-{diverged.value.step - 1:08d}.safetensors"
    assert diverged.value.checkpoint == str(last)
    result = json.loads((tmp_path / "_RESULT.json").read_text())
    assert (result["state"], result["exit_code"]) == ("failed", 1)
    assert f"at step {diverged.value.step}" in result["error"]
    assert str(last) in result["error"]


def test_other_settings_and_other_data_are_refused_naming_the_difference(
    trained: tuple[Path, dict[str, Any]], data: Path, tmp_path: Path
):
    output, result = trained
    with pytest.raises(InvalidInput, match=r"optimizer\.lr is 0\.001 there, 0\.002 here"):
        job.run_train(small(data, output, optimizer=SMALL["optimizer"] | {"lr": 2e-3}))
    with pytest.raises(InvalidInput, match="holds other files"):
        job.run_train(small(made.folder(tmp_path / "fewer", 4), output))
    moved = tmp_path / "moved"
    shutil.copytree(data, moved)
    assert job.run_train(small(moved, output, workers=2, keep=1, log_every=7)) == result


def test_a_run_of_before_a_setting_was_added_goes_on_with_its_default(
    trained: tuple[Path, dict[str, Any]], data: Path, tmp_path: Path
):
    output, result = trained
    older = tmp_path / "older"
    shutil.copytree(output, older)
    document = json.loads((older / "run.json").read_text())
    for name in ("patches.small", "optimizer.accumulate", "corrupted"):
        del document["identity"][name]
    document["fingerprint"] = hashlib.sha256(json.dumps(document["identity"], sort_keys=True).encode()).hexdigest()
    (older / "run.json").write_text(json.dumps(document))
    assert job.run_train(small(data, older)) == result
    with pytest.raises(InvalidInput, match=r"patches\.small is 'skip' there, 'reflect' here; choose another OUTPUT"):
        job.run_train(small(data, older, patches=SMALL["patches"] | {"small": "reflect"}))
    with pytest.raises(InvalidInput, match=r"optimizer\.lr is 0\.001 there, 0\.002 here"):
        job.run_train(small(data, older, optimizer=SMALL["optimizer"] | {"lr": 2e-3}))


@pytest.mark.slow
def test_a_run_can_start_from_the_state_of_another(trained: tuple[Path, dict[str, Any]], data: Path, tmp_path: Path):
    output, _ = trained
    state = output / "checkpoints/step-00000006.safetensors"
    result = job.run_train(small(data, tmp_path / "next", init_from=str(state)))
    assert result["steps"] == STEPS
    assert [line["step"] for line in lines(tmp_path / "next")] == [8]
    with pytest.raises(InvalidInput, match=r"init_from .*6.safetensors is no training state of this network"):
        job.run_train(small(data, tmp_path / "wider", init_from=str(state), network={"preset": "tiny", "width": 12}))
    with pytest.raises(InvalidInput, match=r"6.safetensors is at step 6; set optimizer.steps above it, not to 6"):
        job.run_train(small(data, tmp_path / "short", init_from=str(state), optimizer={"steps": 6}))
    with pytest.raises(InvalidInput, match=r"init_from: .*none.safetensors does not exist"):
        job.run_train(small(data, tmp_path / "none", init_from=str(tmp_path / "none.safetensors")))
    assert not (tmp_path / "wider").exists()


def test_a_feed_goes_on_from_a_position_with_the_very_next_batch(
    ray_cluster: None, data: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("pipeline.train.feed.CHAPTER", 10)  # two Ray Datasets, and a window that spans them
    drawing = Drawing(PatchConfig(size=16, per_image=3), 0, 10**6)
    shards = list_shards(str(data))

    def batches(start: Position, count: int) -> tuple[list[bytes], list[Position], int]:
        feed = Feed(shards, drawing, batch_size=4, shuffle_buffer=16, position=start)
        found, positions = [], []
        for clean, damaged in feed:
            found.append(clean.contiguous().numpy().tobytes() + damaged.contiguous().numpy().tobytes())
            positions.append(feed.position)
            if len(found) == count:
                break
        feed.close()
        return found, positions, feed.epoch

    whole, positions, epoch = batches(Position(), 12)
    assert len(set(whole)) == 12
    assert epoch > 0
    for cut in (4, 6):  # at the end of a window, and inside one
        again, _, _ = batches(positions[cut - 1], 5)
        assert again == whole[cut : cut + 5]


def test_the_command_answers_exit_2_before_anything_starts(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(connection, "connect", lambda *_: pytest.fail("Ray was started"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "some.yaml").write_text("bach_size: 3\n")
    output = str(tmp_path / "output")
    pairs = ["--corrupted", str(data), "--set", "patches.crop=resized"]
    calls = {
        "set patches.crop=native": [str(data), output, *pairs],
        "corrupted": [str(data), output, "--corrupted", str(tmp_path / "nowhere")],
        "validation": [str(data), output, "--validation", str(tmp_path / "empty")],
        "set validation": [str(data), output, "--set", f"validation_corrupted={data}"],
        "min_workers must not be above workers": [str(data), output, "--min-workers", "3"],
        "max_skipped": [str(data), output, "--set", "max_skipped=many"],
        "recommend takes steps, order, fidelity, coarse_fidelity": [str(data), output, "--set", "recommend.samples=3"],
        "'wandb' or 'mlflow'": [str(data), output, "--set", "track=[tensorbored]"],
        "DATA": [str(tmp_path / "nowhere"), output],
        "holds no image": [str(tmp_path / "empty"), output],
        "did you mean batch_size": [str(data), output, "--config", str(tmp_path / "some.yaml")],
        "no such.yaml": [str(data), output, "--config", str(tmp_path / "no such.yaml")],
        "smaller than a patch of 512x512": [str(data), output, "--set", "patches.size=512"],
        "optimizer": [str(data), output, "--steps", "0"],
    }
    for message, arguments in calls.items():
        assert command.main(arguments) == 2, message
        result = json.loads(capsys.readouterr().out)
        assert (result["state"], result["exit_code"]) == ("refused", 2)
        assert message in result["error"]
    assert not Path(output).exists()


def test_a_dry_run_tells_what_would_be_done_and_writes_nothing(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(connection, "connect", lambda *_: pytest.fail("Ray was started"))
    arguments = [str(data), str(tmp_path / "o"), "--dry-run", "--set", "network=tiny", "--steps", "30", "--limit", "5"]
    assert command.main(arguments) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["settings"]["optimizer"]["steps"] == 30
    assert (plan["state"], plan["exit_code"], plan["images"]) == ("dry run", 0, 5)
    assert plan["patches"] == 30 * 8
    assert plan["steps_done"] == 0
    assert plan["parameters"] == parameter_count(NCSNpp(NetworkConfig.tiny()))
    assert not (tmp_path / "o").exists()


def test_more_workers_than_the_machine_holds_are_refused(
    ray_cluster: None, data: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for changes in ({"workers": 2, "cpus_per_worker": 1.0}, {"gpus_per_worker": 1}):
        with pytest.raises(InvalidInput, match=r"0 GPUs and 2 CPUs are there; set workers"):
            job.scaling(small(data, Path("o"), **changes))
    two = job.scaling(small(data, Path("o"), workers=2))
    assert two.resources_per_worker == {"CPU": 0.75, "GPU": 0}
    elastic = job.scaling(small(data, Path("o"), workers=4, min_workers=1, cpus_per_worker=1.0))
    assert elastic.num_workers == (1, 4)
    with pytest.raises(InvalidInput, match="2 workers want 0 GPUs and 1 CPUs each"):
        job.scaling(small(data, Path("o"), workers=4, min_workers=2, cpus_per_worker=1.0))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_goes_on_with_the_workers_that_there_is_room_for(ray_cluster: None, data: Path, tmp_path: Path):
    result = job.run_train(small(data, tmp_path, workers=3, min_workers=1, cpus_per_worker=1.0))
    assert (result["state"], result["steps"]) == ("done", STEPS)
    assert result["workers"] == 2  # on two CPUs: drawing needs none of its own


def test_rays_placement_group_cleaner_which_may_ask_the_wrong_cluster_is_left_out(ray_cluster: None):
    ours, rays = (
        {type(c).__name__ for c in t(print)._create_default_callbacks()} for t in (job.Trainer, TorchTrainer)
    )
    assert rays - ours == {job.CLEANER}


def test_other_workers_go_on_near_where_the_foremost_was():
    mark = Mark(9, 1, "", (Position(6, 3), Position(7, 1)))
    assert [start_position(mark, rank, 2) for rank in (0, 1)] == [Position(6, 3), Position(7, 1)]
    assert start_position(mark, 0, 1) == Position(14)
    assert [start_position(mark, rank, 4) for rank in range(4)] == [Position(4)] * 4
    assert start_position(None, 3, 4) == start_position(Mark(9, 1, "", ()), 3, 4) == Position()


def test_a_journal_keeps_no_line_of_a_step_that_is_done_again(tmp_path: Path):
    store = LocalStore(str(tmp_path))
    store.put("metrics.jsonl", b'{"step": 2}\n{"step": 4}\n{"step": 6}\n')
    assert Journal(store, 5).lines == [{"step": 2}, {"step": 4}]
    assert Journal(store, 0).lines == []


def test_one_worker_is_a_group_too():
    assert Group().gather(1.0, 2.0) == [[1.0, 2.0]]


def test_a_config_file_is_enough(data: Path, tmp_path: Path):
    config = tmp_path / "c.yaml"
    config.write_text(json.dumps(SMALL))
    settings = load(TrainSettings, str(config), [], {"data": str(data), "output": "o"})
    assert settings == small(data, Path("o"))
