"""Checkpoints of the authors' implementation: their network's numbers come out of ours, and nothing of a pickle runs.

The weights of these tests are drawn from their names there, so that a weight in the wrong place changes the result.
"""

import argparse
import hashlib
import json
import os
import pickle
import re
import sys
import zlib
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path, PosixPath
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import driftrec.errors
from driftrec.diffusion.baselines import Regression
from driftrec.diffusion.drift import OUVE, TSDVE, CosVE
from driftrec.errors import InvalidInput
from driftrec.models import lightning
from driftrec.models.checkpoint import import_authors, load
from driftrec.networks.ncsnpp import NCSNpp, NetworkConfig

FIXTURE = json.loads((Path(__file__).parent / "fixtures" / "authors.json").read_text())
SMALL = replace(NetworkConfig.paper(), width=16, blocks=1, pad_input=False)
SETTINGS = {
    "backbone_name": "ncsnpp",
    "data_dir": "/data",
    "nf": 16,
    "ch_mult": [1, 1, 2, 2, 2, 2, 2],
    "num_res_blocks": 1,
}
SCORE = SETTINGS | {"sde_name": "ouve", "gamma": 1.5, "sigma_min": 0.02, "sigma_max": 0.5, "sde_n": 100, "t_eps": 0.01}
REGRESSION = SETTINGS | {"discriminative_mode": "direct"}
T = 0.4


def uniform(name: str, shape: tuple[int, ...]) -> Tensor:
    """Mean 0, variance 1; the bits of Philox are the same everywhere."""
    bits = np.random.Generator(np.random.Philox(key=zlib.crc32(name.encode())))
    return torch.from_numpy((bits.random(shape) * 2 - 1) * 3**0.5).float()


def drawn(name: str, shape: tuple[int, ...]) -> Tensor:
    """A weight of their network, of a size that keeps the signal's."""
    unit = uniform(name, shape)
    if name == lightning.FREQUENCIES:
        return 16 * unit
    if len(shape) == 1:
        return 0.2 * unit + (1.0 if name.endswith("weight") else 0.0)
    return unit * (shape[0] if name.endswith(".W") else int(np.prod(shape[1:]))) ** -0.5


def their_weights(conditional: bool = True) -> dict[str, Tensor]:
    """Theirs by name, in their order."""
    with torch.device("meta"):
        ours = NCSNpp(replace(SMALL, conditional=conditional)).state_dict()
    weights = {}
    for theirs, name in lightning.names(replace(SMALL, conditional=conditional)):
        if name in ours:
            shape = tuple(ours[name].shape)
            weights[theirs] = drawn(theirs, shape[1::-1] if ".NIN_" in theirs and theirs.endswith(".W") else shape)
    return weights


def their_file(path: Path, weights: dict[str, Any], settings: Any = SCORE, **more: Any) -> Path:
    """A file as their trainer writes it."""
    content = {
        "epoch": 7,
        "global_step": 1234,
        "pytorch-lightning_version": "1.6.5",
        "state_dict": OrderedDict((lightning.PREFIX + name, value) for name, value in weights.items()),
        "callbacks": {"ModelCheckpoint{'monitor': 'valid_loss'}": {"best_model_score": torch.tensor(0.1)}},
        "optimizer_states": [{"state": {0: {"step": 3}}, "param_groups": [{"lr": 1e-4}]}],
        "hyper_parameters": settings,
    }
    torch.save(content | more, path)
    return path


def imported(path: Path) -> lightning.Imported:
    """By way of the file that is written."""
    target = path.with_suffix(".safetensors")
    sha256 = import_authors(path, target)
    found = load(target)
    assert found.sha256 == sha256
    return lightning.Imported(found.denoiser, found.sampling, found.card)


@pytest.mark.parametrize(
    "case", FIXTURE["cases"], ids=lambda case: f"{case['kind']}-{case['size'][0]}x{case['size'][1]}"
)
@torch.inference_mode()
def test_numbers_of_their_network(case: dict[str, Any], tmp_path: Path) -> None:
    score = case["kind"] == "score"
    path = their_file(tmp_path / "a.ckpt", their_weights(score), SCORE if score else REGRESSION)
    denoiser = imported(path).denoiser
    x, y = ((uniform(name, (1, 3, *case["size"])) / 3**0.5 + 1) / 2 for name in ("x", "y"))
    t = torch.tensor([T])
    ours = denoiser.score(x, y, t) if score else denoiser(y, y, t)
    assert ours.square().mean().sqrt().item() == pytest.approx(case["rms"], rel=1e-4)
    difference = ours[0, :, 13::41, 7::53].flatten() - torch.tensor(case["values"])
    assert difference.square().mean().sqrt() < 1e-4 * case["rms"]


