"""QGAC (Ehrlich, Davis, Lim and Shrivastava, "Quantization Guided JPEG Artifact Correction", ECCV 2020): a regression
of DCT coefficients, some of whose convolutions are made from the file's quantisation tables.

Its modules are called as in the author's later public code ("bias_transfrom", too), so that a state dict of that fits.
Everything here is normalised coefficients in the places of their blocks' pixels; it knows nothing of statistics,
pictures or files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from driftrec.networks.block_dct import SIDE

FREQUENCIES = SIDE**2
CONVOLUTIONS = 5  # of a dense block
DENSE_BLOCKS = 3  # of an RRDB
SHARE = 0.2  # of what a block adds (Wang et al., "ESRGAN", 2018)
GAIN = 0.1  # of Kaiming's first weights, as the author's


@dataclass(frozen=True)
class QGACConfig:
    """The shape of the network; by default the author's (259.4 M parameters)."""

    manifold: int = 64  # numbers that a table becomes
    width: int = 256  # channels at the block grid, of luma
    features: int = 64  # channels at full resolution, between the parts of the luma network
    frequency: int = 4  # channels of each of the 64 frequencies
    chroma: int = 32  # channels at the block grid, of chroma; twice as many where luma is beside it


class QGAC(nn.Module):
    """Of normalised coefficients, a plane (B, 1, H, W) with both sides multiples of 8, and tables / 255 (B, 1, 8, 8):
    `luma` gives the restored plane, `chroma` what is to be added to a plane that was doubled in size.
    """

    def __init__(self, config: QGACConfig) -> None:
        super().__init__()
        self.config = config
        self.blocks_encode = BlockNet(config, 1)
        self.frequencynet = FrequencyNet(config)
        self.blocks_decode = BlockNet(config, config.features)
        self.fusion = Fusion(config)
        self.color_net = ColourNet(config)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                shrink(module)

    def luma(self, y: Tensor, table: Tensor) -> Tensor:
        """Same shape as y."""
        encoded = self.blocks_encode(y, table)
        filtered = self.frequencynet(encoded)
        decoded = self.blocks_decode(filtered, table)
        return y + self.fusion(torch.cat([decoded, filtered, encoded], dim=1))

    def chroma(self, c: Tensor, luma: Tensor, table: Tensor, luma_table: Tensor) -> Tensor:
        """c: Cb or Cr, at half of the resolution of the restored luma -> (B, 1, H, W) like luma."""
        return self.color_net(c, luma, table, luma_table)


class TableConv(nn.Module):
    """The convolution manifold of the paper: its weights are made from a table, for each image its own. It halves by 8,
    or with `up` doubles by 8. forward(x, table): (B, channels, H, W) and (B, 1, 8, 8).
    """

    def __init__(self, config: QGACConfig, channels: int, width: int, up: bool = False) -> None:
        super().__init__()
        self.shape = (channels, width) if up else (width, channels)
        self.convolve = F.conv_transpose2d if up else F.conv2d
        self.post_activation = nn.PReLU()
        self.manifold = nn.Sequential(
            nn.Conv2d(1, config.manifold, SIDE), nn.PReLU(), nn.Conv2d(config.manifold, config.manifold, 1), nn.PReLU()
        )
        self.weight_transform = nn.ConvTranspose2d(config.manifold, channels * width, SIDE)
        self.bias_transfrom = nn.Conv2d(config.manifold, width, 1)

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        count, manifold = len(x), self.manifold(table)
        weight = self.weight_transform(manifold).view(count * self.shape[0], self.shape[1], SIDE, SIDE)
        bias = self.bias_transfrom(manifold).flatten()
        images = x.reshape(1, -1, *x.shape[2:])  # side by side, a group each
        result = self.convolve(images, weight, bias, stride=SIDE, groups=count)
        return self.post_activation(result.unflatten(1, (count, -1))[0])


