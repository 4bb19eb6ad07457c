"""Layers that the network is made of and that know nothing of its config: the noise level, and a pixel's norm."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class NoiseLevelEmbedding(nn.Module):
    """Gaussian Fourier features of the noise level (Tancik et al. 2020), then two linear layers: (B,) -> (B, 4
    width), SiLU applied.
    """

    frequencies: Tensor

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(width) * scale)
        self.first = nn.Linear(2 * width, 4 * width)
        self.second = nn.Linear(4 * width, 4 * width)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Follows every move and cast of the module, except that the frequencies stay in float32: rounded to bfloat16
        they are off by a part of a radian at high frequencies.
        """
        exact = self.frequencies
        super()._apply(fn, recurse)
        self.frequencies = exact.to(self.frequencies.device)
        return self

    def forward(self, noise_level: Tensor) -> Tensor:
        phase = 2 * math.pi * noise_level[:, None].float() * self.frequencies
        features = torch.cat([phase.sin(), phase.cos()], dim=1).to(self.first.weight.dtype)
        return F.silu(self.second(F.silu(self.first(features))))


class PixelNorm(nn.Module):
    """LayerNorm over the channels of each pixel: no statistics cross from one place of the image to another."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