@pytest.mark.parametrize("conditional", [True, False], ids=["score", "regression"])
def test_names_and_shapes_are_theirs_in_their_order(conditional: bool) -> None:
    listing = "".join(f"{name} {tuple(value.shape)}\n" for name, value in their_weights(conditional).items())
    expected = FIXTURE["score_names_sha256" if conditional else "regression_names_sha256"]
    assert hashlib.sha256(listing.encode()).hexdigest() == expected


@pytest.mark.parametrize("without_frequencies", [False, True])
def test_moving_averages_are_taken(tmp_path: Path, without_frequencies: bool) -> None:
    weights = their_weights()
    last = {name: value if name == lightning.FREQUENCIES else value + 1 for name, value in weights.items()}
    averages = [value for name, value in weights.items() if not (without_frequencies and name == lightning.FREQUENCIES)]
    ema = {"decay": 0.999, "num_updates": 1234, "shadow_params": averages, "collected_params": None}
    plain = imported(their_file(tmp_path / "plain.ckpt", weights))
    averaged = imported(their_file(tmp_path / "averaged.ckpt", last, ema=ema))
    assert (plain.card["weights"], averaged.card["weights"]) == ("last step", "moving average")
    for name, value in plain.denoiser.network.state_dict().items():
        assert torch.equal(averaged.denoiser.network.state_dict()[name], value), name


def test_hyper_parameters(tmp_path: Path) -> None:
    weights = their_weights()
    for name, process in (
        ("ouve", OUVE(1.5, 0.02, 0.5)),
        ("t2ve", TSDVE(1.5, 0.02, 0.5)),
        ("cosve", CosVE(1.5, 0.02, 0.5)),
    ):
        found = imported(their_file(tmp_path / "a.ckpt", weights, SCORE | {"sde_name": name}))
        assert found.denoiser.process == process
    assert found.denoiser.form == "noise"
    assert found.denoiser.network.config == SMALL
    assert found.card["trained"] == {"t_eps": 0.01, "epoch": 7, "global_step": 1234}
    found = imported(their_file(tmp_path / "a.ckpt", their_weights(False), REGRESSION))
    assert (found.denoiser.process, found.denoiser.form) == (Regression(), "direct")
    assert found.sampling == {"fidelity": 1.0}


def test_harmless_classes_of_honest_files_are_replaced_and_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = ModuleType("pytorch_lightning.callbacks")
    trainer.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": trainer.__name__})
    trainer.AttributeDict = type("AttributeDict", (dict,), {"__module__": trainer.__name__})
    with monkeypatch.context() as while_saving:
        while_saving.setitem(sys.modules, "pytorch_lightning", ModuleType("pytorch_lightning"))
        while_saving.setitem(sys.modules, trainer.__name__, trainer)
        settings = argparse.Namespace(**SCORE | {"data_dir": PosixPath("/data"), "args": argparse.Namespace(gpus=1)})
        callbacks = {trainer.ModelCheckpoint: trainer.AttributeDict(best_model_path="x")}
        path = their_file(tmp_path / "a.ckpt", their_weights(), settings, callbacks=callbacks)
        attributes = their_file(tmp_path / "b.ckpt", their_weights(), trainer.AttributeDict(SCORE))
    assert imported(path).denoiser.process == imported(attributes).denoiser.process == OUVE(1.5, 0.02, 0.5)
    assert "pytorch_lightning" not in sys.modules


