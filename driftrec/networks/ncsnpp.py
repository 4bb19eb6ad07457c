"""NCSN++ (Song et al., ICLR 2021), the U-Net that estimates what is under the noise. One class; the paper's model and
the small CPU model are two configs.

Plain PyTorch: the FIR resampling is a depth-wise convolution. Any input size: what an even size lacks is added inside
at the right and the bottom, so that the JPEG grid stays where it was. The network knows nothing of processes or
losses: it maps (x, y, noise level) to 3 channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from driftrec.networks.blocks import (
    NoiseLevelEmbedding,
    Resample,
    SelfAttention,
    conv3x3,
    make_activation,
    make_attention,
    make_block,
    make_norm,
    pad_to,
)
from driftrec.networks.config import COLOURS, MCU, NetworkConfig
from driftrec.networks.estimates import SmallCoefficients
from driftrec.networks.network import Network


class NCSNpp(Network):
    """forward(x, y, noise_level) -> (B, 3, H, W). x: the (scaled) process state, y: the JPEG, both (B, 3, H, W);
    noise_level: (B,) or scalar. A network that is not conditional looks at y alone.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = NoiseLevelEmbedding(config.width, config.fourier_scale) if config.conditional else None
        self.estimates = SmallCoefficients(config.estimates) if config.estimates else None
        self.input = conv3x3(config.image_channels, config.width)
        side = MCU // config.stem
        self.grid = nn.Parameter(torch.zeros(config.width, side, side)) if config.grid else None
        self.down = nn.ModuleList()
        self.up = nn.ModuleList()
        skips, channels, levels = [config.width], config.width, len(config.multipliers)
        for level, multiplier in enumerate(config.multipliers):
            stage = DownLevel(config, channels, multiplier * config.width, level, last=level == levels - 1)
            channels = multiplier * config.width
            skips += stage.skip_channels
            self.down.append(stage)
        self.middle = Middle(config, channels)
        for level, multiplier in reversed(list(enumerate(config.multipliers))):
            taken = [skips.pop() for _ in range(config.blocks + 1)]
            self.up.append(UpLevel(config, channels, taken, multiplier * config.width, level))
            channels = multiplier * config.width
        if config.pyramid:
            self.output = nn.Conv2d(config.image_channels, COLOURS * config.stem**2, 1)
        else:
            self.output = nn.Sequential(
                make_norm(config, channels), make_activation(config), conv3x3(channels, COLOURS * config.stem**2)
            )

    def forward(self, x: Tensor, y: Tensor, noise_level: Tensor) -> Tensor:
        height, width = y.shape[-2:]
        image = torch.cat([x, y], dim=1) if self.config.conditional else y
        image = pad_to(image, self.config.padded(height), self.config.padded(width))
        if self.estimates is not None:
            image = torch.cat([image, self.estimates(image[:, -COLOURS:])], dim=1)
        image = F.pixel_unshuffle(image, self.config.stem) if self.config.stem > 1 else image
        embedding = self.embedding(noise_level.expand(len(y))) if self.embedding is not None else None
        h = self.input(image)
        if self.grid is not None:
            h = h + tiled(self.grid, *h.shape[-2:]).to(h)
        skips = [h]
        for stage in self.down:
            h, image = stage(h, embedding, image, skips)
        h = self.middle(h, embedding)
        total: Tensor | None = None
        for stage in self.up:
            h, total = stage(h, embedding, skips, total)
        h = self.output(h if total is None else total)
        h = F.pixel_shuffle(h, self.config.stem) if self.config.stem > 1 else h
        return h[..., :height, :width]


class DownLevel(nn.Module):
    """The blocks of one level, then, except at the last, a halving block that also takes in the shrunken input."""

    def __init__(self, config: NetworkConfig, channels: int, width: int, level: int, last: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            make_block(config, channels if i == 0 else width, width) for i in range(config.blocks)
        )
        self.attention = make_attention(config, width, level, config.blocks)
        self.downsample = None if last else make_block(config, width, width, resample="down")
        self.shrink = Resample(config.fir_kernel, "down") if config.pyramid and not last else None
        self.take_in = nn.Conv2d(config.image_channels, width, 1) if config.pyramid and not last else None
        self.skip_channels = [width] * (config.blocks + (not last))

    def forward(self, h: Tensor, embedding: Tensor | None, image: Tensor, skips: list[Tensor]) -> tuple[Tensor, Tensor]:
        for block, attention in zip(self.blocks, self.attention, strict=True):
            h = attention(block(h, embedding))
            skips.append(h)
        if self.downsample is not None:
            h = self.downsample(h, embedding)
            if self.shrink is not None and self.take_in is not None:
                image = self.shrink(image)
                h = self.take_in(image) + h
            skips.append(h)
        return h, image


class Middle(nn.Module):
    """Two blocks at the lowest resolution, attention between them."""

    def __init__(self, config: NetworkConfig, channels: int) -> None:
        super().__init__()
        self.first = make_block(config, channels, channels)
        self.attention = SelfAttention(config, channels) if config.attention_middle else nn.Identity()
        self.second = make_block(config, channels, channels)

    def forward(self, h: Tensor, embedding: Tensor | None) -> Tensor:
        return self.second(self.attention(self.first(h, embedding)), embedding)


class UpLevel(nn.Module):
    """The blocks of one level, each fed the matching skip; the level's share of the output; then, except at the first
    level, a doubling block.
    """

    def __init__(self, config: NetworkConfig, channels: int, skip_channels: list[int], width: int, level: int) -> None:
        super().__init__()
        inputs = [(channels if i == 0 else width) + skip for i, skip in enumerate(skip_channels)]
        self.blocks = nn.ModuleList(make_block(config, n, width) for n in inputs)
        count = config.extra[level] if level < len(config.extra) else 0
        self.extra = nn.ModuleList(make_block(config, width, width, scale=1.0) for _ in range(count))
        self.attention = make_attention(config, width, level, 1)
        self.grow = Resample(config.fir_kernel, "up") if config.pyramid else None
        self.give = (
            nn.Sequential(make_norm(config, width), nn.SiLU(), conv3x3(width, config.image_channels))
            if config.pyramid
            else None
        )
        self.upsample = make_block(config, width, width, resample="up") if level > 0 else None

    def forward(
        self, h: Tensor, embedding: Tensor | None, skips: list[Tensor], total: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        for block in self.blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), embedding)
        for block in self.extra:
            h = block(h, embedding)
        h = self.attention[0](h)
        if self.give is not None and self.grow is not None:
            total = self.give(h) if total is None else pad_to(self.grow(total), *h.shape[-2:]) + self.give(h)
        if self.upsample is not None:
            h = pad_to(self.upsample(h, embedding), *skips[-1].shape[-2:])
        return h, total


def tiled(grid: Tensor, height: int, width: int) -> Tensor:
    """(C, side, side) repeated from the corner on -> (C, height, width)."""
    rows, columns = (-(-length // grid.shape[-1]) for length in (height, width))
    return grid.repeat(1, rows, columns)[:, :height, :width]


def parameter_count(network: nn.Module) -> int:
    """Learned numbers; the paper network's 65.6 M count its 128 fixed Fourier frequencies too."""
    return sum(p.numel() for p in network.parameters())
