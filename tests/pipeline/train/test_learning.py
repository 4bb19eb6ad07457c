"""The loop of one worker, without Ray: what a run leaves, what ends it, and that looking on changes nothing."""

import errno
import json
import math
import os
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tensorboardX.proto.event_pb2 import Event

from driftrec import Restorer
from driftrec.errors import DriftRecError, StorageFull, TrainingDiverged
from driftrec.jpeg.codec import degrade
from driftrec.metrics import PAIR_METRICS
from driftrec.models.checkpoint import load as load_model
from driftrec.training.learner import Learner, StepResult
from pipeline.storage.local import LocalStore
from pipeline.train import feed, metrics_log
from pipeline.train.feed import looked_at, merged, too_many_skipped
from pipeline.train.job import check
from pipeline.train.trackers import TENSORBOARD
from tests import made
from tests.pipeline.trainings import SMALL, STEPS, draw_here, small, work


@pytest.fixture(autouse=True, scope="module")
def without_ray() -> Iterator[None]:
    """Patches are drawn in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feed, "read_items", draw_here)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.folder(tmp_path_factory.mktemp("data"), 9)


def lines(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / metrics_log.METRICS).read_text().splitlines()]


def last_state(output: Path) -> dict[str, torch.Tensor]:
    return load_file(max((output / "checkpoints").glob("*.safetensors")))


@pytest.fixture(scope="module")
def validated(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OUTPUT of a run with a validation set."""
    output = tmp_path_factory.mktemp("validated")
    validation = {"validation": str(data), "validation_images": 5, "validate_every": 4}
    settings = small(data, output, **validation, data_licence="CC0; see photos.json")
    assert work(settings)["state"] == "done"
    return output


def test_validation_scores_stand_in_the_metrics_and_are_those_of_the_pictures(validated: Path, data: Path):
    scored = {line["step"]: line["validation"] for line in lines(validated) if "validation" in line}
    assert list(scored) == [4, 6]  # every fourth step, and the last
    grid = np.asarray(Image.open(validated / "validation/step-00000006.png"))
    first = np.asarray(Image.open(data / "a/0000.jpg"))
    height, width = first.shape[:2]
    assert np.array_equal(grid[:height, :width], first)
    columns = grid.shape[1] // 4
    assert columns == 64 + 4

    restorer = Restorer.from_pretrained(str(validated / "model.safetensors"), device="cpu")
    files = [data / f"{'abc'[i % 3]}/{i:04}.jpg" for i in (0, 3, 6, 1, 4)]  # in the order of their names
    cleans = [Image.open(file) for file in files]
    damaged = [degrade(clean, 10) for clean in cleans]
    keys = [str(file.relative_to(data)) for file in files]
    results = {
        "damaged": damaged,
        "mean": restorer(damaged, keys, fidelity=1.0),
        "sample": restorer(damaged, keys, fidelity=0.0),
    }
    for name, restored in results.items():
        for metric in ("psnr", "ssim", "bef"):
            values = [PAIR_METRICS[metric](batch(a), batch(b)).item() for a, b in zip(cleans, restored, strict=True)]
            assert scored[6][name][metric] == pytest.approx(np.mean(values), abs=1e-6), (name, metric)
    shown = grid[:height, 2 * columns : 2 * columns + width]
    assert np.array_equal(shown, np.asarray(results["mean"][0]))


