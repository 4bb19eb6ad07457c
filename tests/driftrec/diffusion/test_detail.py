"""A sample's detail on the mean's coarse structure: against SciPy's filters, and the laws that it keeps."""

from itertools import product

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from driftrec.diffusion.detail import AROUND, COARSE, FLAT, REACH, blurred, flatness, on_coarse_mean
from driftrec.jpeg.codec import LUMA

SIZES = [(1, 1), (1, 40), (7, 9), (96, 96), (130, 61)]


def images(height: int, width: int, spread: float = 0.2, count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return 0.5 + spread * torch.randn(count, 3, height, width, generator=generator)


@pytest.mark.parametrize(("size", "spread", "bf16"), list(product(SIZES, [0.002, 0.02, 0.3], [False, True])))
def test_as_scipy_filters(size: tuple[int, int], spread: float, bf16: bool) -> None:
    mean, change = images(*size, spread=spread), images(*size, spread=0.1) - 0.5
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):  # as in training
        found, found_flat = on_coarse_mean(mean + change, mean).numpy(), flatness(mean).numpy()
    axes = (2, 3)
    coarse = gaussian_filter(change.double().numpy(), COARSE, axes=axes, mode="nearest", truncate=REACH)
    luma = np.tensordot(mean.double().numpy(), LUMA, axes=(1, 0))[:, None]
    square, level = (gaussian_filter(of, AROUND, axes=axes, mode="nearest", truncate=REACH) for of in (luma**2, luma))
    flat = np.exp(-np.sqrt(np.maximum(square - level**2, 0)) / FLAT)
    assert np.abs(found_flat - flat).max() < 0.02  # a square root of what is nearly 0
    assert np.abs(found - ((mean + change).numpy() - (1 - flat) * coarse)).max() < 2e-3


@pytest.mark.parametrize(("size", "bf16"), list(product(SIZES, [False, True])))
def test_laws(size: tuple[int, int], bf16: bool) -> None:
    mean = images(*size)
    sample = (mean + 0.1 * torch.randn_like(mean)).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):  # as in training
        whole = on_coarse_mean(sample, mean)
        assert torch.equal(on_coarse_mean(sample, mean, 0.0), sample)
        assert torch.equal(on_coarse_mean(mean, mean), mean)
        half = on_coarse_mean(sample, mean, 0.5)
        one = on_coarse_mean(sample[1:], mean[1:])
        even = torch.full_like(mean, 0.3)
        assert torch.allclose(on_coarse_mean(sample, even), sample, atol=1e-4)  # flat everywhere
    assert whole.dtype == torch.float32
    assert torch.equal(whole[1:], one)  # of a batch as alone
    assert torch.allclose(half, (sample + whole) / 2, atol=1e-6)
    whole.sum().backward()
    assert sample.grad is not None
    assert sample.grad.isfinite().all()


def test_what_is_coarse_is_the_means_and_what_is_fine_the_samples() -> None:
    rows = torch.arange(96.0).view(1, 1, -1, 1).expand(1, 3, -1, 96)
    mean = images(96, 96, count=1)  # nowhere flat
    wave, stripes = (0.1 * torch.sin(2 * torch.pi * rows / period) for period in (24.0, 2.5))
    inner = (..., slice(12, -12), slice(12, -12))
    left = (on_coarse_mean(mean + wave, mean) - mean)[inner].std() / wave[inner].std()
    kept = (on_coarse_mean(mean + stripes, mean) - mean)[inner].std() / stripes[inner].std()
    assert left < 0.05
    assert kept > 0.95


def test_a_gaussian_leaves_what_is_even_alone() -> None:
    assert torch.allclose(blurred(torch.full((1, 2, 5, 60), 0.7), 3.0), torch.tensor(0.7), atol=1e-6)
