"""Metrics of restored images against their references; docs/explanation/metrics.md has every recipe.

Pair metrics give each image's value, independent of its batch: `PAIR_METRICS[name](reference, restored)`, both
(B, 3, H, W) floats in [0, 1] -> (B,) float64. Values are raw: BEF for pixels in [0, 1], PSNR and PSNR-B in dB. Those of
WEIGHTED_PAIR_METRICS are functions of the same kind, once their weights are loaded, and so is what `load_pyiqa` gives.
Set metrics compare two sets of images by their features. lpips, piq, pyiqa and torchvision are imported where they are
used, not before.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from driftrec.metrics import uint8
from driftrec.metrics.blockiness import Offset, bef, bef_y, psnrb, psnrb_y
from driftrec.metrics.blockiness_of_others import bef_torchjpeg, psnrb_y_fbcnn
from driftrec.metrics.brisque import load_brisque
from driftrec.metrics.dists import load_dists
from driftrec.metrics.features import load_features
from driftrec.metrics.fid import Moments, fid
from driftrec.metrics.kid import Reservoir, kid
from driftrec.metrics.lpips import PairMetric, load_lpips
from driftrec.metrics.precision import precision, recall
from driftrec.metrics.psnr import psnr, psnr_y
from driftrec.metrics.pyiqa import PREFIX, load_pyiqa
from driftrec.metrics.similarity import fsim, gmsd, ms_ssim, vif
from driftrec.metrics.ssim import ssim, ssim9, ssim_gaussian
from driftrec.metrics.weights import find_weights
from driftrec.plugins import Table

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
    "add_metric",
    "fid",
    "find_weights",
    "higher_is_better",
    "is_foreign",
    "kid",
    "label_of",
    "load_features",
    "load_pyiqa",
    "pair_scores",
    "precision",
    "recall",
]

_OURS: dict[str, PairMetric] = {
    "psnr": psnr,
    "psnr_y": psnr_y,
    "ssim": ssim,
    "ssim9": ssim9,
    "ssim_gaussian": ssim_gaussian,
    "bef": bef,
    "psnrb": psnrb,
    "bef_y": bef_y,
    "psnrb_y": psnrb_y,
    "bef_torchjpeg": bef_torchjpeg,
    "psnrb_y_fbcnn": psnrb_y_fbcnn,
    "ms_ssim": ms_ssim,
    "fsim": fsim,
    "vif": vif,
    "gmsd": gmsd,
}
PAIR_METRICS: Table[PairMetric] = Table("metric", _OURS)
ON_A_GRID = {"bef": bef, "psnrb": psnrb, "bef_y": bef_y, "psnrb_y": psnrb_y}  # these take an offset

WEIGHTED_PAIR_METRICS: dict[str, Callable[[Path], PairMetric]] = {  # each loads the file of find_weights(name, ...)
    "lpips": load_lpips,
    "lpips_vgg": partial(load_lpips, backbone="vgg"),
    "lpips_squeezenet": partial(load_lpips, backbone="squeeze", calibrated=False),
    "dists": load_dists,
    "brisque": load_brisque,
}


class SetMetric(NamedTuple):
    """What is measured of two sets of features: `fid` of their `Moments`, all else of their `Reservoir`s' features."""

    features: str  # load_features(features, find_weights(features, ...))
    measure: Literal["fid", "kid", "precision", "recall"]


SET_METRICS: dict[str, SetMetric] = {
    "fid": SetMetric("inception", "fid"),
    "kid": SetMetric("inception", "kid"),
    "precision": SetMetric("inception", "precision"),
    "recall": SetMetric("inception", "recall"),
    "fid_mobilenet": SetMetric("mobilenet", "fid"),
    "kid_mobilenet": SetMetric("mobilenet", "kid"),
    "precision_mobilenet": SetMetric("mobilenet", "precision"),
    "recall_mobilenet": SetMetric("mobilenet", "recall"),
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
    "bef_torchjpeg": "BEF (as torchjpeg, sum over RGB)",
    "psnrb_y_fbcnn": "PSNR-B (dB, as FBCNN)",
    "ms_ssim": "MS-SSIM",
    "fsim": "FSIM (with chroma)",
    "vif": "VIF (luma, pixel domain)",
    "gmsd": "GMSD (luma)",
    "lpips": "LPIPS (AlexNet)",
    "lpips_vgg": "LPIPS (VGG16)",
    "lpips_squeezenet": "lpips-like (SqueezeNet, uncalibrated)",
    "dists": "DISTS",
    "brisque": "BRISQUE (no reference)",
    "fid": "FID",
    "kid": "KID",
    "precision": "Precision",
    "recall": "Recall",
    "fid_mobilenet": "fid* (MobileNetV2)",
    "kid_mobilenet": "kid* (MobileNetV2)",
    "precision_mobilenet": "precision* (MobileNetV2)",
    "recall_mobilenet": "recall* (MobileNetV2)",
    "accuracy": "Accuracy",
}
HIGHER_IS_BETTER = {
    *("psnr", "psnr_y", "ssim", "ssim9", "ssim_gaussian", "psnrb", "psnrb_y", "psnrb_y_fbcnn"),
    *("ms_ssim", "fsim", "vif", "accuracy"),
    *("precision", "recall", "precision_mobilenet", "recall_mobilenet"),
}
SMALLEST_SIDE = {  # pixels; 1 where not named
    "ssim": 7,
    "ssim9": 9,
    "ssim_gaussian": 11,
    "bef_torchjpeg": 16,
    "psnrb_y_fbcnn": 9,
    "ms_ssim": 161,
    "fsim": 2,
    "vif": 41,
    "gmsd": 6,
    "lpips": 31,
    "lpips_vgg": 16,
    "lpips_squeezenet": 17,
    "dists": 16,
    "brisque": 14,
}


def add_metric(
    name: str, measure: PairMetric, label: str, *, higher_is_better: bool, smallest_side: int = 1
) -> None:
    """Put a pair metric of a plugin into the tables.

    Args:
        name: by which users ask for it, and its column's.
        measure: (reference, restored), both (B, 3, H, W) floats in [0, 1] -> (B,) float64.
        label: for tables and axes.
        higher_is_better: its direction.
        smallest_side: pixels that a side of an image must have.

    Raises ValueError for a name that another metric has.
    """
    if name in LABELS:
        raise ValueError(f"there is a metric {name!r} already; take another name")
    PAIR_METRICS[name], LABELS[name], SMALLEST_SIDE[name] = measure, label, smallest_side
    HIGHER_IS_BETTER.update({name} if higher_is_better else ())


def is_foreign(name: str) -> bool:
    """Whether it is a metric of pyiqa, such as "pyiqa:musiq", which stands in none of these tables."""
    return name.startswith(PREFIX)


def label_of(name: str) -> str:
    """A metric's name for tables and axes."""
    return f"{name.removeprefix(PREFIX)} (pyiqa)" if is_foreign(name) else LABELS[name]


def higher_is_better(name: str) -> bool:
    """A metric's direction; of a foreign one as its package says."""
    return load_pyiqa(name).higher_is_better if is_foreign(name) else name in HIGHER_IS_BETTER


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
