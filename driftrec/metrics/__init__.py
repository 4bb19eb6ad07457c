"""Metrics of a restored image against its reference.

`PAIR_METRICS[name](reference, restored)`: both (B, 3, H, W) floats in [0, 1] -> (B,) float64, each
image's value independent of its batch. Values are raw: BEF for pixels in [0, 1], PSNR and PSNR-B in dB.
"""

from collections.abc import Callable

from torch import Tensor

from driftrec.metrics.blockiness import bef, bef_y, psnrb, psnrb_y
from driftrec.metrics.psnr import psnr, psnr_y
from driftrec.metrics.ssim import ssim, ssim9, ssim_gaussian

PairMetric = Callable[[Tensor, Tensor], Tensor]

PAIR_METRICS: dict[str, PairMetric] = {
    "psnr": psnr,
    "psnr_y": psnr_y,
    "ssim": ssim,
    "ssim9": ssim9,
    "ssim_gaussian": ssim_gaussian,
    "bef": bef,
    "psnrb": psnrb,
    "bef_y": bef_y,
    "psnrb_y": psnrb_y,
}
