"""What the network is made of: residual and gated blocks, attention, norms, resampling, the noise level's embedding."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from driftrec.networks.config import NetworkConfig


class ResidualBlock(nn.Module):
    """BigGAN's block: norm, SiLU, (resample), conv, + embedding, norm, SiLU, conv; the sum with the shortcut is
    multiplied by `scale`.
    """

    def __init__(
        self,
        config: NetworkConfig,
        channels: int,
        width: int,
        resample: Literal["up", "down"] | None = None,
        scale: float = math.sqrt(0.5),
    ) -> None:
        super().__init__()
        self.scale = scale
        self.activation = make_activation(config)
        self.norm1 = make_norm(config, channels)
        self.resample = Resample(config.fir_kernel, resample) if resample else nn.Identity()
        self.conv1 = conv3x3(channels, width)
        self.embed = nn.Linear(4 * config.width, width) if config.conditional else None
        self.norm2 = make_norm(config, width)
        self.dropout = nn.Dropout(config.dropout)
        self.conv2 = conv3x3(width, width)
        for parameter in self.conv2.parameters():
            nn.init.zeros_(parameter)  # a block starts as its shortcut
        self.shortcut = nn.Conv2d(channels, width, 1) if channels != width or resample else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor | None) -> Tensor:
        h = self.conv1(self.resample(self.activation(self.norm1(x))))
        if self.embed is not None:
            h = h + self.embed(embedding)[:, :, None, None]
        h = self.conv2(self.dropout(self.activation(self.norm2(h))))
        return (self.shortcut(self.resample(x)) + h) * self.scale


class GatedBlock(nn.Module):
    """Norm, (resample), 1x1 to twice the width, depth-wise 3x3, + embedding, product of the two halves, 1x1; the sum
    with the shortcut. `embedding`: how many numbers it is told of the noise level, 0 for none.
    """

    def __init__(self, norm: nn.Module, channels: int, width: int, embedding: int, resample: nn.Module | None) -> None:
        super().__init__()
        self.norm = norm
        self.resample = resample or nn.Identity()
        self.widen = nn.Conv2d(channels, 2 * width, 1)
        self.spread = nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width)
        self.embed = nn.Linear(embedding, 2 * width) if embedding else None
        self.narrow = nn.Conv2d(width, width, 1)
        for parameter in self.narrow.parameters():
            nn.init.zeros_(parameter)  # a block starts as its shortcut
        self.shortcut = nn.Conv2d(channels, width, 1) if channels != width or resample else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor | None) -> Tensor:
        h = self.spread(self.widen(self.resample(self.norm(x))))
        if self.embed is not None:
            h = h + self.embed(embedding)[:, :, None, None]
        first, second = h.chunk(2, dim=1)
        return self.shortcut(self.resample(x)) + self.narrow(first * second)


class SelfAttention(nn.Module):
    """One head over all positions of a level."""

    def __init__(self, config: NetworkConfig, channels: int) -> None:
        super().__init__()
        self.norm = make_norm(config, channels)
        self.query, self.key, self.value, self.project = (nn.Conv2d(channels, channels, 1) for _ in range(4))
        nn.init.zeros_(self.project.weight)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        query, key, value = (layer(h).flatten(2).mT for layer in (self.query, self.key, self.value))  # (B, H W, C)
        h = F.scaled_dot_product_attention(query, key, value).mT.reshape(x.shape)
        return (x + self.project(h)) * math.sqrt(0.5)


class PixelNorm(nn.Module):
    """LayerNorm over the channels of each pixel: no statistics cross from one place of the image to another."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class NoiseLevelEmbedding(nn.Module):
    """Gaussian Fourier features of the noise level (Tancik et al. 2020), then two linear layers: (B,) -> (B, 4
    width), SiLU applied.
    """

    frequencies: Tensor

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        frequencies = torch.empty(width)
        if not frequencies.is_meta:  # drawing what takes no memory makes PyTorch load its compiler, for seconds
            frequencies.normal_().mul_(scale)
        self.register_buffer("frequencies", frequencies)
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


