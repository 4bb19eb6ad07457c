"""Weights files: what is saved comes back, and what is not a whole, honest file is refused before anything of it is
used.
"""

import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from driftrec.diffusion.denoiser import Denoiser
from driftrec.diffusion.drift import CosVE
from driftrec.errors import InvalidInput
from driftrec.models.checkpoint import load, save
from driftrec.networks.config import NetworkConfig


@pytest.fixture
def denoiser() -> Denoiser:
    torch.manual_seed(0)
    return Denoiser.create(replace(NetworkConfig.tiny(), width=8), CosVE(sigma_max=0.5), "x0", 0.07)


@pytest.fixture
def good(tmp_path: Path, denoiser: Denoiser) -> Path:
    save(tmp_path / "good.safetensors", denoiser, sampling={"steps": 5}, card={"data": "none"})
    return tmp_path / "good.safetensors"


def test_round_trip(good: Path, denoiser: Denoiser) -> None:
    loaded = load(good)
    assert loaded.denoiser.network.config == denoiser.network.config
    assert loaded.denoiser.process == CosVE(sigma_max=0.5)
    assert (loaded.denoiser.form, loaded.denoiser.residual_std) == ("x0", 0.07)
    assert (loaded.sampling, loaded.card) == ({"steps": 5}, {"data": "none"})
    for name, value in denoiser.network.state_dict().items():
        assert torch.equal(loaded.denoiser.network.state_dict()[name], value)


def test_the_same_weights_give_the_same_file(tmp_path: Path, denoiser: Denoiser) -> None:
    assert save(tmp_path / "a", denoiser) == save(tmp_path / "b", denoiser)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": torch.nan}, "not finite"),
        ({"weights": 3e38}, "larger than"),
        ({"sampling": {"steps": 10**9}}, "steps"),
        ({"sampling": {"fidelity": 1.1}}, "fidelity"),
        ({"sampling": {"start": 0.0}}, "start"),
        ({"sampling": {"eta": 2.1}}, "eta"),
        ({"sampling": {"eta": "1"}}, "eta"),
        ({"sampling": {"order": 1.5}}, "order"),
        ({"sampling": {"order": 3}}, "order"),
        ({"sampling": {"grid": "lambda"}}, "grid"),
        ({"card": {"loss": float("nan")}}, "NaN"),
        ({"dtype": torch.float64}, "F64"),
    ],
    ids=str,
)
def test_nothing_is_written_that_could_not_be_read(
    good: Path, denoiser: Denoiser, changes: dict[str, Any], message: str
) -> None:
    """And what was there before stays; nor is any number drawn."""
    before, state = good.read_bytes(), torch.random.get_rng_state()
    if "weights" in changes:
        tensors = denoiser.network.state_dict()
        changes = {"weights": tensors | {"input.bias": torch.full_like(tensors["input.bias"], changes["weights"])}}
    with pytest.raises(InvalidInput, match=rf"good\.safetensors: .*{message}"):
        save(good, denoiser, **changes)
    assert (good.read_bytes(), [*good.parent.iterdir()]) == (before, [good])
    save(good, denoiser)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_bfloat16_halves_the_file_and_loads_as_float32(tmp_path: Path, denoiser: Denoiser) -> None:
    save(tmp_path / "whole", denoiser)
    save(tmp_path / "half", denoiser, dtype=torch.bfloat16)
    weights = load(tmp_path / "half").denoiser.network.state_dict()
    assert all(value.dtype == torch.float32 for value in weights.values())
    sizes = [(tmp_path / name).stat().st_size for name in ("half", "whole")]
    assert sizes[0] < 0.75 * sizes[1]


class Canary:
    """Writes a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("kind", ["pickle", "torch", "torch-legacy"])
def test_pickles_are_refused_and_never_run(tmp_path: Path, kind: str) -> None:
    canary, path = tmp_path / "canary", tmp_path / "renamed.safetensors"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Canary(canary)))
    else:
        torch.save({"weights": Canary(canary)}, path, _use_new_zipfile_serialization=kind == "torch")
    with pytest.raises(InvalidInput, match=r"renamed.safetensors: this is a pickle.*safetensors"):
        load(path)
    assert not canary.exists()


def test_a_cut_file_is_refused_at_every_length(good: Path, tmp_path: Path) -> None:
    data = good.read_bytes()
    for length in (0, 4, 50, len(data) // 2, len(data) - 1):
        cut = tmp_path / "cut.safetensors"
        cut.write_bytes(data[:length])
        with pytest.raises(InvalidInput, match=r"cut\.safetensors"):
            load(cut)


def rewritten(good: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """The good file's header over other tensors."""
    length = int.from_bytes(good.read_bytes()[:8], "little")
    metadata = json.loads(good.read_bytes()[8 : 8 + length])["__metadata__"]
    save_file(tensors, good, metadata=metadata)
    return good


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: {k: v for k, v in w.items() if k != "input.bias"}, "1 weights are missing: input.bias"),
        (lambda w: w | {"extra": torch.zeros(1)}, "not of this network: extra"),
        (lambda w: w | {"input.bias": torch.zeros(5)}, "of another shape: input.bias"),
        (lambda w: w | {"input.bias": torch.full_like(w["input.bias"], torch.nan)}, "not finite: input.bias"),
        (lambda w: w | {"input.bias": torch.full_like(w["input.bias"], 3e38)}, "larger than 10000: input.bias"),
    ],
)
def test_wrong_weights_are_named(good: Path, denoiser: Denoiser, change, message: str) -> None:
    weights = {k: v.clone() for k, v in denoiser.network.state_dict().items()}
    with pytest.raises(InvalidInput, match=message):
        load(rewritten(good, change(weights)))


def test_foreign_safetensors_and_missing_files_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(InvalidInput, match="not one of DriftRec"):
        load(tmp_path / "foreign.safetensors")
    with pytest.raises(InvalidInput, match=r"'nothing\.safetensors': no such file"):
        load("nothing.safetensors")


def test_a_model_is_there_at_once() -> None:
    """PyTorch loads its compiler for whatever a network draws or computes where it takes no memory: for seconds."""
    code = "import sys, driftrec; driftrec.Restorer.from_pretrained(); print('torch._dynamo' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "False"