class Canary:
    """Calls a function when unpickled."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call[0], self.call[1:]


@pytest.mark.parametrize("place", ["hyper_parameters", "callbacks", "ema"])
@pytest.mark.parametrize(
    ("function", "argument", "named"),
    [
        (eval, "open({!r}, 'w')", "builtins.eval"),
        (os.system, "touch {}", "posix.system"),
        (Path.touch, Path, "builtins.getattr"),
    ],
)
def test_a_pickle_that_names_anything_else_is_refused_and_never_run(
    tmp_path: Path, place: str, function: Any, argument: Any, named: str
) -> None:
    canary = tmp_path / "canary"
    evil = Canary(function, argument.format(str(canary)) if isinstance(argument, str) else argument(canary))
    path = their_file(tmp_path / "evil.ckpt", their_weights(), **{place: {"gamma": evil}})
    with pytest.raises(InvalidInput, match=rf"evil\.ckpt: refused, because its pickle names {named}, "):
        import_authors(path, tmp_path / "out.safetensors")
    assert not canary.exists()
    assert not (tmp_path / "out.safetensors").exists()
    torch.load(path, weights_only=False)  # the canary is alive
    assert canary.exists()


def test_a_function_of_a_harmless_package_is_not_run_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def touch(path: str) -> None:
        Path(path).touch()

    touch.__module__, touch.__qualname__ = "driftrec.errors", "touch"
    monkeypatch.setattr(driftrec.errors, "touch", touch, raising=False)
    evil = {"a": Canary(touch, str(tmp_path / "canary"))}
    assert imported(their_file(tmp_path / "a.ckpt", their_weights(), callbacks=evil)).denoiser.form == "noise"
    assert not (tmp_path / "canary").exists()


def renamed(weights: dict[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    """The same tensors, one by another name."""
    return {new if name == old else name: value for name, value in weights.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda w: dict(list(w.items())[5:]),
            r"5 .* missing: output_layer.weight, output_layer.bias, all_modules.0.W;",
        ),
        (lambda w: w | {"all_modules.99.weight": torch.zeros(1)}, r"1 .* not of this network: all_modules.99.weight;"),
        (lambda w: w | {"all_modules.1.bias": torch.zeros(5)}, r"of another shape: all_modules.1.bias;"),
        (lambda w: w | {"all_modules.1.bias": torch.full((64,), torch.nan)}, r"not finite: all_modules.1.bias;"),
        (lambda w: w | {"all_modules.1.bias": 3}, r"not a tensor: all_modules.1.bias"),
        (lambda w: renamed(w, "all_modules.1.bias", "all_modules.1.offset"), r"missing: all_modules.1.bias;"),
    ],
)
def test_wrong_weights_are_named(tmp_path: Path, change: Any, message: str) -> None:
    path = their_file(tmp_path / "wrong.ckpt", change(their_weights()))
    with pytest.raises(InvalidInput, match=rf"wrong\.ckpt: .*{message}"):
        import_authors(path, tmp_path / "out.safetensors")


@pytest.mark.parametrize(
    ("settings", "more", "message"),
    [
        (SCORE | {"num_res_blocks": 2}, {}, "weights are missing"),  # another architecture
        (SCORE | {"nf": 24}, {}, "of another shape"),
        (SCORE | {"nf": 10**6}, {}, "width must be a whole number in 1..4096, got 1000000"),
        (SCORE | {"nf": "many"}, {}, "no model that is known here"),
        (SCORE | {"sde_name": "vpsde"}, {}, "unknown SDE 'vpsde'; known: ouve, t2ve, cosve"),
        (SCORE | {"gamma": -1.0}, {}, "gamma must be positive"),
        ({"nf": 16}, {}, "no model that is known here: 'sde_name'"),
        (SCORE | {"linear_schedule": True}, {}, "linear_schedule is True there, and only False can be read"),
        (REGRESSION | {"discriminative_mode": "mask"}, {}, "only 'direct' can be read"),
        (None, {}, "no hyper_parameters"),
        (SCORE, {"state_dict": None}, "it has no state_dict"),
        (SCORE, {"ema": {"shadow_params": [torch.zeros(1)]}}, "its 1 moving averages do not fit its"),
        (SCORE, {"ema": {}}, "its 0 moving averages do not fit its"),
    ],
)
def test_other_models_are_refused(tmp_path: Path, settings: Any, more: dict[str, Any], message: str) -> None:
    path = their_file(tmp_path / "other.ckpt", their_weights(), settings, **more)
    with pytest.raises(InvalidInput, match=rf"other\.ckpt: .*{re.escape(message)}"):
        import_authors(path, tmp_path / "out.safetensors")


def test_files_that_are_no_checkpoint_are_refused(tmp_path: Path) -> None:
    whole = their_file(tmp_path / "whole.ckpt", their_weights()).read_bytes()
    texts = [
        b"",
        b"hello",
        pickle.dumps({"state_dict": {}}),
        *(whole[:n] for n in (10, 1000, len(whole) // 2, len(whole) - 1)),
    ]
    for text in texts:
        (tmp_path / "cut.ckpt").write_bytes(text)
        with pytest.raises(InvalidInput, match=r"cut\.ckpt: not a whole file of weights"):
            import_authors(tmp_path / "cut.ckpt", tmp_path / "out.safetensors")
    with pytest.raises(InvalidInput, match="no such file"):
        import_authors(tmp_path / "nothing.ckpt", tmp_path / "out.safetensors")
    for target in ("out.ckpt", "nowhere/out.safetensors"):
        with pytest.raises(InvalidInput, match=r"must be a \.safetensors file in a folder that exists"):
            import_authors(tmp_path / "whole.ckpt", tmp_path / target)
