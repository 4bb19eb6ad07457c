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


def load_lpips(path: Path, backbone: str = "alex", calibrated: bool = True) -> PairMetric:
    """LPIPS on the backbone "alex", "vgg" or "squeeze"; `path`: torchvision's weights of it. Not calibrated it is a
    stand-in: without heads, so that every channel counts alike. Raises InvalidInput where the weights do not fit.
    """
    import lpips

    with warnings.catch_warnings():  # torchvision's, about how the package calls it
        warnings.simplefilter("ignore", UserWarning)
        network = lpips.LPIPS(net=backbone, lpips=calibrated, pnet_rand=True, verbose=False)  # no download
    network.requires_grad_(False)
    fill_slices(network.get_submodule("net"), path)

    def distance(reference: Tensor, restored: Tensor) -> Tensor:
        """Both (B, 3, H, W) floats in [0, 1] -> (B,) float64. One by one: no image's value depends on its batch."""
        reference, restored = (image.float() for image in check_pair(reference, restored))
        network.to(reference.device)
        pairs = zip(reference.split(1), restored.split(1), strict=True)
        with torch.inference_mode():
            return torch.cat([network(x, y, normalize=True).flatten() for x, y in pairs]).double()

    return distance


def fill_slices(backbone: nn.Module, path: Path) -> None:
    """Loads torchvision's `features` into the package's slices of them."""
    slices = backbone.state_dict()
    torchvisions = {name: "features." + name.partition(".")[2] for name in slices}  # slice2.3.weight: features.3.weight
    found = {name: value for name, value in read(path).items() if name.startswith("features.")}
    found = fitting(path, found, {torchvisions[name]: value for name, value in slices.items()})
    backbone.load_state_dict({name: found[torchvisions[name]] for name in slices})
