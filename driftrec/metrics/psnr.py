"""Peak signal-to-noise ratio in decibel, for pixels in [0, 1] (peak 1). Equal images give infinity."""

from torch import Tensor

from driftrec.metrics.planes import check_pair, luma, plane_means


def psnr(reference: Tensor, restored: Tensor) -> Tensor:
    """PSNR over all three channels together. Both (B, 3, H, W) in [0, 1] -> (B,) float64, dB."""
    reference, restored = check_pair(reference, restored)
    return decibel(mean_squared_error(reference, restored).mean(dim=1))


def psnr_y(reference: Tensor, restored: Tensor) -> Tensor:
    """PSNR of BT.601 luma (full range, not rounded). Both (B, 3, H, W) in [0, 1] -> (B,) float64, dB."""
    reference, restored = check_pair(reference, restored)
    return decibel(mean_squared_error(luma(reference), luma(restored)).squeeze(1))


def mean_squared_error(reference: Tensor, restored: Tensor) -> Tensor:
    """Both (B, C, H, W) float64 -> (B, C)."""
    return plane_means((reference - restored).square())


def decibel(error: Tensor) -> Tensor:
    """Squared error for a peak of 1 -> dB; 0 -> infinity."""
    return -10 * error.log10()
