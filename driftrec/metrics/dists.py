"""DISTS (Ding et al. 2020): structure and texture of VGG16's features, weighted as the package `dists-pytorch` says."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from driftrec.errors import InvalidInput
from driftrec.metrics.features import IMAGENET_MEAN, IMAGENET_STD
from driftrec.metrics.lpips import PairMetric
from driftrec.metrics.planes import check_pair
from driftrec.models.tensors import fitting, read

ENDS = (3, 8, 15, 22, 29)  # of VGG16's `features`, where the five stages end
CHANNELS = (3, 64, 128, 256, 512, 512)  # of the image itself and of the stages
C = 1e-6  # both constants of eq. 5
PACKAGE, WEIGHTING = "DISTS_pytorch", "weights.pt"


def load_dists(path: Path, weighting: Path | None = None) -> PairMetric:
    """DISTS, lower is better; images at their own size.

    Args:
        path: torchvision's weights of VGG16.
        weighting: the learnt alpha and beta, (1, 1475, 1, 1) each; None: those of the package.

    Raises InvalidInput where a file does not fit, or the package is not installed.
    """
    network, (alpha, beta) = load_stages(path), load_weighting(weighting or packaged_weighting())

    def distance(reference: Tensor, restored: Tensor) -> Tensor:
        """Both (B, 3, H, W) floats in [0, 1] -> (B,) float64. One by one: no image's value depends on its batch."""
        reference, restored = (image.float() for image in check_pair(reference, restored))
        network.to(reference.device)
        weights = alpha.to(reference.device), beta.to(reference.device)
        pairs = zip(reference.split(1), restored.split(1), strict=True)
        with torch.inference_mode():
            return torch.stack([1 - similarity(features(network, x), features(network, y), *weights) for x, y in pairs])

    return distance


def similarity(x: list[Tensor], y: list[Tensor], alpha: Tensor, beta: Tensor) -> Tensor:
    """Weighted mean over all channels of texture (means) and structure (covariances): eqs. 5 to 7. Scalar, float64."""
    maps = list(zip(x, y, strict=True))
    texture = torch.cat([_agreement(_mean(a) * _mean(b), _mean(a) ** 2, _mean(b) ** 2) for a, b in maps])
    structure = torch.cat([_agreement(_moment(a, b), _moment(a, a), _moment(b, b)) for a, b in maps])
    return ((alpha * texture).sum() + (beta * structure).sum()) / (alpha.sum() + beta.sum())


def _agreement(both: Tensor, one: Tensor, other: Tensor) -> Tensor:
    return (2 * both + C) / (one + other + C)


def _mean(maps: Tensor) -> Tensor:
    """(1, C, H, W) -> (C,) float64."""
    return maps[0].double().mean(dim=(1, 2))


def _moment(a: Tensor, b: Tensor) -> Tensor:
    """The covariance of two sets of maps, channel by channel. Both (1, C, H, W) -> (C,) float64."""
    a, b = (maps[0].double().flatten(1) for maps in (a, b))
    return ((a - a.mean(dim=1, keepdim=True)) * (b - b.mean(dim=1, keepdim=True))).mean(dim=1)


def features(network: nn.Sequential, image: Tensor) -> list[Tensor]:
    """(1, 3, H, W) in [0, 1] -> the image, and what the five stages make of it: (1, CHANNELS, H, W), ever smaller."""
    mean, std = (image.new_tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    found, maps = [image], (image - mean) / std
    for place, layer in enumerate(network):
        maps = layer(maps)
        if place in ENDS:
            found.append(maps)
    return found


class L2Pool(nn.Module):
    """The root of a weighted mean of squares over 3x3, at every second place (eq. 2): it stands where VGG16 takes the
    largest.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, ceil(H / 2), ceil(W / 2))."""
        window = maps.new_tensor([0.25, 0.5, 0.25])  # Hann's
        kernel = torch.outer(window, window).expand(maps.shape[1], 1, 3, 3)
        return (F.conv2d(maps.square(), kernel, stride=2, padding=1, groups=maps.shape[1]) + 1e-12).sqrt()


def load_stages(path: Path) -> nn.Sequential:
    """VGG16 up to its last stage, with the weights of torchvision's file. Raises InvalidInput where they do not fit."""
    from torchvision.models import vgg16

    layers = list(vgg16(weights=None).features.children())[: ENDS[-1] + 1]
    network = nn.Sequential(*(L2Pool() if isinstance(layer, nn.MaxPool2d) else layer for layer in layers))
    expected = {f"features.{name}": value for name, value in network.state_dict().items()}
    found = {name: value for name, value in read(path).items() if name.startswith("features.")}
    weights = fitting(path, found, expected)
    network.load_state_dict({name.removeprefix("features."): value for name, value in weights.items()})
    return network.eval().requires_grad_(False)


def load_weighting(path: Path) -> tuple[Tensor, Tensor]:
    """The learnt alpha and beta, (1475,) float64 each. Raises InvalidInput where the file holds something else."""
    expected = {name: torch.empty(1, sum(CHANNELS), 1, 1) for name in ("alpha", "beta")}
    found = fitting(path, read(path), expected)
    return found["alpha"].double().flatten(), found["beta"].double().flatten()


def packaged_weighting() -> Path:
    """The package's file; none of its code runs. Raises InvalidInput where it is not installed."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise InvalidInput("dists needs its learnt weighting, which the package dists-pytorch brings: install that")
    return Path(spec.origin).with_name(WEIGHTING)
