"""What every network is."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class Network(nn.Module):
    """forward(x, y, noise_level) -> (B, 3, H, W). x: the (scaled) process state, y: the JPEG, both (B, 3, H, W) of any
    size; noise_level: (B,) or scalar. Of the tiles of a large image 32 pixels at their own edges are not used: a
    network that looks much further makes seams.
    """

    config: Any  # the dataclass that it was made from

    def forward(self, x: Tensor, y: Tensor, noise_level: Tensor) -> Tensor:
        raise NotImplementedError
