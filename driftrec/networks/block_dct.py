"""JPEG's transform over planes, as tensors that gradients go through: each 8x8 block of samples is replaced, in its
place, by its orthonormal DCT-II. Knows no network.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

SIDE = 8  # of a block


def to_samples(coefficients: Tensor) -> Tensor:
    """(..., H, W) coefficients, both sides multiples of 8 -> samples around 0."""
    basis = dct_basis().to(coefficients)
    return joined(basis.T @ blocks(coefficients) @ basis)


def to_coefficients(samples: Tensor) -> Tensor:
    """The inverse of `to_samples`."""
    basis = dct_basis().to(samples)
    return joined(basis @ blocks(samples) @ basis.T)


def doubled(coefficients: Tensor) -> Tensor:
    """(..., H, W) -> (..., 2 H, 2 W): the coefficients of the samples, each of them repeated in both directions."""
    return to_coefficients(to_samples(coefficients).repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2))


def blocks(plane: Tensor) -> Tensor:
    """(..., H, W) -> (..., H / 8, W / 8, 8, 8): a view."""
    return plane.unflatten(-1, (-1, SIDE)).unflatten(-3, (-1, SIDE)).transpose(-3, -2)


def joined(parts: Tensor) -> Tensor:
    """The inverse of `blocks`."""
    return parts.transpose(-3, -2).flatten(-2).flatten(-3, -2)


@cache
def dct_basis() -> Tensor:
    """(8, 8) float64: frequencies by samples; on the CPU, whatever the default device is."""
    n = torch.arange(SIDE, dtype=torch.float64, device="cpu")
    rows = torch.cos(math.pi / SIDE * (n + 0.5) * n[:, None]) * math.sqrt(2 / SIDE)
    rows[0] /= math.sqrt(2)
    return rows
