"""The recipe of the embedded model: batches by number, a run that may be killed at any step, errors with a remedy."""

import io
import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import tarfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from driftrec import Restorer
from driftrec.models import checkpoint
from driftrec.networks.config import NetworkConfig
from driftrec.restoration.options import Sampling
from driftrec.training.features import Features
from driftrec.training.learner import Learner, StepResult
from driftrec.training.patches import PatchConfig
from recipes.embedded import pack, plan, recommend
from recipes.embedded import run as runs
from recipes.embedded.__main__ import main
from recipes.embedded.data import Batches, read_photographs
from recipes.embedded.run import LOG, MODEL, STATE, Run, rounded, take_over

SMALL = replace(NetworkConfig.tiny(), width=8, extra=())
PATCHES = PatchConfig(size=32, per_image=1, quality_max=20)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six tiles to train on and four held out, as `recipes.photos` leaves them."""
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for use, count in {"train": 6, "held_out": 4}.items():
        (folder / use).mkdir()
        with tarfile.open(folder / use / "photos-00000.tar", "w") as archive:
            for number in range(count):
                coarse = Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8))
                buffer = io.BytesIO()
                coarse.resize((64, 64), Image.Resampling.BICUBIC).save(buffer, "PNG")
                info = tarfile.TarInfo(f"{use}-{number}-2x-0000-0000.png")
                info.size = buffer.tell()
                archive.addfile(info, io.BytesIO(buffer.getvalue()))
    return folder


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a classifier's first layers where the training looks for them."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / plan.FEATURES).parent.mkdir(parents=True)
    torch.manual_seed(0)
    save_file(Features().state_dict(), folder / plan.FEATURES)
    return folder


@pytest.fixture(autouse=True)
def quick(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small network and small batches; a state after every step; a second a step, whatever the machine does."""
    monkeypatch.chdir(checkout)
    monkeypatch.setattr(plan, "NETWORK", SMALL)
    monkeypatch.setattr(plan, "PATCHES", PATCHES)
    monkeypatch.setattr(plan, "sizes", lambda device, fresh: plan.Sizes(batch=2, lr=1e-3, ema_decay=0.9))
    monkeypatch.setattr(runs, "SAVE_S", 0.0)
    monkeypatch.setattr(Run, "clock", lambda self: float(next(ticks)))
    ticks = itertools.count()


def train(data: Path, out: Path, steps: int, workers: int = 0, more: Sequence[str] = ()) -> int:
    usual = ["--device", "cpu", "--minutes", str(steps / 60), "--workers", str(workers)]
    return main([str(data), str(out), *usual, *more])


def curve(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / LOG).read_text().splitlines()]


def test_photographs_held_out_give_no_batch_a_tile(data: Path) -> None:
    photographs = read_photographs(data)
    assert len(photographs.held_out) == 4
    assert len(photographs.train) == 6
    assert not set(photographs.train) & set(photographs.held_out)
    assert photographs.seen() == photographs.train  # there are few


def test_batches_are_the_same_whoever_draws_and_wherever_one_begins(data: Path) -> None:
    batches = Batches(read_photographs(data).train, PATCHES, size=4)
    alone = list(itertools.islice(batches.since(0, 0), 6))
    beside = list(itertools.islice(batches.since(2, 1), 4))
    for one, other in zip(alone[2:], beside, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(one, other, strict=True))
    assert alone[0][0].shape == (4, 3, 32, 32)
    assert not torch.equal(alone[0][0], alone[3][0])  # another epoch, other patches


@pytest.mark.parametrize("killed_at", [1, 3])
def test_a_run_that_is_killed_ends_as_one_that_is_not(data: Path, tmp_path: Path, killed_at: int) -> None:
    assert train(data, tmp_path / "whole", 5) == 0
    step = Learner.step

    def dying(learner: Learner, clean: torch.Tensor, damaged: torch.Tensor) -> StepResult:
        if learner.step_count == killed_at:
            raise KeyboardInterrupt
        return step(learner, clean, damaged)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "step", dying)
        assert train(data, tmp_path / "killed", 5) == 130
    assert curve(tmp_path / "killed")[-1]["step"] == killed_at
    assert train(data, tmp_path / "killed", 5) == 0
    whole, killed = (load_file(tmp_path / name / STATE) for name in ("whole", "killed"))
    assert whole.keys() == killed.keys()
    assert all(torch.equal(value, killed[name]) for name, value in whole.items())


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_with_a_state(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, workers: int
) -> None:
    """Also one that goes to its workers too, as that of a terminal, of timeout and of systemd."""
    monkeypatch.setattr(runs, "SAVE_S", 1e9)  # no other reason for a state
    step = Learner.step

    def signalled(learner: Learner, clean: torch.Tensor, damaged: torch.Tensor) -> StepResult:
        if learner.step_count == 2:
            children = [child.pid for child in multiprocessing.active_children() if child.pid]
            assert len(children) == workers
            for process in (os.getpid(), *children):
                subprocess.run(["kill", f"-{number.value}", str(process)], check=True)  # a worker may obey its parent
            time.sleep(0.3)  # one that ends is noticed
        return step(learner, clean, damaged)

    before = [signal.getsignal(kind) for kind in (signal.SIGTERM, signal.SIGINT)]
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", signalled)
        assert train(data, tmp_path, 5, workers) == 130
    assert [signal.getsignal(kind) for kind in (signal.SIGTERM, signal.SIGINT)] == before
    assert curve(tmp_path)[-1]["step"] == 3
    assert train(data, tmp_path, 5) == 0
    assert curve(tmp_path)[-1]["step"] == 5


