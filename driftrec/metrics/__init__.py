"""Metrics of restored images against their references; docs/explanation/metrics.md has every recipe.

Pair metrics give each image's value, independent of its batch: `PAIR_METRICS[name](reference, restored)`, both
(B, 3, H, W) floats in [0, 1] -> (B,) float64. Values are raw: BEF for pixels in [0, 1], PSNR and PSNR-B in dB. Those of
WEIGHTED_PAIR_METRICS are functions of the same kind, once their weights are loaded. Set metrics compare two sets of
images by their features. lpips, piq and torchvision are imported where weights are loaded, not before.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from driftrec.metrics import uint8
from driftrec.metrics.blockiness import Offset, bef, bef_y, psnrb, psnrb_y
from driftrec.metrics.features import load_features
from driftrec.metrics.fid import Moments, fid
from driftrec.metrics.kid import Reservoir, kid
from driftrec.metrics.lpips import PairMetric, load_lpips
from driftrec.metrics.psnr import psnr, psnr_y
from driftrec.metrics.ssim import ssim, ssim9, ssim_gaussian
from driftrec.metrics.weights import find_weights

__all__ = [
    "HIGHER_IS_BETTER",
    "LABELS",
    "PAIR_METRICS",
    "SET_METRICS",
    "SMALLEST_SIDE",
    "WEIGHTED_PAIR_METRICS",
    "Moments",
    "PairMetric",
    "Reservoir",
    "SetMetric",
    "fid",
    "find_weights",
    "kid",
    "load_features",
    "pair_scores",
]

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
ON_A_GRID = {"bef": bef, "psnrb": psnrb, "bef_y": bef_y, "psnrb_y": psnrb_y}  # these take an offset

WEIGHTED_PAIR_METRICS: dict[str, Callable[[Path], PairMetric]] = {  # each loads the file of find_weights(name, ...)
    "lpips": load_lpips,
    "lpips_vgg": partial(load_lpips, backbone="vgg"),
    "lpips_squeezenet": partial(load_lpips, backbone="squeeze", calibrated=False),
}


class SetMetric(NamedTuple):
    """A distance between two sets of features: `fid` of their `Moments`, or `kid` of their `Reservoir`s' features."""

    features: str  # load_features(features, find_weights(features, ...))
    distance: Literal["fid", "kid"]


SET_METRICS: dict[str, SetMetric] = {
    "fid": SetMetric("inception", "fid"),
    "kid": SetMetric("inception", "kid"),
    "fid_mobilenet": SetMetric("mobilenet", "fid"),
    "kid_mobilenet": SetMetric("mobilenet", "kid"),
}

LABELS: dict[str, str] = {  # for tables and axes
    "psnr": "PSNR (dB)",
    "psnr_y": "PSNR, luma (dB)",
    "ssim": "SSIM (uniform 7x7)",
    "ssim9": "SSIM (uniform 9x9)",
    "ssim_gaussian": "SSIM (gaussian 11x11)",
    "bef": "BEF",
    "psnrb": "PSNR-B (dB)",
    "bef_y": "BEF, luma",
    "psnrb_y": "PSNR-B, luma (dB)",
    "lpips": "LPIPS (AlexNet)",
    "lpips_vgg": "LPIPS (VGG16)",
    "lpips_squeezenet": "lpips-like (SqueezeNet, uncalibrated)",
    "fid": "FID",
    "kid": "KID",
    "fid_mobilenet": "fid* (MobileNetV2)",
    "kid_mobilenet": "kid* (MobileNetV2)",
    "accuracy": "Accuracy",
}
HIGHER_IS_BETTER = frozenset({"psnr", "psnr_y", "ssim", "ssim9", "ssim_gaussian", "psnrb", "psnrb_y", "accuracy"})
SMALLEST_SIDE = {  # pixels; 1 where not named
    "ssim": 7,
    "ssim9": 9,
    "ssim_gaussian": 11,
    "lpips": 31,
    "lpips_vgg": 16,
    "lpips_squeezenet": 17,
}


def pair_scores(
    reference: Tensor, restored: Tensor, names: Sequence[str], offset: Offset = (0, 0)
) -> dict[str, Tensor]:
    """Metrics of PAIR_METRICS by name: both (B, 3, H, W), uint8 or floats in [0, 1] -> (B,) float64 each.

    uint8 on a CPU is several times faster than floats. `offset`: row and column of a JPEG block's corner.
    """
    scores: dict[str, Tensor] = {}
    if reference.dtype == restored.dtype == torch.uint8 and reference.device.type == "cpu":
        whole = [name for name in names if name in uint8.METRICS]
        scores = uint8.scores(reference, restored, whole, offset)
    rest = [name for name in names if name not in scores]
    if rest:
        x, y = (image.double() / 255 if image.dtype == torch.uint8 else image for image in (reference, restored))
        for name in rest:
            scores[name] = ON_A_GRID[name](x, y, offset) if name in ON_A_GRID else PAIR_METRICS[name](x, y)
    return scores
