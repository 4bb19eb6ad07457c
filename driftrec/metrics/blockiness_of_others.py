"""BEF and PSNR-B as two published programs compute them, for comparison with the tables that were made with them.

They differ from `driftrec.metrics.blockiness` in what sums are divided by: each program has a count of its own for the
pairs across block boundaries, and takes it off the number of all pairs for the others. The grid begins at the image's
corner.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from driftrec.metrics.blockiness import BLOCK
from driftrec.metrics.planes import check_image, check_pair, check_sides
from driftrec.metrics.psnr import decibel, mean_squared_error

STUDIO_LUMA = (65.481, 128.553, 24.966)  # of MATLAB's rgb2ycbcr, for RGB in [0, 1]: 16..235


def bef_torchjpeg(reference: Tensor, restored: Tensor) -> Tensor:  # noqa: ARG001  one signature
    """BEF of `restored` as torchjpeg has it: steps are summed over RGB, pairs counted in one channel, of which a
    side has one for each whole block but the first.

    Both (B, 3, H, W) in [0, 1], sides of at least 16 -> (B,) float64. The reference is not looked at.
    """
    check_sides(restored, 2 * BLOCK, "bef_torchjpeg")
    return torch.stack([_excess(image, _whole_blocks) for image in check_image(restored)])


def psnrb_y_fbcnn(reference: Tensor, restored: Tensor) -> Tensor:
    """PSNR-B as FBCNN has it of two colour images: the squared error of RGB, and BEF of the restored one's Y alone, of
    16 to 235 and rounded; a side has its length / 8 - 1 boundaries, whole or not.

    Both (B, 3, H, W) in [0, 1], rounded here to 8 bits; sides of at least 9 -> (B,) float64, dB.
    """
    reference, restored = ((255 * image).round() for image in check_pair(reference, restored))
    check_sides(restored, BLOCK + 1, "psnrb_y_fbcnn")
    factors = torch.stack([_excess(studio_luma(image), _any_length) for image in restored])
    return decibel((mean_squared_error(reference, restored).mean(dim=1) + factors) / 255**2)


def studio_luma(image: Tensor) -> Tensor:
    """(3, H, W) in 0..255 -> (1, H, W), whole numbers in 16..235."""
    weights = image.new_tensor(STUDIO_LUMA).view(3, 1, 1)
    return ((image * weights).sum(dim=0, keepdim=True) / 255 + 16).round()


def _whole_blocks(side: int) -> float:
    return side // BLOCK - 1


def _any_length(side: int) -> float:
    return side / BLOCK - 1


def _excess(planes: Tensor, boundaries: Callable[[int], float]) -> Tensor:
    """eta (D_B - D_BC) of (C, H, W), 0 where that is below; `boundaries`: of a side's length, how many count."""
    height, width = planes.shape[1:]
    rows, columns = planes.diff(dim=1).square(), planes.diff(dim=2).square()
    across = rows[:, BLOCK - 1 :: BLOCK].sum() + columns[:, :, BLOCK - 1 :: BLOCK].sum()
    within = rows.sum() + columns.sum() - across
    pairs = height * (width - 1) + width * (height - 1)
    counted = height * boundaries(width) + width * boundaries(height)
    eta = math.log2(BLOCK) / math.log2(min(height, width))
    return eta * (across / counted - within / (pairs - counted)).clamp(min=0)
