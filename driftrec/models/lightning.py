"""Checkpoints of the authors' public implementation (PyTorch Lightning), in the terms of this package.

Such a file is a pickle. PyTorch's restricted unpickler reads it, which calls nothing but what makes tensors and
containers. Some other classes are met in honest files (`is_harmless`): stand-ins take their place, and nothing of them
is imported. Any other name in the pickle is a reason to refuse the file.

What is in it: `state_dict` names the weights `backbone.all_modules.N...`, N counting the layers in the order in which
they were made, and `backbone.output_layer...`. `ema.shadow_params` lists their moving averages in the same order.
`hyper_parameters` says the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from driftrec import bounds
from driftrec.diffusion.baselines import Regression
from driftrec.diffusion.denoiser import Denoiser
from driftrec.diffusion.drift import OUVE, TSDVE, CosVE
from driftrec.diffusion.process import Process
from driftrec.errors import InvalidInput
from driftrec.models.pickles import unpickle
from driftrec.models.tensors import LARGEST, fitting, named
from driftrec.networks.ncsnpp import NCSNpp, NetworkConfig

PROCESSES = {"ouve": OUVE, "t2ve": TSDVE, "cosve": CosVE}  # by their names
PREFIX = "backbone."
FREQUENCIES = "all_modules.0.W"  # a parameter there, but never trained

# Their choices that no weight shows, and the one value of each that is read here; absent means that value.
ASSUMED = {
    "backbone_name": "ncsnpp",
    "discriminative_mode": "direct",  # the others estimate a difference or a factor
    "linear_schedule": False,  # of the noise
    "nonlinearity": "swish",
    "fir": True,
    "skip_rescale": True,
    "scale_by_sigma": True,
}

# Their part of a layer -> ours.
PLAIN = {"": ""}
COMBINE = {"Conv_0": ""}
BLOCK = {
    "GroupNorm_0": "norm1",
    "Conv_0": "conv1",
    "Dense_0": "embed",
    "GroupNorm_1": "norm2",
    "Conv_1": "conv2",
    "Conv_2": "shortcut",
}
ATTENTION = {"GroupNorm_0": "norm", "NIN_0": "query", "NIN_1": "key", "NIN_2": "value", "NIN_3": "project"}


class StandIn:
    """In place of an object that is not needed: takes what its pickle says of it, and does nothing."""

    def __init__(self, *_: object) -> None: ...


@dataclass(frozen=True)
class Imported:
    """What a file of theirs holds."""

    denoiser: Denoiser
    sampling: dict[str, Any]  # recommended defaults
    card: dict[str, Any]  # where the weights come from


def read(path: str | Path) -> Imported:
    """Read a checkpoint of their score model (process and network of any size) or of their regression model.

    The moving averages are taken where the file has them. Raises InvalidInput naming the file and what is wrong.
    """
    path = Path(path)
    content = _content(path)
    settings = _settings(path, content)
    conditional = "discriminative_mode" not in settings  # what tells their two models apart
    try:
        config = NetworkConfig(
            width=int(settings.get("nf", 128)),
            multipliers=tuple(int(m) for m in settings.get("ch_mult", (1, 1, 2, 2, 2, 2, 2))),
            blocks=int(settings.get("num_res_blocks", 2)),
            conditional=conditional,
            pad_input=False,
        )
        with torch.device("meta"):  # takes no memory, whatever size the file claims
            skeleton = NCSNpp(config)
        process = _process(settings) if conditional else Regression()
        t_eps = {"t_eps": float(settings["t_eps"])} if conditional else {}
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise InvalidInput(f"{path}: its hyper-parameters describe no model that is known here: {error}") from error
    weights, averaged = _weights(path, content)
    state = convert(path, weights, skeleton)
    denoiser = Denoiser.create(config, process, "noise" if conditional else "direct")
    denoiser.network.load_state_dict(state)
    card = {
        "origin": "a checkpoint of the authors' implementation",
        "weights": "moving average" if averaged else "last step",
        "trained": t_eps | {n: int(content[n]) for n in ("epoch", "global_step") if _is_count(content.get(n))},
    }
    return Imported(denoiser.eval().requires_grad_(False), {} if conditional else {"fidelity": 1.0}, card)


def convert(path: Path, weights: dict[str, Tensor], network: NCSNpp) -> dict[str, Tensor]:
    """Their weights -> a state dict of `network`, checked. Their score is output / sigma, ours -output / sigma: the
    sign goes into the output layer.
    """
    ours = network.state_dict()
    table = {theirs: name for theirs, name in names(network.config) if name in ours}
    expected = {theirs: ours[name][:, :, 0, 0].T if _is_dense(theirs) else ours[name] for theirs, name in table.items()}
    weights = fitting(path, weights, expected, LARGEST)
    state = {table[theirs]: v.T[:, :, None, None] if _is_dense(theirs) else v for theirs, v in weights.items()}
    if network.config.conditional:
        state |= {name: -state[name] for name in ("output.weight", "output.bias")}
    return state


def _is_dense(theirs: str) -> bool:
    """A 1x1 convolution that they keep as a matrix (in, out)."""
    return ".NIN_" in theirs and theirs.endswith(".W")


def names(config: NetworkConfig) -> Iterator[tuple[str, str]]:
    """(their name, our name) of every weight; of those that a block may lack, too."""
    for leaf in ("weight", "bias"):
        yield f"output_layer.{leaf}", f"output.{leaf}"
    yield FREQUENCIES, "embedding.frequencies"
    for index, (layer, parts) in enumerate(_layers(config), start=1 if config.conditional else 0):
        for theirs, ours in parts.items():
            leaves = {"W": "weight", "b": "bias"} if theirs.startswith("NIN") else {"weight": "weight", "bias": "bias"}
            for their_leaf, our_leaf in leaves.items():
                yield _joined("all_modules", str(index), theirs, their_leaf), _joined(layer, ours, our_leaf)


def _joined(*parts: str) -> str:
    return ".".join(filter(None, parts))


def _layers(config: NetworkConfig) -> Iterator[tuple[str, dict[str, str]]]:
    """Our name of each layer and its parts, in the order in which they make theirs, after the Fourier frequencies."""
    if config.conditional:
        yield from (("embedding.first", PLAIN), ("embedding.second", PLAIN))
    yield "input", PLAIN
    last = len(config.multipliers) - 1
    for level in range(last + 1):
        for i in range(config.blocks):
            yield f"down.{level}.blocks.{i}", BLOCK
            if level in config.attention_levels:
                yield f"down.{level}.attention.{i}", ATTENTION
        if level < last:
            yield from ((f"down.{level}.downsample", BLOCK), (f"down.{level}.take_in", COMBINE))
    yield from (("middle.first", BLOCK), ("middle.attention", ATTENTION), ("middle.second", BLOCK))
    for stage, level in enumerate(reversed(range(last + 1))):
        for i in range(config.blocks + 1):
            yield f"up.{stage}.blocks.{i}", BLOCK
        if level in config.attention_levels:
            yield f"up.{stage}.attention.0", ATTENTION
        yield from ((f"up.{stage}.give.0", PLAIN), (f"up.{stage}.give.2", PLAIN))
        if level > 0:
            yield f"up.{stage}.upsample", BLOCK


def is_harmless(name: str) -> bool:
    """Classes that honest files hold beside the weights: settings, paths, the trainer's own, image transforms."""
    packages = ("pytorch_lightning.", "lightning.", "lightning_fabric.", "torchvision.transforms.", "driftrec.")
    return name in ("argparse.Namespace", "pathlib.PosixPath", "pathlib.WindowsPath") or name.startswith(packages)


