"""What a DCT filter would take away: linear algebra by hand, bounded reach, and nothing from a flat image."""

import numpy as np
import torch
from scipy.fft import dctn, idctn

from driftrec.networks.estimates import GAIN, LUMA, SmallCoefficients, dct_blocks

LEVEL = 1 / 127.5


def by_hand(luma: np.ndarray, threshold: float) -> np.ndarray:
    """Every 8x8 block at even places, its small coefficients back in place, the mean over the blocks of a pixel."""
    padded = np.pad(luma, 6, mode="edge")
    total = np.zeros_like(padded)
    for top in range(0, padded.shape[0] - 7, 2):
        for left in range(0, padded.shape[1] - 7, 2):
            place = np.s_[top : top + 8, left : left + 8]
            coefficients = dctn(padded[place], norm="ortho")
            coefficients[np.abs(coefficients) >= threshold] = 0
            coefficients[0, 0] = 0
            total[place] += idctn(coefficients, norm="ortho")
    return total[6:-6, 6:-6] / 16


def test_it_is_what_scipy_makes_of_every_second_block() -> None:
    image = torch.rand(1, 3, 18, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.4 - 0.2
    luma = (image[0] * torch.tensor(LUMA).view(3, 1, 1)).sum(dim=0).numpy()
    found = SmallCoefficients((12, 30))(image)[0].numpy() / GAIN
    for channel, threshold in zip(found, (12, 30), strict=True):
        np.testing.assert_allclose(channel, by_hand(luma, threshold * LEVEL), atol=1e-5)


def test_all_is_small_below_a_large_threshold_and_nothing_of_a_flat_image() -> None:
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.1
    assert SmallCoefficients((255,))(image).abs().max() > 0.1
    assert SmallCoefficients((255,))(torch.full_like(image, 0.3)).abs().max() < 1e-5


def test_it_reaches_seven_pixels() -> None:
    image, other = torch.zeros(2, 1, 3, 32, 64)
    other[..., 32:] = 0.05
    changed = (SmallCoefficients((30,))(image) - SmallCoefficients((30,))(other)).abs().amax(dim=(0, 1, 2))
    assert changed[26] > 0
    assert changed[:25].max() == 0


def test_blocks_are_orthonormal() -> None:
    blocks = dct_blocks().flatten(1)
    torch.testing.assert_close(blocks @ blocks.mT, torch.eye(63), rtol=0, atol=1e-6)
