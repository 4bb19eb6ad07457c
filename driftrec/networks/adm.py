"""ADM (Dhariwal and Nichol, "Diffusion Models Beat GANs on Image Synthesis", NeurIPS 2021), the U-Net of the public
ImageNet-256 weights, which DDRM takes as they are and I2SB trained further.

Its modules are called as in those files, so that a state dict of theirs fits. It knows nothing of processes or files:
it maps (x, t) to what was trained, for DDPM the noise and three channels of its learnt variance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from driftrec.networks.blocks import conv3x3, double_by_repeating, halve_by_mean, sinusoid_phases

Direction = Literal["up", "down"]
RESAMPLE = {"up": double_by_repeating, "down": halve_by_mean}


@dataclass(frozen=True)
class ADMConfig:
    """The shape of an ADM; by default that of the public unconditional ImageNet-256 weights (552.8 M parameters)."""

    image_channels: int = 3  # I2SB: 6 where it also sees the JPEG
    out_channels: int = 6  # the noise and its variance; I2SB: 3
    width: int = 256  # channels of the first level
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4, 4)  # channels of a level, in widths
    blocks: int = 2  # residual blocks per level going down; one more going up
    attention_levels: tuple[int, ...] = (3, 4, 5)  # of 256 pixels: sides 32, 16 and 8
    head_channels: int = 64  # of one head of attention
    groups: int = 32  # of every GroupNorm

    @property
    def stride(self) -> int:
        """Pixels of the image to a pixel of the lowest level."""
        return 2 ** (len(self.multipliers) - 1)


class ADM(nn.Module):
    """forward(x, t) -> (B, out_channels, H, W). x: (B, image_channels, H, W) in about [-1, 1], both sides multiples of
    the config's stride; t: (B,) or scalar, 0 to 999. Raises ValueError for other sides.
    """

    def __init__(self, config: ADMConfig) -> None:
        super().__init__()
        self.config = config
        embedding = 4 * config.width
        self.time_embed = nn.Sequential(nn.Linear(config.width, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.input_blocks = nn.ModuleList([Stage(conv3x3(config.image_channels, config.width))])
        skips, channels, last = [config.width], config.width, len(config.multipliers) - 1
        for level, multiplier in enumerate(config.multipliers):
            for _ in range(config.blocks):
                self.input_blocks.append(stage(config, level, channels, multiplier * config.width))
                channels = multiplier * config.width
                skips.append(channels)
            if level < last:
                self.input_blocks.append(Stage(ResidualBlock(config, channels, channels, "down")))
                skips.append(channels)
        self.middle_block = Stage(
            ResidualBlock(config, channels, channels),
            Attention(config, channels),
            ResidualBlock(config, channels, channels),
        )
        self.output_blocks = nn.ModuleList()
        for level, multiplier in reversed(list(enumerate(config.multipliers))):
            for i in range(config.blocks + 1):
                made = stage(config, level, channels + skips.pop(), multiplier * config.width)
                channels = multiplier * config.width
                if level and i == config.blocks:
                    made.append(ResidualBlock(config, channels, channels, "up"))
                self.output_blocks.append(made)
        self.out = nn.Sequential(
            GroupNorm(config.groups, channels), nn.SiLU(), zeroed(conv3x3(channels, config.out_channels))
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        if any(side % self.config.stride for side in x.shape[-2:]):
            raise ValueError(f"both sides must be multiples of {self.config.stride}, got {tuple(x.shape[-2:])}")
        embedding = self.time_embed(time_features(t.expand(len(x)), self.config.width).to(x.dtype))
        skips: list[Tensor] = []
        for block in self.input_blocks:
            x = block(x, embedding)
            skips.append(x)
        x = self.middle_block(x, embedding)
        for block in self.output_blocks:
            x = block(torch.cat([x, skips.pop()], dim=1), embedding)
        return self.out(x)


class Stage(nn.ModuleList):
    """Layers in a row, of which the residual blocks are told the time."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(layers)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        for layer in self:
            x = layer(x, embedding) if isinstance(layer, ResidualBlock) else layer(x)
        return x


class ResidualBlock(nn.Module):
    """Norm, SiLU, (resample), conv, norm scaled and shifted by the time, SiLU, conv; the sum with the shortcut."""

    def __init__(self, config: ADMConfig, channels: int, width: int, resample: Direction | None = None) -> None:
        super().__init__()
        self.resample = RESAMPLE[resample] if resample else None
        self.in_layers = nn.Sequential(GroupNorm(config.groups, channels), nn.SiLU(), conv3x3(channels, width))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(4 * config.width, 2 * width))
        self.out_layers = nn.Sequential(
            GroupNorm(config.groups, width), nn.SiLU(), nn.Identity(), zeroed(conv3x3(width, width))
        )  # the identity is a dropout there, of share 0
        self.skip_connection = nn.Conv2d(channels, width, 1) if channels != width else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.in_layers[:2](x)
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.in_layers[2](h)
        scale, shift = self.emb_layers(embedding)[..., None, None].chunk(2, dim=1)
        h = self.out_layers[0](h) * (1 + scale) + shift
        return self.skip_connection(x) + self.out_layers[1:](h)


class Attention(nn.Module):
    """Over all positions, in heads: the rows of qkv are [head][query, key, value][channel]."""

    def __init__(self, config: ADMConfig, channels: int) -> None:
        super().__init__()
        self.head_channels = config.head_channels
        self.norm = GroupNorm(config.groups, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        heads = self.qkv(self.norm(x).flatten(2)).unflatten(1, (-1, 3 * self.head_channels))  # (B, heads, 3 C, H W)
        query, key, value = heads.mT.chunk(3, dim=3)
        h = F.scaled_dot_product_attention(query, key, value).mT.flatten(1, 2)  # scaled by 1 / sqrt(C)
        return x + self.proj_out(h).unflatten(2, x.shape[2:])


class GroupNorm(nn.GroupNorm):
    """Computed in float32, whatever the network computes in."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        weight, bias = self.weight.float(), self.bias.float()
        return F.group_norm(input.float(), self.num_groups, weight, bias, self.eps).to(input.dtype)


def stage(config: ADMConfig, level: int, channels: int, width: int) -> Stage:
    """A residual block, and attention where the level has it."""
    block = ResidualBlock(config, channels, width)
    return Stage(block, Attention(config, width)) if level in config.attention_levels else Stage(block)


def zeroed(layer: nn.Conv1d | nn.Conv2d) -> nn.Module:
    """A layer that at first says nothing."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def time_features(t: Tensor, width: int) -> Tensor:
    """(B,) -> (B, width): [cos, sin] of t exp(-ln(10000) i / (width / 2))."""
    phases = sinusoid_phases(t, width // 2, math.log(10_000) / (width // 2))
    return torch.cat([phases.cos(), phases.sin()], dim=1)
