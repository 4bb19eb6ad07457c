"""Where the weights of learned metrics are found, how they are read, and, if one asks for it, fetched."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from driftrec.errors import InvalidInput
from driftrec.models.download import download
from driftrec.models.tensors import file_sha256, fitting, read


@dataclass(frozen=True)
class Published:
    """A file of weights as its publisher names it."""

    files: tuple[str, ...]  # any of them will do
    where: str  # who publishes it, or what makes it
    base: str = ""  # URL of the folder that holds it; "" where it is made

    @property
    def url(self) -> str:
        """Of the file that is fetched, the first; "" where it is made."""
        return self.base and f"{self.base}/{self.files[0]}"


TORCHVISION = "torchvision's weights on PyTorch's server, download.pytorch.org/models"
TORCHVISION_URL = "https://download.pytorch.org/models"
STANDINS = "the recipe of the stand-ins, python -m recipes.standins"

WEIGHTS: dict[str, Published] = {  # by metric, or by the features that set metrics share
    "lpips": Published(("alexnet-owt-7be5be79.pth",), TORCHVISION, TORCHVISION_URL),
    "lpips_vgg": Published(("vgg16-397923af.pth",), TORCHVISION, TORCHVISION_URL),
    "lpips_squeezenet": Published(("squeezenet1_1.safetensors",), STANDINS),
    "dists": Published(("vgg16-397923af.pth",), TORCHVISION, TORCHVISION_URL),
    "brisque": Published(
        ("brisque_svm_weights.pt",),
        "the release 0.4.0 of piq on GitHub (photosynthesis-team/piq)",
        "https://github.com/photosynthesis-team/piq/releases/download/v0.4.0",
    ),
    "inception": Published(
        ("pt_inception-2015-12-05-6726825d.pth",),
        "the releases of pytorch-fid on GitHub (mseitzer/pytorch-fid)",
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights",
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

    files = tuple(version.url.rpartition("/")[2] for version in get_model_weights(name))
    return Published(files, TORCHVISION, TORCHVISION_URL)


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
    if found := _in_folder(wanted):
        return found
    way = f"fetch it by `driftrec weights fetch {name}`, " if wanted.url else ""
    raise InvalidInput(
        f"{name} needs {' or '.join(wanted.files)}, published by {wanted.where}; {way}"
        f"give it by --weights {name}=PATH, or put it into {folder()} (TORCH_HOME)"
    )


def folder() -> Path:
    """Where files are looked for, and fetched to: below TORCH_HOME, as PyTorch has it."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def fetch(name: str) -> Path:
    """The file of a name in `folder()`, fetched from its publisher unless it is there.

    Raises InvalidInput where it is not published but made, cannot be fetched, or is not what its name says: a file is
    named after the beginning of its sha256.
    """
    wanted = published(name)
    if found := _in_folder(wanted):
        return found
    if not wanted.url:
        raise InvalidInput(f"{name}: its weights are made, not fetched: by {wanted.where}")
    file, url = wanted.files[0], wanted.url
    folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder()) as here:
        download(url, part := Path(here) / file, f"weights {url}")
        found, told = file_sha256(part), sha256_of(file)
        if not found.startswith(told):
            raise InvalidInput(f"weights {url}: its sha256 should begin with {told}, and is {found}; fetch it again")
        part.replace(folder() / file)
    return folder() / file


def told(name: str) -> dict[str, str | None]:
    """A file of WEIGHTS, as JSON types; `path` is null if it is not here; of `sha256` the beginning, or null."""
    wanted, found = WEIGHTS[name], _in_folder(WEIGHTS[name])
    return {
        "name": name,
        "file": " or ".join(wanted.files),
        "path": str(found) if found else None,
        "url": wanted.url or None,
        "sha256": sha256_of(wanted.files[0]) or None,
        "from": wanted.where,
    }


def sha256_of(file: str) -> str:
    """The beginning of a file's sha256, as its name tells; "" if it tells none."""
    found = re.search(r"-([0-9a-f]{8})\.", file)
    return found[1] if found else ""


def _in_folder(wanted: Published) -> Path | None:
    return next((folder() / file for file in wanted.files if (folder() / file).is_file()), None)


def fill(network: nn.Module, path: Path) -> None:
    """Loads a file's weights into a network and makes it ready to use. Raises InvalidInput where they do not fit."""
    network.load_state_dict(fitting(path, read(path), network.state_dict()))
    network.eval().requires_grad_(False)