class Resample(nn.Module):
    """Halve or double the resolution behind the separable FIR filter (Karras et al. 2020), zeros around the image.

    kernel_taps: the filter along one side, of any sum.
    """

    kernel: Tensor

    def __init__(self, kernel_taps: tuple[int, ...], direction: Literal["up", "down"]) -> None:
        super().__init__()
        self.direction = direction
        taps = torch.tensor(kernel_taps, dtype=torch.float32, device="cpu")
        taps = taps / taps.sum() * (2 if direction == "up" else 1)
        self.register_buffer("kernel", torch.outer(taps, taps), persistent=False)
        self.padding = (len(taps) - 2) // 2
        self.fast = FAST_FILTERS.get((direction, kernel_taps))

    def forward(self, x: Tensor) -> Tensor:
        return self.general(x) if self.fast is None else self.fast(x)

    def general(self, x: Tensor) -> Tensor:
        """Any filter, as a depth-wise convolution."""
        channels = x.shape[1]
        weight = self.kernel.to(x.dtype).expand(channels, 1, -1, -1)
        convolve = F.conv2d if self.direction == "down" else F.conv_transpose2d
        return convolve(x, weight, stride=2, padding=self.padding, groups=channels)


def halve_by_mean(x: Tensor) -> Tensor:
    """Filter (1, 1)."""
    return F.avg_pool2d(x, 2)


def double_by_repeating(x: Tensor) -> Tensor:
    """Filter (1, 1)."""
    return F.interpolate(x, scale_factor=2, mode="nearest")


def double_linearly(x: Tensor) -> Tensor:
    """Filter (1, 3, 3, 1): bilinear interpolation, but for the border, where zeros come in."""
    padded = F.pad(x, (1, 1, 1, 1))
    return F.interpolate(padded, scale_factor=2, mode="bilinear", align_corners=False)[..., 2:-2, 2:-2]


# The same numbers by faster routes: up to 30 times on a CPU in bfloat16 and channels_last.
FAST_FILTERS: dict[tuple[str, tuple[int, ...]], Callable[[Tensor], Tensor]] = {
    ("down", (1, 1)): halve_by_mean,
    ("up", (1, 1)): double_by_repeating,
    ("up", (1, 3, 3, 1)): double_linearly,
}


def make_norm(config: NetworkConfig, channels: int) -> nn.Module:
    """The normalisation that the config names."""
    if config.norm == "none":
        return nn.Identity()
    return PixelNorm(channels) if config.norm == "pixel" else nn.GroupNorm(min(channels // 4, 32), channels, eps=1e-6)


def make_activation(config: NetworkConfig) -> nn.Module:
    """What the config names."""
    return nn.ReLU() if config.activation == "relu" else nn.SiLU()


def make_block(
    config: NetworkConfig,
    channels: int,
    width: int,
    resample: Literal["up", "down"] | None = None,
    scale: float = math.sqrt(0.5),
) -> nn.Module:
    """The block that the config names. `scale` is of the BigGAN's; a gated one's sums are as they are."""
    if config.block == "biggan":
        return ResidualBlock(config, channels, width, resample, scale)
    embedding = 4 * config.width if config.conditional else 0
    filter_ = Resample(config.fir_kernel, resample) if resample else None
    return GatedBlock(make_norm(config, channels), channels, width, embedding, filter_)


def make_attention(config: NetworkConfig, channels: int, level: int, count: int) -> nn.ModuleList:
    """`count` attention layers where the config wants them at this level, else layers that do nothing."""
    here = level in config.attention_levels
    return nn.ModuleList(SelfAttention(config, channels) if here else nn.Identity() for _ in range(count))


def sinusoid_phases(t: Tensor, count: int, decay: float) -> Tensor:
    """(B,) -> (B, count): t exp(-decay i), i from 0 on (Vaswani et al. 2017), in float32."""
    return t[:, None].float() * torch.exp(-decay * torch.arange(count, device=t.device))


def conv3x3(channels: int, width: int) -> nn.Conv2d:
    """(B, channels, H, W) -> (B, width, H, W)."""
    return nn.Conv2d(channels, width, 3, padding=1)


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Repeat the last row and column until both sides are multiples: (B, C, H, W)."""
    height, width = image.shape[-2:]
    return pad_to(image, height + -height % multiple, width + -width % multiple)


def pad_to(image: Tensor, height: int, width: int) -> Tensor:
    """Repeat the last row and column until the sides are these: (B, C, H, W)."""
    below, right = height - image.shape[-2], width - image.shape[-1]
    return F.pad(image, (0, right, 0, below), mode="replicate") if below or right else image
