"""QGAC as an arm: batches of JPEG coefficients from clean patches, and the paper's loss on pixels.

The recipe of the author's later code: Adam at 1e-4, falling by a cosine to 1e-6, first luma alone, then colour. Here
both are trained at once unless the patches are grey.
"""

from __future__ import annotations

from collections.abc import Sequence
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
