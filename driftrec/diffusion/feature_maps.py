"""What a network looks at: feature maps of its depths (paper, Section IV-I).

The map of a depth is the mean over the channels of what the first convolution in the depth's last residual block puts
out: on the way down, and on the way up at the same resolution. The blocks that change the resolution are not counted.

    maps = feature_maps(denoiser, x, y, t=0.5)
    feature_grid(maps).save("maps.png")
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from driftrec.diffusion.denoiser import Denoiser
from driftrec.networks.blocks import ResidualBlock
from driftrec.networks.ncsnpp import DownLevel, NCSNpp, UpLevel

Way = Literal["down", "up"]
GAP = 4  # pixels between the images of a grid


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """One depth on one way."""

    way: Way
    level: int  # 0 is the finest
    values: Tensor  # (h, w) float32 on the CPU, at 1 / (stem 2^level) of the image's resolution, rounded up


@torch.inference_mode()
def feature_maps(denoiser: Denoiser, x: Tensor, y: Tensor, t: float) -> list[FeatureMap]:
    """The maps while the network sees one image: down from level 0, then up to level 0.

    Args:
        denoiser: an NCSNpp with any process.
        x: (3, H, W), the state at t; at t = 1 for instance y plus noise of the process's std.
        y: (3, H, W), the JPEG, pixels in [0, 1].
        t: in (0, 1].
    """
    if x.ndim != 3 or x.shape != y.shape:
        raise ValueError(f"x and y must be one image each, (3, H, W), got {tuple(x.shape)} and {tuple(y.shape)}")
    if not 0 < t <= 1:
        raise ValueError(f"t must be in (0, 1], got {t}")
    network, seen = denoiser.network, dict[tuple[Way, int], Tensor]()
    if not isinstance(network, NCSNpp):
        raise ValueError(f"feature maps are of the depths of NCSNpp, this is {type(network).__name__}")

    def keep(way: Way, level: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        unit = network.config.stem * 2**level
        height, width = (-(-side // unit) for side in x.shape[-2:])  # without the padding inside the network

        def hook(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
            seen[way, level] = output[0].float().mean(dim=0)[:height, :width].cpu()

        return hook

    with hooked({block.conv1: keep(way, level) for way, level, block in last_blocks(network)}):
        denoiser(x[None], y[None], torch.tensor(t, dtype=torch.float64))
    return [FeatureMap(way, level, values) for (way, level), values in seen.items()]


def last_blocks(network: NCSNpp) -> Iterator[tuple[Way, int, ResidualBlock]]:
    """(way, level, block) of the last residual block of each depth, in the order in which the network runs them."""
    for level, stage in enumerate(network.down):
        yield "down", level, cast(ResidualBlock, cast(DownLevel, stage).blocks[-1])
    for level, stage in zip(reversed(range(len(network.up))), network.up, strict=True):
        yield "up", level, cast(ResidualBlock, cast(UpLevel, stage).blocks[-1])


@contextmanager
def hooked(hooks: dict[nn.Conv2d, Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]]) -> Generator[None]:
    """Forward hooks for as long as the block lasts, however it ends."""
    handles = [module.register_forward_hook(hook) for module, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def feature_grid(maps: Sequence[FeatureMap]) -> Image.Image:
    """Two rows of grey images, down above up, level 0 at the left. Each map goes from black, its least value, to white,
    its greatest, and is enlarged to the largest map's size. What counts is inside the outermost pixels, which stand out
    for the zeros around the image.
    """
    if not maps:
        raise ValueError("no feature maps")
    height, width = (max(each.values.shape[axis] for each in maps) for axis in (0, 1))
    columns = 1 + max(each.level for each in maps)
    grid = Image.new("L", (columns * (width + GAP) - GAP, 2 * (height + GAP) - GAP), 255)
    for each in maps:
        inside = each.values[1:-1, 1:-1] if min(each.values.shape) > 2 else each.values
        low, high = inside.aminmax()
        scaled = ((each.values - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
        image = Image.fromarray((scaled * 255).round().numpy().astype(np.uint8))
        place = (each.level * (width + GAP), (each.way == "up") * (height + GAP))
        grid.paste(image.resize((width, height), Image.Resampling.NEAREST), place)
    return grid