class FrequencyConv(nn.Module):
    """A 3x3 convolution within each frequency: the channels (B, 64 C, H, W) are [frequency][channel]. Several inputs
    are joined frequency by frequency.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.filter = nn.Conv2d(FREQUENCIES * channels, FREQUENCIES * width, 3, padding=1, groups=FREQUENCIES)

    def forward(self, *parts: Tensor) -> Tensor:
        by_frequency = [part.unflatten(1, (FREQUENCIES, -1)) for part in parts]
        return self.filter(torch.cat(by_frequency, dim=2).flatten(1, 2))


class Conv(nn.Conv2d):
    """A 3x3 convolution of one or several inputs."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__(channels, width, 3, padding=1)

    def forward(self, *parts: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().forward(torch.cat(parts, dim=1))


class DenseBlock(nn.Module):
    """Each convolution sees the input and the results of those before it; a share of the last is added to the input."""

    def __init__(self, channels: int, conv: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        for k in range(1, CONVOLUTIONS + 1):
            self.add_module(f"conv{k}", conv(k * channels, channels))
            self.add_module(f"relu{k}", nn.PReLU())

    def forward(self, x: Tensor) -> Tensor:
        parts = [x]
        for k in range(1, CONVOLUTIONS + 1):
            parts.append(self.get_submodule(f"relu{k}")(self.get_submodule(f"conv{k}")(*parts)))
        return x + SHARE * parts[-1]


class RRDB(nn.Module):
    """Residual in residual dense blocks."""

    def __init__(self, channels: int, conv: Callable[[int, int], nn.Module] = Conv) -> None:
        super().__init__()
        self.block1, self.block2, self.block3 = (DenseBlock(channels, conv) for _ in range(DENSE_BLOCKS))

    def forward(self, x: Tensor) -> Tensor:
        return x + SHARE * self.block3(self.block2(self.block1(x)))


class BlockNet(nn.Module):
    """What belongs to a block, at the block grid: (B, channels, H, W) -> (B, features, H, W)."""

    def __init__(self, config: QGACConfig, channels: int) -> None:
        super().__init__()
        self.block = TableConv(config, channels, config.width)
        self.block_enhancer = nn.Sequential(RRDB(config.width))
        self.unblock = TableConv(config, config.width, config.features, up=True)

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        return self.unblock(self.block_enhancer(self.block(x, table)), table)


class FrequencyNet(nn.Module):
    """What belongs to a frequency, across blocks: (B, features, H, W) -> the same."""

    def __init__(self, config: QGACConfig) -> None:
        super().__init__()
        self.net = nn.Sequential(
            ByFrequency(),
            FrequencyConv(config.features, config.frequency),
            nn.PReLU(),
            RRDB(config.frequency, FrequencyConv),
            FrequencyConv(config.frequency, config.features),
            nn.PReLU(),
            ByPlace(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Fusion(nn.Module):
    """Three times `features` channels (B, ., H, W) -> what is to be added to luma, (B, 1, H, W)."""

    def __init__(self, config: QGACConfig) -> None:
        super().__init__()
        self.net = nn.Sequential(
            ByFrequency(),
            FrequencyConv(3 * config.features, config.frequency),
            nn.PReLU(),
            FrequencyConv(config.frequency, config.frequency),
            nn.PReLU(),
            FrequencyConv(config.frequency, 1),
            ByPlace(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class ColourNet(nn.Module):
    """One network for Cb and for Cr, which also sees the restored luma."""

    def __init__(self, config: QGACConfig) -> None:
        super().__init__()
        width = config.chroma
        self.block_c = TableConv(config, 1, width)
        self.block_enhancer = nn.Sequential(RRDB(width))
        self.block_doubler = nn.Sequential(nn.ConvTranspose2d(width, width, 4, stride=2, padding=1), nn.PReLU())
        self.block_y = TableConv(config, 1, width)
        self.block_enhancer2 = nn.Sequential(RRDB(2 * width))
        self.unblock = TableConv(config, 2 * width, 1, up=True)

    def forward(self, c: Tensor, luma: Tensor, table: Tensor, luma_table: Tensor) -> Tensor:
        own = self.block_doubler(self.block_enhancer(self.block_c(c, table)))
        both = torch.cat([own, self.block_y(luma, luma_table)], dim=1)
        return self.unblock(self.block_enhancer2(both), table)


class ByFrequency(nn.Module):
    """(B, C, H, W) -> (B, 64 C, H / 8, W / 8), the channels [frequency][channel]."""

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_unshuffle(x, SIDE).unflatten(1, (-1, FREQUENCIES)).transpose(1, 2).flatten(1, 2)


class ByPlace(nn.Module):
    """The inverse of `ByFrequency`."""

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(x.unflatten(1, (FREQUENCIES, -1)).transpose(1, 2).flatten(1, 2), SIDE)


@torch.no_grad()
def shrink(layer: nn.Conv2d) -> None:
    """Its first weights: Kaiming's, made smaller; no bias."""
    nn.init.kaiming_normal_(layer.weight)
    layer.weight *= GAIN
    nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]
