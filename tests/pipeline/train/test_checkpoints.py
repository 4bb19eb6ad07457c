"""Checkpoints: what is cut, changed or unfinished is never taken; the one before always is."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from driftrec.diffusion.denoiser import Denoiser
from driftrec.diffusion.drift import OUVE
from driftrec.errors import DriftRecError, StorageFull
from driftrec.networks.config import NetworkConfig
from driftrec.training.learner import Learner, Optimisation
from driftrec.training.loss import TimeDensity
from pipeline.storage.local import LocalStore
from pipeline.train import checkpoints
from pipeline.train.windows import Position

NETWORK = NetworkConfig(width=4, multipliers=(1,), blocks=1, stem=2, attention_levels=(), attention_middle=False)


def learner(steps: int) -> Learner:
    torch.manual_seed(0)
    made = Learner(Denoiser.create(NETWORK, OUVE()), TimeDensity(), Optimisation(steps=10, warmup=0, bf16=False))
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    for _ in range(steps):
        made.step(x, x * 0.9)
    return made


def weights(of: Learner) -> list[float]:
    return [p.sum().item() for p in of.denoiser.parameters()]


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """With checkpoints of steps 1 to 3."""
    store = LocalStore(str(tmp_path))
    for steps in (1, 2, 3):
        checkpoints.save(store, learner(steps), [Position(steps, 7), Position(steps, 8)], keep=3)
    return store


def test_the_newest_comes_back_whole(store: LocalStore):
    mark = checkpoints.latest(store)
    assert mark
    assert (mark.step, mark.positions) == (3, (Position(3, 7), Position(3, 8)))
    fresh = learner(0)
    checkpoints.load(store, mark, fresh)
    assert fresh.step_count == 3
    assert weights(fresh) == weights(learner(3)) != weights(learner(2))


def test_only_the_last_are_kept(store: LocalStore):
    checkpoints.save(store, learner(4), [Position()], keep=2)
    names = [name for name, _ in store.list()]
    assert names == [f"checkpoints/step-0000000{n}.{kind}" for n in (3, 4) for kind in ("json", "safetensors")]


def test_a_state_without_a_marker_is_not_taken_and_goes_with_the_next_save(store: LocalStore):
    store.put("checkpoints/step-00000009.safetensors", b"the write was killed before the marker")
    mark = checkpoints.latest(store)
    assert mark
    assert mark.step == 3
    checkpoints.save(store, learner(4), [Position()], keep=3)
    assert not store.exists("checkpoints/step-00000009.safetensors")


def test_a_cut_state_is_passed_over_naming_path_and_bytes(store: LocalStore, caplog: pytest.LogCaptureFixture):
    path = store.root / "checkpoints/step-00000003.safetensors"
    size = path.stat().st_size
    os.truncate(path, size - 1)
    mark = checkpoints.latest(store)
    assert mark
    assert mark.step == 2
    assert f"{path}: {size - 1} of {size} bytes" in caplog.text


@pytest.mark.parametrize("garbage", [b"", b"{}", b'{"step": 3', b"[]", b"\xff\xfe"])
def test_a_broken_marker_is_passed_over(store: LocalStore, garbage: bytes, caplog: pytest.LogCaptureFixture):
    store.put("checkpoints/step-00000003.json", garbage)
    mark = checkpoints.latest(store)
    assert mark
    assert mark.step == 2
    assert "step-00000003.json" in caplog.text


@pytest.mark.parametrize("place", [3, -5], ids=["header", "numbers"])
def test_a_state_of_which_a_bit_flipped_is_passed_over(store: LocalStore, place: int, caplog: pytest.LogCaptureFixture):
    newest = checkpoints.latest(store)
    path = store.root / "checkpoints/step-00000003.safetensors"
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    mark = checkpoints.latest(store)
    assert newest
    assert mark
    assert mark.step == 2
    assert f"{path}: its bytes are not those that were written; the one before is taken" in caplog.text
    checkpoints.load(store, mark, learner(0))
    with pytest.raises(DriftRecError, match=r"step-00000003.safetensors: its \d+ bytes are not those"):
        checkpoints.load(store, newest, learner(0))


def test_a_full_disk_leaves_the_one_before(store: LocalStore, monkeypatch: pytest.MonkeyPatch):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageFull, match=r"step-00000004.safetensors.*No space left"):
            checkpoints.save(store, learner(4), [Position()], keep=1)
    mark = checkpoints.latest(store)
    assert mark
    assert mark.step == 3
    checkpoints.load(store, mark, learner(0))
    assert sorted(name for name, _ in store.list("checkpoints")) == [
        f"checkpoints/step-0000000{n}.{kind}" for n in (1, 2, 3) for kind in ("json", "safetensors")
    ]


def test_a_full_temporary_folder_is_told_as_what_it_is(store: LocalStore, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise SafetensorError("I/O error: No space left on device")

    monkeypatch.setattr(Learner, "save", full)
    with pytest.raises(StorageFull, match=r"could not be written there: .*No space left on device; free some room"):
        checkpoints.save(store, learner(4), [Position()], keep=1)


def test_no_checkpoint_is_no_mark(tmp_path: Path):
    assert checkpoints.latest(LocalStore(str(tmp_path / "nothing"))) is None


def test_a_marker_is_plain_json(store: LocalStore):
    values = json.loads(store.read("checkpoints/step-00000001.json"))
    assert values["step"] == 1
    assert values["positions"] == [{"item": 1, "batch": 7}, {"item": 1, "batch": 8}]
