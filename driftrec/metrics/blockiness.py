"""Blocking effect factor and PSNR-B: Yim and Bovik, "Quality assessment of deblocked images", IEEE TIP, 2011.

Values are per image and raw, for pixels in [0, 1] (times 65,025 for pixels in 0..255). Two points where the
paper is silent or slips:
- its pair counts, N_V (N_H / B) - 1 and so on, are approximate; the means here divide by the pairs there are;
- small images: where no pair crosses a block boundary (both sides at most 8, no offset), or every pair does,
  BEF is 0; a side below 8 counts as 8 in eta, which so never exceeds 1. BEF is thus defined for every size.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from driftrec.metrics.planes import check_image, check_pair, luma
from driftrec.metrics.psnr import decibel, mean_squared_error

BLOCK = 8  # JPEG's block side
Offset = tuple[int, int]  # row, column of a block's corner: (0, 0) where the image was never cropped


def bef(reference: Tensor, restored: Tensor, offset: Offset = (0, 0)) -> Tensor:  # noqa: ARG001  one signature
    """Blocking effect factor of `restored`, mean over RGB; the reference is not looked at.

    Both (B, 3, H, W) in [0, 1] -> (B,) float64.
    """
    return blocking_effect_factor(check_image(restored), offset).mean(dim=1)


def bef_y(reference: Tensor, restored: Tensor, offset: Offset = (0, 0)) -> Tensor:  # noqa: ARG001
    """Blocking effect factor of the BT.601 luma of `restored`; the reference is not looked at.

    Both (B, 3, H, W) in [0, 1] -> (B,) float64.
    """
    return blocking_effect_factor(luma(check_image(restored)), offset).squeeze(1)


def psnrb(reference: Tensor, restored: Tensor, offset: Offset = (0, 0)) -> Tensor:
    """PSNR-B of each channel, mean over RGB. Both (B, 3, H, W) in [0, 1] -> (B,) float64, dB."""
    return _psnrb(*check_pair(reference, restored), offset).mean(dim=1)


def psnrb_y(reference: Tensor, restored: Tensor, offset: Offset = (0, 0)) -> Tensor:
    """PSNR-B of BT.601 luma. Both (B, 3, H, W) in [0, 1] -> (B,) float64, dB."""
    reference, restored = check_pair(reference, restored)
    return _psnrb(luma(reference), luma(restored), offset).squeeze(1)


def _psnrb(reference: Tensor, restored: Tensor, offset: Offset) -> Tensor:
    """PSNR with MSE + BEF in place of MSE, peak 1. Both (B, C, H, W) -> (B, C), dB."""
    return decibel(mean_squared_error(reference, restored) + blocking_effect_factor(restored, offset))


def blocking_effect_factor(planes: Tensor, offset: Offset = (0, 0)) -> Tensor:
    """(B, C, H, W) float64 in [0, 1] -> (B, C). One by one: a batch must not change the order of sums."""
    return torch.stack([_factor(image, offset) for image in planes])


def _factor(planes: Tensor, offset: Offset) -> Tensor:
    """(C, H, W) -> (C,)."""
    return _factor_of_steps(_squared_steps(planes, -2), _squared_steps(planes, -1), offset)


def boundary_excess(planes: Tensor) -> Tensor:
    """D_B - D_BC, what block boundaries step more than other neighbours do; BEF without its floor at 0 and its eta.

    (..., H, W) -> (...), differentiable, in the planes' squared unit; their first pixel is a block's corner.
    """
    return _excess_of_steps(_squared_steps(planes, -2), _squared_steps(planes, -1), (0, 0))


def _squared_steps(planes: Tensor, dim: int) -> Tensor:
    """(..., H, W) -> (..., side - 1): summed squared differences of neighbouring rows (dim -2) or columns (-1)."""
    return planes.diff(dim=dim).square().sum(dim=-3 - dim)


def _factor_of_steps(rows: Tensor, columns: Tensor, offset: Offset) -> Tensor:
    """BEF = eta (D_B - D_BC), 0 where that is below. (..., H - 1), (..., W - 1) -> (...)."""
    eta = math.log2(BLOCK) / math.log2(max(min(rows.shape[-1], columns.shape[-1]) + 1, BLOCK))
    return eta * _excess_of_steps(rows, columns, offset).clamp(min=0)


def _excess_of_steps(rows: Tensor, columns: Tensor, offset: Offset) -> Tensor:
    """D_B - D_BC: the mean squared step across block boundaries, less that of other neighbours; 0 where there are
    none of either. (..., H - 1), (..., W - 1) -> (...).
    """
    height, width = rows.shape[-1] + 1, columns.shape[-1] + 1
    across_rows, across_columns = (
        steps[..., (start - 1) % BLOCK :: BLOCK] for steps, start in zip((rows, columns), offset, strict=True)
    )
    boundary_pairs = across_rows.shape[-1] * width + across_columns.shape[-1] * height
    other_pairs = (height - 1) * width + (width - 1) * height - boundary_pairs
    if boundary_pairs == 0 or other_pairs == 0:
        return rows.new_zeros(rows.shape[:-1])
    boundary_sum = across_rows.sum(dim=-1) + across_columns.sum(dim=-1)
    other_sum = rows.sum(dim=-1) + columns.sum(dim=-1) - boundary_sum
    return boundary_sum / boundary_pairs - other_sum / other_pairs


def factor_of_whole_numbers(planes: NDArray[np.uint8], offset: Offset = (0, 0)) -> Tensor:
    """(C, H, W) pixels in 0..255 -> (C,) float64, for that range. Their sums are exact, and quicker than in float64."""
    ends = (planes[:, 1:], planes[:, :-1]), (planes[:, :, 1:], planes[:, :, :-1])
    wide = np.uint32 if max(planes.shape) * 255**2 < 2**32 else np.uint64
    rows, columns = (_whole_squares(*both).sum(axis=2 - dim, dtype=wide) for dim, both in enumerate(ends))
    return _factor_of_steps(torch.from_numpy(rows).double(), torch.from_numpy(columns).double(), offset)


def _whole_squares(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Of the differences; a byte holds their size, two bytes its square."""
    size = np.maximum(first, second)
    size -= np.minimum(first, second)
    return np.multiply(size, size, dtype=np.uint16)


def bef_u8(rgb: NDArray[np.uint8], offset: Offset = (0, 0)) -> float:
    """BEF of one (H, W, 3) uint8 image, mean over RGB, raw as `bef` gives it for pixels / 255."""
    planes = np.ascontiguousarray(rgb.transpose(2, 0, 1))
    return float(factor_of_whole_numbers(planes, offset).mean()) / 255**2
