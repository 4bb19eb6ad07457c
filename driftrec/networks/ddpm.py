"""The U-Net of DDPM (Ho, Jain and Abbeel, NeurIPS 2020) in the shape of the public CelebA-HQ weights of SDEdit.

Its modules are called as in that file, so that its state dict fits. It knows nothing of processes or files: it maps
(x, t) to the noise in x.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from driftrec.networks.blocks import conv3x3, double_by_repeating, sinusoid_phases

EPS = 1e-6  # of every GroupNorm


@dataclass(frozen=True)
class DDPMConfig:
    """The shape of the network; by default that of the public CelebA-HQ 256 weights (113.7 M parameters)."""

    image_channels: int = 3
    width: int = 128  # channels of the first level
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4, 4)  # channels of a level, in widths
    blocks: int = 2  # residual blocks per level going down; one more going up
    attention_levels: tuple[int, ...] = (4,)  # of 256 pixels: side 16
    groups: int = 32  # of every GroupNorm

    @property
    def stride(self) -> int:
        """Pixels of the image to a pixel of the lowest level."""
        return 2 ** (len(self.multipliers) - 1)


class DDPM(nn.Module):
    """forward(x, t) -> (B, image_channels, H, W). x: the same, in about [-1, 1], both sides multiples of the config's
    stride; t: (B,) or scalar, 0 to 999. Raises ValueError for other sides.
    """

    def __init__(self, config: DDPMConfig) -> None:
        super().__init__()
        self.config = config
        self.temb = TimeEmbedding(config.width)
        self.conv_in = conv3x3(config.image_channels, config.width)
        self.down, up = nn.ModuleList(), list[UpLevel]()
        skips, channels, last = [config.width], config.width, len(config.multipliers) - 1
        for level, multiplier in enumerate(config.multipliers):
            width = multiplier * config.width
            self.down.append(DownLevel(config, level, channels, width, last=level == last))
            channels = width
            skips += [width] * (config.blocks + (level < last))
        self.mid = Middle(config, channels)
        for level, multiplier in reversed(list(enumerate(config.multipliers))):
            width = multiplier * config.width
            up.append(UpLevel(config, level, channels, [skips.pop() for _ in range(config.blocks + 1)], width))
            channels = width
        self.up = nn.ModuleList(reversed(up))
        self.norm_out = nn.GroupNorm(config.groups, channels, eps=EPS)
        self.conv_out = conv3x3(channels, config.image_channels)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        if any(side % self.config.stride for side in x.shape[-2:]):
            raise ValueError(f"both sides must be multiples of {self.config.stride}, got {tuple(x.shape[-2:])}")
        embedding = self.temb(t.expand(len(x)))
        h = self.conv_in(x)
        skips = [h]
        for level in self.down:
            h = level(h, embedding, skips)
        h = self.mid(h, embedding)
        for level in reversed(self.up):
            h = level(h, embedding, skips)
        return self.conv_out(F.silu(self.norm_out(h)))


class TimeEmbedding(nn.Module):
    """(B,) -> (B, 4 width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.dense = nn.ModuleList([nn.Linear(width, 4 * width), nn.Linear(4 * width, 4 * width)])

    def forward(self, t: Tensor) -> Tensor:
        first, second = self.dense
        return second(F.silu(first(time_features(t, self.width).to(next(self.parameters()).dtype))))


class DownLevel(nn.Module):
    """The blocks of one level, each followed by attention where the level has it; except at the last, halving."""

    def __init__(self, config: DDPMConfig, level: int, channels: int, width: int, last: bool) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            ResidualBlock(config, channels if i == 0 else width, width) for i in range(config.blocks)
        )
        self.attn = attention(config, level, width, config.blocks)
        self.downsample = None if last else Downsample(width)

    def forward(self, h: Tensor, embedding: Tensor, skips: list[Tensor]) -> Tensor:
        """What it gives, and all that was given on the way, is added to `skips`."""
        for i, block in enumerate(self.block):
            h = block(h, embedding)
            h = self.attn[i](h) if self.attn else h
            skips.append(h)
        if self.downsample is not None:
            h = self.downsample(h)
            skips.append(h)
        return h


class Middle(nn.Module):
    """Two blocks at the lowest resolution, attention between them."""

    def __init__(self, config: DDPMConfig, channels: int) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(config, channels, channels)
        self.attn_1 = Attention(config, channels)
        self.block_2 = ResidualBlock(config, channels, channels)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(h, embedding)), embedding)


class UpLevel(nn.Module):
    """The blocks of one level, each fed the matching skip; except at the first level, doubling."""

    def __init__(self, config: DDPMConfig, level: int, channels: int, skip_channels: list[int], width: int) -> None:
        super().__init__()
        inputs = [(channels if i == 0 else width) + skip for i, skip in enumerate(skip_channels)]
        self.block = nn.ModuleList(ResidualBlock(config, n, width) for n in inputs)
        self.attn = attention(config, level, width, len(inputs))
        self.upsample = Upsample(width) if level else None

    def forward(self, h: Tensor, embedding: Tensor, skips: list[Tensor]) -> Tensor:
        for i, block in enumerate(self.block):
            h = block(torch.cat([h, skips.pop()], dim=1), embedding)
            h = self.attn[i](h) if self.attn else h
        return self.upsample(h) if self.upsample is not None else h


class ResidualBlock(nn.Module):
    """Norm, SiLU, conv, + time, norm, SiLU, conv; the sum with the shortcut."""

    def __init__(self, config: DDPMConfig, channels: int, width: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(config.groups, channels, eps=EPS)
        self.conv1 = conv3x3(channels, width)
        self.temb_proj = nn.Linear(4 * config.width, width)
        self.norm2 = nn.GroupNorm(config.groups, width, eps=EPS)
        self.conv2 = conv3x3(width, width)
        self.nin_shortcut = nn.Conv2d(channels, width, 1) if channels != width else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.temb_proj(F.silu(embedding))[..., None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return self.nin_shortcut(x) + h


class Attention(nn.Module):
    """One head over all positions."""

    def __init__(self, config: DDPMConfig, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(config.groups, channels, eps=EPS)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        query, key, value = (layer(h).flatten(2).mT for layer in (self.q, self.k, self.v))  # (B, H W, C)
        h = F.scaled_dot_product_attention(query, key, value).mT.reshape(x.shape)  # scaled by 1 / sqrt(C)
        return x + self.proj_out(h)


class Downsample(nn.Module):
    """Halving: each pixel sees its own four, and the five to their right and below."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Doubling by repetition, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv3x3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(double_by_repeating(x))


def attention(config: DDPMConfig, level: int, channels: int, count: int) -> nn.ModuleList:
    """`count` layers where the level has attention, else none."""
    return nn.ModuleList(Attention(config, channels) for _ in range(count if level in config.attention_levels else 0))


def time_features(t: Tensor, width: int) -> Tensor:
    """(B,) -> (B, width): [sin, cos] of t exp(-ln(10000) i / (width / 2 - 1))."""
    phases = sinusoid_phases(t, width // 2, math.log(10_000) / (width // 2 - 1))
    return torch.cat([phases.sin(), phases.cos()], dim=1)
