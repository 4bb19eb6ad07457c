"""Where the weights of learned metrics are found, and how they are read. Nothing is downloaded here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from driftrec.errors import InvalidInput
from driftrec.models.tensors import fitting, read


@dataclass(frozen=True)
class Published:
    """A file of weights as its publisher names it."""

    files: tuple[str, ...]  # any of them will do
    where: str  # who publishes it, or what makes it


TORCHVISION = "torchvision's weights on PyTorch's server, download.pytorch.org/models"
STANDINS = "the recipe of the stand-ins, python -m recipes.standins"

WEIGHTS: dict[str, Published] = {  # by metric, or by the features that set metrics share
    "lpips": Published(("alexnet-owt-7be5be79.pth",), TORCHVISION),
    "lpips_vgg": Published(("vgg16-397923af.pth",), TORCHVISION),
    "lpips_squeezenet": Published(("squeezenet1_1.safetensors",), STANDINS),
    "dists": Published(("vgg16-397923af.pth",), TORCHVISION),
    "brisque": Published(("brisque_svm_weights.pt",), "the release 0.4.0 of piq on GitHub (photosynthesis-team/piq)"),
    "inception": Published(
        ("pt_inception-2015-12-05-6726825d.pth",), "the releases of pytorch-fid on GitHub (mseitzer/pytorch-fid)"
    ),
    "mobilenet": Published(("mobilenet_v2.safetensors", "mobilenet_v2-b0353104.pth"), STANDINS),
}


def published(name: str) -> Published:
    """The file of a metric, of features (both by WEIGHTS) or of any classifier of torchvision.

    Raises InvalidInput where the name is none of these.
    """
    if name in WEIGHTS:
        return WEIGHTS[name]
    if name not in classifiers():
        raise InvalidInput(f"no weights are called {name!r}; there are {', '.join((*WEIGHTS, *classifiers()))}")
    from torchvision.models import get_model_weights

    return Published(tuple(version.url.rpartition("/")[2] for version in get_model_weights(name)), TORCHVISION)


def classifiers() -> list[str]:
    """The names of torchvision's classifiers."""
    import torchvision

    return torchvision.models.list_models(module=torchvision.models)


def find_weights(name: str, given: Mapping[str, str]) -> Path:
    """The weights file of a metric, of features or of a classifier: the given one, else one in TORCH_HOME.

    Args:
        name: a key of WEIGHTS, or a classifier of torchvision.
        given: what the user gave by --weights NAME=PATH; local paths only.

    Raises InvalidInput, naming the file, its publisher and the flag, where there is none.
    """
    wanted = published(name)
    if name in given:
        if not Path(given[name]).is_file():
            raise InvalidInput(f"--weights {name}={given[name]}: no such file")
        return Path(given[name])
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    for file in wanted.files:
        if (folder / file).is_file():
            return folder / file
    raise InvalidInput(
        f"{name} needs {' or '.join(wanted.files)}, published by {wanted.where}; "
        f"give it by --weights {name}=PATH, or put it into {folder} (TORCH_HOME)"
    )


def fill(network: nn.Module, path: Path) -> None:
    """Loads a file's weights into a network and makes it ready to use. Raises InvalidInput where they do not fit."""
    network.load_state_dict(fitting(path, read(path), network.state_dict()))
    network.eval().requires_grad_(False)