def batch(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255


def test_a_regression_is_scored_by_its_mean_alone(data: Path, tmp_path: Path):
    process = {"process": {"name": "regression"}, "form": "residual"}
    work(small(data, tmp_path, **process, validation=str(data), validation_images=2))
    scores = lines(tmp_path)[-1]["validation"]
    assert set(scores) == {"damaged", "mean"}
    assert all(math.isfinite(value) for value in scores["mean"].values())


def test_looking_on_changes_no_bit(validated: Path, data: Path, tmp_path: Path):
    assert work(small(data, tmp_path, log_every=5))["state"] == "done"
    plain, watched = last_state(tmp_path), last_state(validated)
    assert plain.keys() == watched.keys()
    assert all(torch.equal(plain[name], watched[name]) for name in plain)


def scalars_of(output: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) by name, from the event file: records of length, its checksum, data, its checksum."""
    data, found = (output / TENSORBOARD).read_bytes(), {}
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        event, data = Event.FromString(data[12 : 12 + length]), data[16 + length :]
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def test_tensorboard_shows_what_the_metrics_say(validated: Path):
    seen, told = scalars_of(validated), lines(validated)
    for name in ("loss", "gradient_norm", "lr", "images_per_s", "waiting_for_data"):
        assert seen[name] == [(line["step"], pytest.approx(line[name], rel=1e-6)) for line in told]
    scores = [(line["step"], line["validation"]["mean"]["psnr"]) for line in told if "validation" in line]
    assert seen["validation/mean/psnr"] == [(step, pytest.approx(score, rel=1e-6)) for step, score in scores]


def test_tensorboard_holds_each_step_once_after_a_resume(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    step = Learner.step

    def killed(learner: Learner, *images: torch.Tensor) -> StepResult:
        if learner.step_count == 5:
            raise KeyboardInterrupt
        return step(learner, *images)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", killed)
        with pytest.raises(KeyboardInterrupt):
            work(small(data, tmp_path))
    assert [line["step"] for line in lines(tmp_path)] == [2, 3, 4]  # the checkpoint is of step 3
    assert work(small(data, tmp_path))["state"] == "done"
    steps = [step for step, _ in scalars_of(tmp_path)["loss"]]
    assert steps == [2, 3, 4, 6] == [line["step"] for line in lines(tmp_path)]


def test_the_card_says_what_the_model_is(validated: Path, data: Path):
    model = load_model(validated / "model.safetensors")
    assert model.sampling == {"steps": 2, "fidelity": 0.5}
    card = model.card
    document = json.loads((validated / "run.json").read_text())
    assert card["data"] == {
        "url": str(data),
        "shards": 9,
        "images": 9,
        "sha256_of_listing": document["identity"]["input"],
        "licence": "CC0; see photos.json",
        "skipped": {},
    }
    assert (card["steps"], card["batch"], card["patches"]) == (STEPS, 4, 4 * STEPS)
    assert card["settings"]["patches"]["size"] == 16
    assert card["versions"] == document["versions"]
    assert card["seconds"] == round(sum(line["seconds"] for line in lines(validated)))
    assert card["scores"]["mean"] == lines(validated)[-1]["validation"]["mean"]
    assert card["scores"]["damage"] == "JPEG of quality 10, 4:2:0"
    text = (validated / "MODEL_CARD.md").read_text()
    for told in ("CC0; see photos.json", f"{card['scores']['mean']['psnr']:.2f}", "| optimizer.lr | 0.001 |", "guess"):
        assert told in text


def test_weights_come_in_bfloat16_but_for_the_frequencies(data: Path, tmp_path: Path):
    work(small(data, tmp_path, weights_dtype="bfloat16"))
    state = last_state(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    kinds = {name: value.dtype for name, value in weights.items()}
    assert kinds.pop("embedding.frequencies") == torch.float32
    assert set(kinds.values()) == {torch.bfloat16}
    assert all(torch.equal(weights[name], state[f"ema.{name}"].bfloat16()) for name in kinds)


def test_the_model_is_the_average_of_the_last_state(validated: Path):
    model, state = load_model(validated / "model.safetensors"), last_state(validated)
    weights = dict(model.denoiser.network.named_parameters())
    assert {f"ema.{name}" for name in weights} == {name for name in state if name.startswith("ema.")}
    assert all(torch.equal(weight, state[f"ema.{name}"]) for name, weight in weights.items())


def test_a_batch_in_two_parts_trains_as_one(data: Path, tmp_path: Path):
    optimizer = SMALL["optimizer"] | {"bf16": False}
    work(small(data, tmp_path / "whole", optimizer=optimizer))
    work(small(data, tmp_path / "parts", optimizer=optimizer | {"accumulate": 2}, batch_size=2))
    whole, parts = lines(tmp_path / "whole"), lines(tmp_path / "parts")
    assert [line["loss"] for line in parts] == pytest.approx([line["loss"] for line in whole], rel=1e-4)
    assert load_model(tmp_path / "parts/model.safetensors").card["batch"] == 4


def test_a_loss_that_is_no_number_ends_the_run_before_it_spoils_a_checkpoint(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    gradient = Learner._gradient

    def spoilt(learner: Learner, x0: torch.Tensor, y: torch.Tensor) -> float:
        return gradient(learner, x0 * math.nan if learner.step_count == 4 else x0, y)

    monkeypatch.setattr(Learner, "_gradient", spoilt)
    outcome = work(small(data, tmp_path))
    assert (outcome["state"], outcome["step"]) == ("diverged", 5)
    assert math.isnan(outcome["loss"])
    assert outcome["checkpoint"] == str(tmp_path / "checkpoints/step-00000003.safetensors")
    assert all(value.isfinite().all() for value in last_state(tmp_path).values())
    assert [line["step"] for line in lines(tmp_path)] == [2, 3, 4]  # up to the last good interval
    with pytest.raises(
        TrainingDiverged, match=r"diverged: loss nan at step 5; the last whole checkpoint is .*step-00000003"
    ):
        check(outcome)


@pytest.mark.slow
def test_a_full_disk_at_a_checkpoint_leaves_the_one_before(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    put = LocalStore.put

    def full(store: LocalStore, name: str, content: bytes) -> None:
        if "step-00000006" in name:
            raise store._failed(name, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        put(store, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "put", full)
        outcome = work(small(data, tmp_path))
    assert outcome["state"] == "unwritable"
    told = r"no room left to write .*step-00000006.*No space left.*\(at step 6; the last whole .*step-00000003"
    with pytest.raises(StorageFull, match=told):
        check(outcome)
    assert work(small(data, tmp_path))["state"] == "done"  # after room was made
    assert work(small(data, tmp_path / "unbroken"))["state"] == "done"
    assert all(torch.equal(last_state(tmp_path)[k], v) for k, v in last_state(tmp_path / "unbroken").items())


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 images of which 3 cannot be read, and one that is too small for a patch."""
    folder = made.folder(tmp_path_factory.mktemp("spoilt"), 12)
    for name in ("a/0000.jpg", "b/0004.jpg", "c/0008.jpg"):
        (folder / name).write_bytes((folder / name).read_bytes()[:200])
    (folder / "c/small.jpg").write_bytes(made.jpeg(0, 15, 40))
    return folder


@pytest.mark.parametrize("allowed", ["3", "25%"])
def test_unreadable_images_are_skipped_up_to_a_limit(spoilt: Path, tmp_path: Path, allowed: str):
    outcome = work(small(spoilt, tmp_path, max_skipped=allowed))
    assert outcome["state"] == "done"
    assert outcome["skipped"] == {"too_small": 1, "truncated": 3}
    assert [told.partition(":")[0] for told in outcome["skipped_images"]] == ["a/0000.jpg", "b/0004.jpg", "c/0008.jpg"]
    card = load_model(tmp_path / "model.safetensors").card
    assert card["data"]["skipped"] == {"too_small": 1, "truncated": 3}


@pytest.mark.parametrize("allowed", ["2", "20%"])
def test_more_of_them_end_the_run_which_goes_on_when_they_are_allowed(spoilt: Path, tmp_path: Path, allowed: str):
    outcome = work(small(spoilt, tmp_path, max_skipped=allowed))
    assert outcome["state"] == "spoilt"
    with pytest.raises(
        DriftRecError, match=rf"3 of \d+ images .* cannot be used, max_skipped is {allowed} .*3 trunc.*jpg"
    ):
        check(outcome)
    assert work(small(spoilt, tmp_path, max_skipped="3"))["state"] == "done"


def test_what_a_share_is_of_is_estimated_from_the_shards_seen():
    assert not too_many_skipped("10%", images=10, spoilt=9, seen=1, shards=10)  # 90 of 100 are still to come
    assert too_many_skipped("10%", images=10, spoilt=11, seen=1, shards=10)
    assert not too_many_skipped("5", images=200, spoilt=10, seen=20, shards=10)  # the second epoch: 5 in each
    assert too_many_skipped("4", images=200, spoilt=10, seen=20, shards=10)
    assert not too_many_skipped("0", images=0, spoilt=0, seen=0, shards=10)


def test_a_shard_that_two_workers_have_looked_at_counts_once():
    """Else an archive at its limit, of 9 good images and a bad one, is given up by two workers and not by one."""
    bad, good, more = Counter({"": 4, "not_an_image": 1}), Counter({"": 3}), Counter({"": 2})
    workers = [{0: bad, 1: good}, {0: bad, 2: more}]
    counts = merged(workers)
    images, spoilt = looked_at(sum(counts.values(), Counter()))
    assert (images, spoilt, len(counts)) == (10, 1, 3)
    assert not too_many_skipped("10%", images, spoilt, len(counts), shards=3)
    both = [(*looked_at(sum(own.values(), Counter())), len(own)) for own in workers]
    summed = [sum(column) for column in zip(*both, strict=True)]
    assert too_many_skipped("10%", *summed, shards=3)  # which is why sums are no ground to give up


def test_a_small_image_is_reflected_if_so_set(tmp_path: Path):
    (tmp_path / "data").mkdir()
    for i in range(4):
        (tmp_path / f"data/{i}.jpg").write_bytes(made.jpeg(i, 9 + i, 40))
    outcome = work(small(tmp_path / "data", tmp_path / "o", patches={"size": 32, "per_image": 3, "small": "reflect"}))
    assert (outcome["state"], outcome["skipped"]) == ("done", {})


@pytest.mark.parametrize("lr", [10.0, 1e30])
def test_weights_that_no_model_may_have_are_a_divergence(lr: float, data: Path, tmp_path: Path) -> None:
    """Whether the loss shows it or the weights do; the checkpoint before stays."""
    optimizer = SMALL["optimizer"] | {"lr": lr, "clip": 1e30, "warmup": 0}
    outcome = work(small(data, tmp_path, optimizer=optimizer, checkpoint_every=1))
    last = tmp_path / f"checkpoints/step-{outcome['step'] - 1:08d}.safetensors"
    assert outcome["state"] == "diverged"
    assert outcome["checkpoint"] == (str(last) if outcome["step"] > 1 else None)
    assert last.exists() == (outcome["step"] > 1)
