"""Similarities that piq computes without learned weights: MS-SSIM, FSIM, VIF and GMSD, each image on its own."""

from collections.abc import Callable

import torch
from torch import Tensor

from driftrec.metrics.planes import check_pair, check_sides


def ms_ssim(reference: Tensor, restored: Tensor) -> Tensor:
    """Multi-scale SSIM (Wang et al. 2003), five scales, gaussian windows of 11x11, on RGB; higher is better.

    Both (B, 3, H, W) in [0, 1], sides of at least 161 -> (B,) float64.
    """
    from piq import multi_scale_ssim

    check_sides(restored, 161, "ms_ssim")
    return _one_by_one(multi_scale_ssim, reference, restored)


def fsim(reference: Tensor, restored: Tensor) -> Tensor:
    """FSIMc (Zhang et al. 2011): phase congruency and gradients of luma, and chroma; higher is better.

    Both (B, 3, H, W) in [0, 1], sides of at least 2 -> (B,) float64. Shorter sides from 384 are averaged down first.
    """
    from piq import fsim as one

    check_sides(restored, 2, "fsim")
    return _one_by_one(one, reference, restored)


def vif(reference: Tensor, restored: Tensor) -> Tensor:
    """Visual information fidelity (Sheikh and Bovik 2006) of luma, in the pixel domain; higher is better.

    Both (B, 3, H, W) in [0, 1], sides of at least 41 -> (B,) float64. Above 1 where contrast was added.
    """
    from piq import vif_p

    check_sides(restored, 41, "vif")
    return _one_by_one(vif_p, restored, reference)  # piq's order; the others are symmetric


def gmsd(reference: Tensor, restored: Tensor) -> Tensor:
    """Gradient magnitude similarity deviation (Xue et al. 2014) of luma at half size; lower is better.

    Both (B, 3, H, W) in [0, 1], sides of at least 6 -> (B,) float64.
    """
    from piq import gmsd as one

    check_sides(restored, 6, "gmsd")
    return _one_by_one(one, reference, restored)


def _one_by_one(metric: Callable[..., Tensor], one: Tensor, other: Tensor) -> Tensor:
    """Image by image: no neighbour in the batch changes the order of sums."""
    pairs = zip(*(image.split(1) for image in check_pair(one, other)), strict=True)
    return torch.cat([metric(x, y, reduction="none") for x, y in pairs])