def test_what_it_leaves_restores_and_says_how_it_was_made(data: Path, tmp_path: Path) -> None:
    assert train(data, tmp_path, 3) == 0
    found = checkpoint.load(tmp_path / MODEL)
    assert found.card["pixels"] == 3 * 2 * 32 * 32
    assert found.card["steps"] == 3
    assert len(found.card["tried"]) == 1 + len(recommend.STARTS) * len(recommend.STEPS)
    assert found.sampling.keys() == plan.RECOMMENDED.keys()
    assert Restorer.from_pretrained(str(tmp_path / MODEL))(np.zeros((40, 40, 3), np.uint8), fidelity=1.0).shape == (
        40,
        40,
        3,
    )
    assert [line["step"] for line in curve(tmp_path)] == [0, 1, 2, 3]
    assert all(line.keys() >= {"psnr_10", "psnr_40", "seen_10", "seen_40"} for line in curve(tmp_path))


def test_what_is_recommended_is_as_rough_as_the_clean_image_and_not_far_below_the_mean(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fake(restorer: Restorer, sampling: Sampling, tiles: object) -> dict[str, float]:
        start = 0.0 if sampling.fidelity else sampling.start
        return {"psnr": 27 - 2 * start, "flat": 0.8 + slope * start + (0.01 if sampling.steps == 2 else 0)}

    def choice() -> tuple[float, int] | None:
        chosen, _ = recommend.recommend(checkpoint.resolve("tiny"), "cpu", {})
        return chosen and (chosen["start"], chosen["steps"])

    monkeypatch.setattr(recommend, "scores", fake)
    slope = 1.3
    assert choice() == (0.15, 2)  # nearest to 1, though one with less noise is nearer to the mean
    slope = 0.3
    assert choice() == (0.2, 2)  # none is near: the nearest whose PSNR will do
    monkeypatch.setattr(recommend, "BELOW", 0.25)
    assert choice() == (0.1, 2)
    monkeypatch.setattr(recommend, "BELOW", 0.0)
    assert choice() is None


def test_flat_places_of_the_clean_image_deviate_as_they_do() -> None:
    generator = np.random.default_rng(0)
    tiles = {"grain": (128 + generator.normal(0, 2, (64, 72, 3))).clip(0, 255).astype(np.uint8)}
    assert recommend.scores(Restorer.identity(), recommend.MEAN, tiles)["flat"] < 0.5  # a JPEG of quality 10 is smooth


def test_a_finished_run_goes_on_with_more_minutes(data: Path, tmp_path: Path) -> None:
    assert train(data, tmp_path, 2) == train(data, tmp_path, 4) == 0
    assert curve(tmp_path)[-1]["step"] == 4


@torch.inference_mode()
def test_new_inputs_of_a_network_change_nothing_at_first() -> None:
    torch.manual_seed(0)
    trained, grown = plan.denoiser(SMALL), plan.denoiser(replace(SMALL, estimates=(12, 30), grid=True))
    for parameter in trained.parameters():
        parameter.normal_(std=0.1)
    take_over(grown, trained)
    x, y = torch.rand(2, 1, 3, 32, 32)
    torch.testing.assert_close(grown(x, y, 0.5), trained(x, y, 0.5))
    with pytest.raises(ValueError, match="no place for"):
        take_over(trained, grown)


def test_errors_say_what_to_do(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert train(tmp_path, tmp_path / "out", 1) == 1
    assert "python -m recipes.photos" in caplog.text
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit) as ended:
            main([str(data), str(tmp_path / "out"), "--device", "cuda"])
        assert ended.value.code == 2
    assert main([str(data), str(tmp_path / "out"), "--features", str(tmp_path / "none")]) == 1
    assert f"{tmp_path / 'none'}: no weights" in caplog.text
    with pytest.raises(SystemExit):
        main([str(data), str(tmp_path / "out"), "--only", "output"])
    assert train(data, tmp_path / "first", 1) == 0
    init = str(tmp_path / "first" / MODEL)
    assert train(data, tmp_path / "out", 1, more=["--init", init, "--only", "output,side"]) == 1
    assert "--only: this network has no side; it has embedding, input, " in caplog.text
    assert "python -m recipes.standins" in caplog.text
    (tmp_path / "out" / STATE).write_bytes(b"cut")
    assert train(data, tmp_path / "out", 1) == 1
    assert "not a training state" in caplog.text


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_state(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert train(data, tmp_path, 2) == 0
    before = (tmp_path / STATE).read_bytes()
    monkeypatch.setattr(Learner, "step", lambda *_: StepResult(3, float("nan"), float("nan"), 0.0))
    assert train(data, tmp_path, 4) == 1
    assert "step 3: the loss is nan" in caplog.text
    assert (tmp_path / STATE).read_bytes() == before


def test_a_pack_is_whole_or_told(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pack, "LARGEST", 12_000_000)  # the embedded weights fill one file
    packed, unpacked = tmp_path / "packed", tmp_path / "unpacked"
    assert main([str(data), str(packed), "--pack", "--init", "tiny"]) == 0
    tars = sorted(packed.glob("*.tar"))
    assert len(tars) > 1
    assert max(path.stat().st_size for path in tars) <= 12_000_000
    for path in tars:
        with tarfile.open(path) as tar:
            tar.extractall(unpacked, filter="data")
    assert checkpoint.load(unpacked / "init.safetensors").sha256 == checkpoint.load("tiny").sha256
    monkeypatch.chdir(unpacked)  # and all that the training reads is there
    before, after = read_photographs(data), read_photographs(unpacked)
    assert [Path(name).stem for name in after.train] == [Path(name).stem for name in before.train]
    assert train(unpacked, tmp_path / "out", 1) == 0
    shard = unpacked / "train" / "photos-00000.tar"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert train(unpacked, tmp_path / "out", 2) == 1
    assert f"{shard}: not as it was packed" in caplog.text
    monkeypatch.setattr(pack, "VERSION", 2)
    assert train(unpacked, tmp_path / "out", 2) == 1
    assert "a pack of version 1, this code reads 2" in caplog.text


def test_two_runs_do_not_share_a_folder(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    inside: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "train", lambda self, photographs, workers: inside.append(train(data, tmp_path, 1)))
        assert train(data, tmp_path, 1) == 0
    assert inside == [1]
    assert "another run works in this folder" in caplog.text


def test_the_plan_goes_down_and_ends() -> None:
    assert plan.rate(1.0, 0.0) < plan.rate(1.0, plan.WARMUP) > plan.rate(1.0, 0.5) > plan.rate(1.0, 1.0) > 0
    assert [plan.stage_at(share).name for share in (0.0, 0.99, 1.0)] == [
        plan.STAGES[0].name,
        plan.STAGES[-1].name,
        plan.STAGES[-1].name,
    ]


@pytest.mark.parametrize("bits", [1, 4, 7])
def test_weights_keep_so_many_bits(bits: int) -> None:
    weights = {"up.1.a": torch.randn(40, 50) ** 3, "up.10.a": torch.randn(4, 4), "up.1.bias": torch.randn(40)}
    short = rounded(weights, ["up.1"], bits)
    assert all(torch.equal(short[name], weights[name]) for name in ("up.10.a", "up.1.bias"))
    assert (short["up.1.a"] / weights["up.1.a"] - 1).abs().max() <= 2.0 ** -(bits + 1) * 1.0001
    assert torch.equal(rounded(short, ["up.1"], bits)["up.1.a"], short["up.1.a"])
    assert torch.equal(short["up.1.a"].bfloat16().float(), short["up.1.a"])
    assert torch.equal(rounded({"up.1.a": torch.zeros(2, 2)}, ["up.1"], bits)["up.1.a"], torch.zeros(2, 2))


@pytest.mark.parametrize("only", [("output",), ("up.1", "output"), ()])
def test_parts_that_are_not_named_stay_as_they_were(only: tuple[str, ...], data: Path, tmp_path: Path) -> None:
    """After a kill too; and of each that is named something moves."""
    assert train(data, tmp_path / "first", 1) == 0
    first = checkpoint.load(str(tmp_path / "first" / MODEL))
    more = ["--init", str(tmp_path / "first" / MODEL), *(["--only", ",".join(only)] if only else [])]
    for steps in (1, 3):
        assert train(data, tmp_path / "then", steps, more=more) == 0
    then = checkpoint.load(str(tmp_path / "then" / MODEL))
    weights, moved = then.denoiser.network.state_dict(), set[str]()
    for name, weight in first.denoiser.network.named_parameters():
        if not torch.equal(weight, weights[name]):
            moved.add(name)
    parts = only or tuple(name for name, _ in first.denoiser.network.named_children())
    assert all(name.startswith(only) for name in moved) if only else moved
    assert all(any(name.startswith(part) for name in moved) for part in parts)
    assert then.card["only"] == list(only)


def test_one_stage_lasts_from_the_first_minute_to_the_last(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = list[str]()
    stage_at = plan.stage_at
    monkeypatch.setattr(plan, "stage_at", lambda *given: stages.append(stage_at(*given).name) or stage_at(*given))
    for number, stage in enumerate(plan.STAGES):
        assert train(data, tmp_path / str(number), 3, more=["--stage", stage.name]) == 0
    assert stages == [stage.name for stage in plan.STAGES for _ in range(3)]