def _stand_in(name: str) -> type | None:
    """What takes a class's place; None for one that must not be in such a file."""
    if not is_harmless(name):
        return None
    return dict if name.endswith(".AttributeDict") else StandIn


def _content(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InvalidInput(f"{path}: no such file; give the path of a .ckpt file of the authors' implementation")
    content = unpickle(path, _stand_in)
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise InvalidInput(f"{path}: not a Lightning checkpoint: it has no state_dict")
    return content


def _is_count(value: object) -> bool:
    return isinstance(value, int) and 0 <= value < 2**63


def _settings(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    found = content.get("hyper_parameters")
    settings: Any = vars(found) if isinstance(found, StandIn) else found
    if not isinstance(settings, dict):
        raise InvalidInput(f"{path}: it has no hyper_parameters, so its process and network are unknown")
    for name, value in ASSUMED.items():
        if settings.get(name, value) != value:
            shown = bounds.shown(settings[name])
            raise InvalidInput(f"{path}: {name} is {shown} there, and only {value!r} can be read")
    return settings


def _process(settings: dict[str, Any]) -> Process:
    name = settings["sde_name"]
    if name not in PROCESSES:
        raise ValueError(f"unknown SDE {bounds.shown(name)}; known: {', '.join(PROCESSES)}")
    return PROCESSES[name](*(float(settings[key]) for key in ("gamma", "sigma_min", "sigma_max")))


def _weights(path: Path, content: dict[str, Any]) -> tuple[dict[str, Tensor], bool]:
    """By their names without the prefix, as they are; and whether they are moving averages."""
    state, ema = content["state_dict"], content.get("ema")
    weights: dict[Any, Any] = {
        name.removeprefix(PREFIX) if isinstance(name, str) else name: value for name, value in state.items()
    }
    if ema is not None:
        try:
            averages = list(ema["shadow_params"])
        except (KeyError, TypeError):
            averages = []
        # older releases of torch_ema average only what is trained
        averaged = (list(weights), [name for name in weights if name != FREQUENCIES])
        fitting = [some for some in averaged if len(some) == len(averages)]
        if not fitting:
            raise InvalidInput(f"{path}: its {len(averages)} moving averages do not fit its {len(weights)} weights")
        weights |= zip(fitting[0], averages, strict=True)
    return named(path, weights), ema is not None
