"""LPIPS (Zhang et al. 2018) by the `lpips` package: its calibrated heads on a backbone whose weights the user gives."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from driftrec.metrics.planes import check_pair
from driftrec.models.tensors import fitting, read

PairMetric = Callable[[Tensor, Tensor], Tensor]


def load_lpips(path: Path) -> PairMetric:
    """LPIPS, AlexNet backbone; `path`: torchvision's AlexNet."""
    return _pair_metric("alex", path, calibrated=True)


def load_lpips_vgg(path: Path) -> PairMetric:
    """LPIPS, VGG16 backbone; `path`: torchvision's VGG16."""
    return _pair_metric("vgg", path, calibrated=True)


def load_lpips_squeezenet(path: Path) -> PairMetric:
    """A stand-in for LPIPS: SqueezeNet 1.1 without heads, so that every channel counts alike. `path`: torchvision's."""
    return _pair_metric("squeeze", path, calibrated=False)


def _pair_metric(backbone: str, path: Path, calibrated: bool) -> PairMetric:
    network = lpips_network(backbone, calibrated)
    fill_backbone(network, path)

    def distance(reference: Tensor, restored: Tensor) -> Tensor:
        """Both (B, 3, H, W) floats in [0, 1] -> (B,) float64. One by one: no image's value depends on its batch."""
        reference, restored = (image.float() for image in check_pair(reference, restored))
        network.to(reference.device)
        pairs = zip(reference.split(1), restored.split(1), strict=True)
        with torch.inference_mode():
            return torch.cat([network(x, y, normalize=True).flatten() for x, y in pairs]).double()

    return distance


def lpips_network(backbone: str, calibrated: bool) -> nn.Module:
    """The package's network with a random backbone, hence without a download."""
    import lpips

    with warnings.catch_warnings():  # torchvision's, about how the package calls it
        warnings.simplefilter("ignore", UserWarning)
        return lpips.LPIPS(net=backbone, lpips=calibrated, pnet_rand=True, verbose=False).requires_grad_(False)


def fill_backbone(network: nn.Module, path: Path) -> None:
    """Loads torchvision's `features` into the package's slices. Raises InvalidInput where they do not fit."""
    backbone = network.get_submodule("net")
    slices = backbone.state_dict()
    torchvisions = {name: "features." + name.partition(".")[2] for name in slices}  # slice2.3.weight: features.3.weight
    found = {name: value for name, value in read(path).items() if name.startswith("features.")}
    found = fitting(path, found, {torchvisions[name]: value for name, value in slices.items()})
    backbone.load_state_dict({name: found[torchvisions[name]] for name in slices})
