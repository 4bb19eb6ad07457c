"""A sample's detail on the posterior mean's coarse structure.

JPEG keeps what is coarse and drops what is fine. Where a picture has structure, the mean knows what is coarse better
than a sample does, whose errors there are seen as stains; where it is flat, JPEG dropped all, and the coarse part of a
sample is what fills steps and bands.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from driftrec.jpeg.codec import LUMA

COARSE = 1.0  # pixels: standard deviation of the Gaussian that leaves what is coarse
AROUND = 3.0  # pixels: that of the window in which a place is flat
FLAT = 4 / 255  # deviation of the mean's luma at which a place is flat by 1 / e
REACH = 3.0  # standard deviations at which a window ends


def on_coarse_mean(sample: Tensor, mean: Tensor, weight: float = 1.0) -> Tensor:
    """The sample, but with this share of the mean's coarse structure outside flat places. Both (B, 3, H, W), pixels in
    about [0, 1].
    """
    coarse = blurred(sample - mean, COARSE)
    return sample - weight * (1 - flatness(mean)) * coarse


def flatness(mean: Tensor) -> Tensor:
    """How flat each place is, 1 where nothing deviates, falling to 0: (B, 1, H, W) float32."""
    luma = (mean.float() * torch.tensor(LUMA, device=mean.device).view(3, 1, 1)).sum(dim=1, keepdim=True) - 0.5
    variance = blurred(luma.square(), AROUND) - blurred(luma, AROUND).square()
    return (-variance.clamp(min=0).sqrt() / FLAT).exp()


def blurred(images: Tensor, deviation: float) -> Tensor:
    """(B, C, H, W) under a Gaussian of so many pixels; at the border the last pixel goes on. Term by term, so that the
    result depends neither on the batch nor on the number of threads.
    """
    reach = round(REACH * deviation)
    places = torch.arange(-reach, reach + 1, dtype=torch.float64)
    kernel = (-0.5 * (places / deviation).square()).exp()
    weights: list[float] = (kernel / kernel.sum()).tolist()
    padded = F.pad(images.float(), (reach, reach, reach, reach), mode="replicate")
    height, width = images.shape[-2:]
    rows = sum_of(weights, [padded[..., first : first + height, :] for first in range(len(weights))])
    return sum_of(weights, [rows[..., first : first + width] for first in range(len(weights))])


def sum_of(weights: Sequence[float], terms: Sequence[Tensor]) -> Tensor:
    """Weighted."""
    total = torch.zeros_like(terms[0])
    for weight, term in zip(weights, terms, strict=True):
        total = total.add(term, alpha=weight)
    return total
