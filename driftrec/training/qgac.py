"""QGAC as an arm: batches of JPEG coefficients from clean patches, and the paper's loss on pixels.

The recipe is that of the author's later code, except that there luma is trained first and colour with it later, and
here both at once; grey patches train luma alone. Knows neither photographs nor files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from driftrec.jpeg.codec import encode_jpeg
from driftrec.jpeg.constraint import Constraint, Older, constraint
from driftrec.metrics.ssim import ssim_gaussian
from driftrec.models.qgac import Coefficients, of_file, restored
from driftrec.networks.qgac import QGAC

SSIM_SHARE = 0.05  # of the loss


@dataclass(frozen=True)
class Recipe:
    """How it is trained."""

    steps: int = 100_000  # theirs: 100 times 1000, of 32 patches each
    lr: float = 1e-4  # of Adam, at the first step
    lr_last: float = 1e-6  # where the cosine ends


def train(network: QGAC, batches: Iterable[tuple[Coefficients, Tensor]], recipe: Recipe) -> Iterator[float]:
    """Train in place on pairs of what files say and the clean (B, 3, H, W) in [0, 1]: the loss of each step. Raises
    ValueError if there are fewer batches than steps.
    """
    optimizer = torch.optim.Adam(network.parameters(), lr=recipe.lr)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.steps, recipe.lr_last)
    pairs = iter(batches)
    for step in range(recipe.steps):
        said, clean = next(pairs, (None, None))
        if said is None or clean is None:
            raise ValueError(f"{step} batches for {recipe.steps} steps: give as many, or an endless stream")
        optimizer.zero_grad()
        value = loss(network, said, clean)
        value.backward()
        optimizer.step()
        cosine.step()
        yield value.item()


def compressed(patches: NDArray[np.uint8], qualities: Sequence[int]) -> Coefficients:
    """Patches (B, H, W, 3) or grey (B, H, W), sides multiples of 16, saved as 4:2:0 at a quality each. Raises
    ValueError for a patch whose coefficients cannot be told.
    """
    files = [of_file(_said(encode_jpeg(p, q, "4:2:0"))) for p, q in zip(patches, qualities, strict=True)]
    return Coefficients(*(tuple(map(torch.cat, zip(*parts, strict=True))) for parts in zip(*files, strict=True)))


def loss(network: QGAC, said: Coefficients, clean: Tensor) -> Tensor:
    """L1 - 0.05 SSIM of the restored pixels; clean: (B, 3, H, W) in [0, 1] -> scalar."""
    rgb = restored(network, said)
    return (rgb - clean).abs().mean() - SSIM_SHARE * ssim_gaussian(clean, rgb).mean().to(rgb)


def _said(data: bytes) -> Constraint:
    known: Any = constraint(data)
    if isinstance(known, Older):
        return known.last
    if not isinstance(known, Constraint):
        raise ValueError(f"a patch saved as JPEG gives no coefficients: {known}")
    return known
