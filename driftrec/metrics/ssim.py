"""Structural similarity as scikit-image computes it, to 1e-6: mean over valid windows and over channels.

Three recipes are in use and differ in the third digit, so each has its own name: `ssim` (uniform 7x7
windows with sample covariance, scikit-image's default), `ssim9` (the same with 9x9, as the DriftRec paper's
authors call it) and `ssim_gaussian` (sigma 1.5, 11x11, population covariance: Wang et al. 2004).
"""

import math

import torch
from torch import Tensor

from driftrec.metrics.planes import check_pair, plane_means

C1 = 0.01**2  # Wang et al. 2004, K1 = 0.01, peak 1
C2 = 0.03**2  # K2 = 0.03
SIGMA, RADIUS = 1.5, 5  # Wang et al. 2004: an 11x11 window


def ssim(reference: Tensor, restored: Tensor) -> Tensor:
    """SSIM, uniform 7x7 windows. Both (B, 3, H, W) in [0, 1], sides of at least 7 -> (B,) float64."""
    return _uniform(reference, restored, 7)


def ssim9(reference: Tensor, restored: Tensor) -> Tensor:
    """SSIM, uniform 9x9 windows. Both (B, 3, H, W) in [0, 1], sides of at least 9 -> (B,) float64."""
    return _uniform(reference, restored, 9)


def ssim_gaussian(reference: Tensor, restored: Tensor) -> Tensor:
    """SSIM, gaussian 11x11 windows. Both (B, 3, H, W) in [0, 1], sides of at least 11 -> (B,) float64."""
    weights = [math.exp(-0.5 * (x / SIGMA) ** 2) for x in range(-RADIUS, RADIUS + 1)]
    return _ssim(reference, restored, [w / sum(weights) for w in weights], unbias=1.0)


def _uniform(reference: Tensor, restored: Tensor, window: int) -> Tensor:
    n = window**2
    return _ssim(reference, restored, [1 / window] * window, unbias=n / (n - 1))


def _ssim(reference: Tensor, restored: Tensor, weights: list[float], unbias: float) -> Tensor:
    reference, restored = check_pair(reference, restored)
    if min(reference.shape[2:]) < len(weights):
        raise ValueError(f"SSIM needs sides of at least {len(weights)} here, got {tuple(reference.shape[2:])}")
    # Image by image: the maps of one image stay in the processor's cache, those of a batch do not.
    pairs = zip(reference[:, None], restored[:, None], strict=True)
    return torch.cat([_one(x, y, weights, unbias) for x, y in pairs])


def _one(x: Tensor, y: Tensor, weights: list[float], unbias: float) -> Tensor:
    """Both (1, 3, H, W) -> (1,): eq. 13 of Wang et al. The variances occur only summed: four filters do."""
    mean_x, mean_y = _filter(x, weights), _filter(y, weights)
    mean_xy, mean_squares = mean_x * mean_y, mean_x.square() + mean_y.square()
    covariance = unbias * (_filter(x * y, weights) - mean_xy)
    variances = unbias * (_filter(x.square() + y.square(), weights) - mean_squares)
    similarity = (2 * mean_xy + C1) * (2 * covariance + C2) / ((mean_squares + C1) * (variances + C2))
    return plane_means(similarity).mean(dim=1)


def _filter(planes: Tensor, weights: list[float]) -> Tensor:
    """Separable weighted mean at the valid positions: (..., H, W) -> (..., H - n + 1, W - n + 1)."""
    for dim in (-2, -1):
        size = planes.shape[dim] - len(weights) + 1
        total = planes.narrow(dim, 0, size) * weights[0]
        for start, weight in enumerate(weights[1:], start=1):
            total.add_(planes.narrow(dim, start, size), alpha=weight)
        planes = total
    return planes
