"""PSNR, SSIM, BEF and PSNR-B of 8-bit images, in whole numbers: the same values several times faster.

Sums of whole numbers are exact in any order, need no float64, and are shared between the metrics. SSIM takes u = x + y
and v = x - y instead of x and y: with U, V their sums over a window of n pixels and A, B = n times the sum of their
squares, less U² and V² (so that n (n - 1) var(u) = A), eq. 13 of Wang et al. 2004 with sample covariances becomes

    SSIM = (U² - V² + 2 n² C1) (A - B + 2 n (n - 1) C2) / ((U² + V² + 2 n² C1) (A + B + 2 n (n - 1) C2))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from driftrec.metrics.blockiness import Offset, factor_of_whole_numbers
from driftrec.metrics.planes import check_shapes
from driftrec.metrics.ssim import C1, C2

PEAK = 255
BAND = 32768  # pixels of a plane at a time: what is computed of them stays in the processor's cache

Whole = NDArray[Any]  # of int16 or int32


def scores(reference: Tensor, restored: Tensor, names: Iterable[str], offset: Offset = (0, 0)) -> dict[str, Tensor]:
    """Metrics of METRICS by name: both (B, 3, H, W) uint8 on the CPU -> (B,) float64 each, as PAIR_METRICS gives them.

    SSIM, which ends in float32, may differ from that of floats by 1e-6. No value depends on the batch.
    Raises ValueError where shapes differ, or an image is smaller than a window.
    """
    check_shapes(reference, restored)
    if reference.ndim != 4 or reference.shape[1] != 3 or reference.numel() == 0:
        raise ValueError(f"metrics take (B, 3, H, W) images, no side of 0; got {tuple(reference.shape)}")
    pairs = [Pair(x, y, offset) for x, y in zip(reference.numpy(), restored.numpy(), strict=True)]
    return {name: torch.tensor([METRICS[name](pair) for pair in pairs], dtype=torch.float64) for name in names}


class Pair:
    """Two (3, H, W) uint8 images and what their metrics share."""

    def __init__(self, reference: NDArray[np.uint8], restored: NDArray[np.uint8], offset: Offset) -> None:
        self.x = reference.astype(np.int16, order="C")
        self.y = restored.astype(np.int16, order="C")
        self.restored, self.offset = np.ascontiguousarray(restored), offset

    @cached_property
    def error(self) -> NDArray[np.float64]:
        """Mean squared error of each channel, for pixels in [0, 1]."""
        squares = np.square(self.x - self.y, dtype=np.int32)
        return squares.sum(axis=(1, 2), dtype=np.int64) / (squares[0].size * PEAK**2)

    @cached_property
    def factor(self) -> NDArray[np.float64]:
        """Blocking effect factor of each channel of the restored image, for pixels in [0, 1]."""
        return factor_of_whole_numbers(self.restored, self.offset).numpy() / PEAK**2

    def psnr(self) -> float:
        """As `driftrec.metrics.psnr.psnr`."""
        return float(_decibel(self.error.mean()))

    def bef(self) -> float:
        """As `driftrec.metrics.blockiness.bef`."""
        return float(self.factor.mean())

    def psnrb(self) -> float:
        """As `driftrec.metrics.blockiness.psnrb`."""
        return float(_decibel(self.error + self.factor).mean())

    def ssim(self) -> float:
        """As `driftrec.metrics.ssim.ssim`."""
        return _ssim(self.x, self.y, 7)

    def ssim9(self) -> float:
        """As `driftrec.metrics.ssim.ssim9`."""
        return _ssim(self.x, self.y, 9)


METRICS: dict[str, Callable[[Pair], float]] = {
    "psnr": Pair.psnr,
    "ssim": Pair.ssim,
    "ssim9": Pair.ssim9,
    "bef": Pair.bef,
    "psnrb": Pair.psnrb,
}


def _decibel(error: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore"):  # equal images: infinity
        return -10 * np.log10(error)


def _ssim(x: Whole, y: Whole, window: int) -> float:
    """Mean over windows and channels; both (C, H, W) int16."""
    channels, height, width = x.shape
    if min(height, width) < window:
        raise ValueError(f"SSIM needs sides of at least {window} here, got {(height, width)}")
    rows = max(BAND // width, 1)
    total = math.fsum(
        _similarity(x[c, top : top + rows + window - 1], y[c, top : top + rows + window - 1], window)
        for c in range(channels)
        for top in range(0, height - window + 1, rows)
    )
    return total / (channels * (height - window + 1) * (width - window + 1))


def _similarity(x: Whole, y: Whole, window: int) -> float:
    """The sum of SSIM over the windows inside a band. Both (rows, W) int16, at least `window` rows."""
    height, width = x.shape[0] - window + 1, x.shape[1]
    n = window**2
    c1, c2 = 2 * n**2 * C1 * PEAK**2, 2 * n * (n - 1) * C2 * PEAK**2
    u, v = (x + y).ravel() - PEAK, (x - y).ravel()  # both in -255..255; the shift of u leaves A as it is
    U, V = (_window_sums(p, width, window).astype(np.int32) for p in (u, v))
    A, B = (n * _window_sums(np.square(p, dtype=np.int32), width, window) for p in (u, v))
    A -= U * U
    B -= V * V
    U2, V2 = (np.square(p, dtype=np.float32) for p in (U + PEAK * n, V))
    top = (U2 - V2 + c1) * ((A - B).astype(np.float32) + c2)
    similarity = top / ((U2 + V2 + c1) * ((A + B).astype(np.float32) + c2))
    within = np.zeros(height * width, np.float32)
    within[: similarity.size] = similarity
    return float(within.reshape(height, width)[:, : width - window + 1].sum(dtype=np.float64))


def _window_sums(plane: Whole, width: int, window: int) -> Whole:
    """Sums over the windows whose first pixel is at each place of a flat plane.

    Flat, because long runs are quick; a window that would leave the plane on the right wraps around: do not use it.
    """
    for step in (1, width):
        size = plane.size - (window - 1) * step
        total = plane[:size] + plane[step : step + size]
        for k in range(2, window):
            total += plane[k * step : k * step + size]
        plane = total
    return plane
