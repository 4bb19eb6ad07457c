"""NCSN++ (Song et al., ICLR 2021), the U-Net that estimates what is under the noise. One class; the paper's model and
the small CPU model are two configs.

Plain PyTorch: the FIR resampling is a depth-wise convolution. Any input size: what an even size lacks is added inside
at the right and the bottom, so that the JPEG grid stays where it was. The network knows nothing of processes or
losses: it maps (x, y, noise level) to 3 channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_type_hints

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from driftrec import bounds
from driftrec.networks.estimates import SmallCoefficients
from driftrec.networks.gated import GatedBlock
from driftrec.networks.layers import NoiseLevelEmbedding, PixelNorm
from driftrec.networks.resample import Resample

COLOURS = 3
# lowest, highest, and how many at most: far above every network that is of use, far below what a machine cannot hold
LISTS = {
    "multipliers": (1, 64, 10),
    "extra": (0, 32, 10),
    "attention_levels": (0, 9, 10),
    "fir_kernel": (-1000, 1000, 16),
    "estimates": (1, 255, 8),
}
MCU = 16  # pixels: the side of what 4:2:0 codes together


@dataclass(frozen=True)
class NetworkConfig:
    """The shape of a network. Level k works at 1 / (stem * 2^k) of the image's resolution."""

    width: int = 128  # channels of the first level
    conditional: bool = True  # sees a process state and its noise level beside the JPEG; off: the JPEG alone
    # False: halving drops the last row or column of an odd size, doubling repeats the one before it
    pad_input: bool = True  # fill sides up to multiples of `stride`; off: as the authors do
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 2, 2, 2)  # channels of a level, in widths
    blocks: int = 2  # residual blocks per level going down; one more going up
    # their sums are not divided by sqrt(2): new ones change nothing in a trained network
    extra: tuple[int, ...] = ()  # further blocks going up, by level
    stem: int = 1  # pixels of stem x stem become channels before the first convolution
    attention_levels: tuple[int, ...] = (4,)  # levels whose blocks are followed by self-attention
    attention_middle: bool = True  # self-attention at the lowest level, between its two blocks
    norm: Literal["group", "pixel", "none"] = "group"  # over the whole image, or the channels of each pixel
    activation: Literal["silu", "relu"] = "silu"  # between convolutions
    block: Literal["biggan", "gated"] = "biggan"  # BigGAN's residual blocks, or NAFNet's
    estimates: tuple[int, ...] = ()  # thresholds, levels of 255: what a DCT filter would take away is an input, too
    grid: bool = False  # where a pixel lies in the JPEG's MCU of 16x16 is learnt; the stem must divide 16
    pyramid: bool = True  # every level sees the shrunken input, and its output is summed (input_skip, output_skip)
    fir_kernel: tuple[int, ...] = (1, 3, 3, 1)  # low-pass filter of the resampling; (1, 1) is a 2x2 mean
    fourier_scale: float = 16.0  # standard deviation of the noise level's Fourier frequencies
    dropout: float = 0.0  # share of activations left out in training

    @classmethod
    def paper(cls) -> NetworkConfig:
        """The 65.6 M parameter network of the paper (Section IV-A)."""
        return cls()

    @classmethod
    def tiny(cls) -> NetworkConfig:
        """The network for CPUs. Without attention and with norms a pixel wide its output depends on a bounded
        neighbourhood only.
        """
        return cls(
            width=64,
            multipliers=(1, 2, 2),
            blocks=1,
            extra=(3, 2),
            stem=2,
            attention_levels=(),
            attention_middle=False,
            norm="pixel",
            pyramid=False,
            fir_kernel=(1, 1),
            fourier_scale=1.0,
        )

    def __post_init__(self) -> None:
        for name, (low, high, most) in LISTS.items():
            bounds.integers(name, getattr(self, name), low, high, most)
            object.__setattr__(self, name, tuple(getattr(self, name)))  # lists come from JSON and YAML
        for name in ("conditional", "pad_input", "attention_middle", "pyramid", "grid"):
            bounds.boolean(name, getattr(self, name))
        for name in ("norm", "activation", "block"):
            bounds.choice(name, getattr(self, name), get_args(get_type_hints(NetworkConfig)[name]))
        bounds.number("fourier_scale", self.fourier_scale, 0, 1e4)
        bounds.number("dropout", self.dropout, 0, 0.99)
        self._check_shape()

    def _check_shape(self) -> None:
        for name, high in {"width": 4096, "blocks": 32, "stem": 64}.items():
            bounds.integer(name, getattr(self, name), 1, high)
        if len(self.fir_kernel) < 2 or len(self.fir_kernel) % 2 or sum(self.fir_kernel) == 0:
            raise ValueError(f"fir_kernel needs an even count of numbers whose sum is not 0, got {self.fir_kernel}")
        if self.width % 4:
            raise ValueError(f"width must be a positive multiple of 4, got {self.width}")
        if len(self.extra) > len(self.multipliers):
            raise ValueError(f"extra needs one number per level, at most {len(self.multipliers)}, got {self.extra}")
        if self.grid and MCU % self.stem:
            raise ValueError(f"with grid the stem must divide {MCU}, got {self.stem}")
        if self.estimates and self.stride % 2:
            raise ValueError("estimates need sides of even length: a stem of 2 or more than one level")
        if not self.multipliers:
            raise ValueError("multipliers needs one number per level, got none")

    @property
    def image_channels(self) -> int:
        """Channels of the input, two pictures or one and the estimates, at the first level's resolution."""
        return ((2 if self.conditional else 1) * COLOURS + len(self.estimates)) * self.stem**2

    @property
    def stride(self) -> int:
        """Pixels of the image to a pixel of the lowest level."""
        return self.stem * 2 ** (len(self.multipliers) - 1)

    def padded(self, side: int) -> int:
        """The side of what the first convolution sees, for an image's side, in pixels."""
        multiple = self.stride if self.pad_input or side < self.stride else self.stem
        return -(-side // multiple) * multiple


class NCSNpp(nn.Module):
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


def conv3x3(channels: int, width: int) -> nn.Conv2d:
    """(B, channels, H, W) -> (B, width, H, W)."""
    return nn.Conv2d(channels, width, 3, padding=1)


def tiled(grid: Tensor, height: int, width: int) -> Tensor:
    """(C, side, side) repeated from the corner on -> (C, height, width)."""
    rows, columns = (-(-length // grid.shape[-1]) for length in (height, width))
    return grid.repeat(1, rows, columns)[:, :height, :width]


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Repeat the last row and column until both sides are multiples: (B, C, H, W)."""
    height, width = image.shape[-2:]
    return pad_to(image, height + -height % multiple, width + -width % multiple)


def pad_to(image: Tensor, height: int, width: int) -> Tensor:
    """Repeat the last row and column until the sides are these: (B, C, H, W)."""
    below, right = height - image.shape[-2], width - image.shape[-1]
    return F.pad(image, (0, right, 0, below), mode="replicate") if below or right else image


def parameter_count(network: nn.Module) -> int:
    """Learned numbers; the paper network's 65.6 M count its 128 fixed Fourier frequencies too."""
    return sum(p.numel() for p in network.parameters())


def config_from_dict(values: dict[str, Any]) -> NetworkConfig:
    """Raises ValueError naming a field that NetworkConfig does not have."""
    unknown = sorted(set(values) - set(NetworkConfig.__dataclass_fields__))
    if unknown:
        raise ValueError(
            f"unknown network setting {unknown[0]!r}; known: {', '.join(NetworkConfig.__dataclass_fields__)}"
        )
    return NetworkConfig(**values)
