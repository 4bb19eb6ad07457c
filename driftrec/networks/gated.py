"""A block with more gain per operation (Chen et al., ECCV 2022, NAFNet): depth-wise 3x3 and a product of halves."""

from __future__ import annotations

from torch import Tensor, nn


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
