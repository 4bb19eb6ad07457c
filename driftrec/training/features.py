"""What a classifier's first layers make of an image: edges, texture and parts of things.

EfficientNet-Lite0's first eleven blocks (Tan and Le, ICML 2019; the Lite form has neither squeezing nor swish). The
reports' own measures take other networks: what a model was trained by does not judge it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from driftrec.errors import InvalidInput

STEM = 32  # channels
BLOCKS = (  # inputs, widening, kernel, stride, outputs
    (32, 1, 3, 1, 16),
    *((16, 6, 3, 2, 24), (24, 6, 3, 1, 24)),
    *((24, 6, 5, 2, 40), (40, 6, 5, 1, 40)),
    *((40, 6, 3, 2, 80), (80, 6, 3, 1, 80), (80, 6, 3, 1, 80)),
    *((80, 6, 5, 1, 112), (112, 6, 5, 1, 112), (112, 6, 5, 1, 112)),
)
TAPS = (0, 2, 4)  # blocks whose output is taken: at 1/2, 1/4 and 1/8 of the size
CHANNELS = tuple(BLOCKS[tap][-1] for tap in TAPS)
BN_EPS = 1e-3
CENTRE, SPREAD = 127 / 255, 128 / 255  # of its input, for pixels in [0, 1]
SMALLEST = 1e-6  # length of a place's features, below which their direction means nothing


class Features(nn.Module):
    """forward(images) -> features of TAPS. images: (B, 3, H, W) in [0, 1]; features: (B, C, H / s, W / s)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Layer(3, STEM, 3, stride=2)
        self.blocks = nn.ModuleList([Block(*block) for block in BLOCKS])

    @classmethod
    def load(cls, path: Path) -> Features:
        """From what `python -m recipes.standins` writes. Raises InvalidInput naming the file."""
        features = cls()
        try:
            features.load_state_dict(load_file(path))
        except (OSError, RuntimeError, SafetensorError) as error:
            remedy = "make it with: python -m recipes.standins"
            raise InvalidInput(f"{path}: no weights of EfficientNet-Lite0's first blocks; {remedy}") from error
        return features.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        x, found = self.stem((images - CENTRE) / SPREAD), list[Tensor]()
        for number, block in enumerate(self.blocks[: TAPS[-1] + 1]):
            x = block(x)
            if number in TAPS:
                found.append(x)
        return found

    def rectified(self, images: Tensor) -> list[Tensor]:
        """What is behind rectifiers, of images as above, H and W multiples of 16: the stem's output, and what each
        block filters, six times as wide as its input: at 1/2, 1/4, 1/8 and, half of them, 1/16 of the size.
        """
        x = self.stem((images - CENTRE) / SPREAD)
        found = [x]
        for block in cast(Iterable[Block], self.blocks):
            wide = block.widened(x)
            found += [wide] if block.expand else []
            x = block.narrowed(wide, x)
        return found


def perceptual_distance(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """How far apart two images are by their features: squared differences of unit vectors over the channels, summed
    over the layers, the mean over places and images (LPIPS without learnt weights, Zhang et al., CVPR 2018). A scalar,
    at most 4 for each layer. Of rectified features: of others samples become smooth (docs/results/training.md).
    """
    pairs = zip(a, b, strict=True)
    return torch.stack([(unit(ours) - unit(theirs)).square().sum(dim=1).mean() for ours, theirs in pairs]).sum()


def unit(features: Tensor) -> Tensor:
    """Of length 1 over the channels, at every place."""
    return F.normalize(features.float(), dim=1, eps=SMALLEST)


class Layer(nn.Module):
    """Convolution, padded as TensorFlow does it, batch norm, and a clipped rectifier unless it is linear."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, linear: bool = False
    ) -> None:
        super().__init__()
        self.before = (kernel - stride) // 2  # rows above and columns left; sides are multiples of the stride
        self.after = kernel - stride - self.before
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=BN_EPS)
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(F.pad(x, (self.before, self.after) * 2)))
        return x if self.linear else F.relu6(x)


class Block(nn.Module):
    """Widen, filter, narrow: MobileNetV2's inverted residual."""

    def __init__(self, inputs: int, widening: int, kernel: int, stride: int, outputs: int) -> None:
        super().__init__()
        wide = inputs * widening
        self.expand = Layer(inputs, wide, 1) if widening > 1 else None
        self.filter = Layer(wide, wide, kernel, stride, groups=wide)
        self.project = Layer(wide, outputs, 1, linear=True)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return self.narrowed(self.widened(x), x)

    def widened(self, x: Tensor) -> Tensor:
        """The input in more channels; the input itself if there are none."""
        return self.expand(x) if self.expand else x

    def narrowed(self, wide: Tensor, x: Tensor) -> Tensor:
        """The block's output, from that and its input."""
        y = self.project(self.filter(wide))
        return x + y if self.adds else y
