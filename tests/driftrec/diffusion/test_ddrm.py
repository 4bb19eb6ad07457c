"""DDRM-JPEG: its codes, its sampler step by step, and that a model that never saw a JPEG restores one with it."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.fft import dctn, idctn
from torch import Tensor

from driftrec.diffusion.baselines import Conditional
from driftrec.diffusion.ddrm import THEIR_YCC, ddrm, linear_levels, of_denoiser, of_file, published, times
from driftrec.diffusion.denoiser import Denoiser
from driftrec.errors import InvalidInput
from driftrec.jpeg.codec import degrade
from driftrec.jpeg.headers import standard_tables
from driftrec.metrics import PAIR_METRICS
from driftrec.networks.config import NetworkConfig
from driftrec.training.learner import Learner, Optimisation
from driftrec.training.loss import TimeDensity


def images(count: int, side: int = 32, seed: int = 0) -> Tensor:
    """Smooth colours with a bar, in [-1, 1]."""
    generator = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        coarse = Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC)).astype(int)
        top, left = generator.integers(0, side - 8, 2)
        pixels[top : top + 5, left:] //= 2
        made.append(pixels)
    return torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2).float() / 127.5 - 1


@pytest.mark.parametrize("quality", [5, 10, 50, 90])
def test_the_published_code_is_jpegs_block_by_block(quality: int) -> None:
    """In plain NumPy, plane by plane."""
    x = images(2).double()
    found = published(quality)(x)
    tables = standard_tables(quality)
    for one, result in zip(x.numpy(), found.numpy(), strict=True):
        ycc = np.einsum("pc,chw->phw", np.array(THEIR_YCC), (one + 1) * 127.5)
        planes = []
        for i, plane in enumerate(ycc):
            small = plane - 128 if i == 0 else plane[::2, ::2]
            step, out = np.array(tables[min(i, 1)]).reshape(8, 8), np.empty_like(small)
            for top in range(0, small.shape[0], 8):
                for left in range(0, small.shape[1], 8):
                    block = np.s_[top : top + 8, left : left + 8]
                    out[block] = idctn(np.rint(dctn(small[block], norm="ortho") / step) * step, norm="ortho")
            planes.append(out + 128 if i == 0 else out.repeat(2, 0).repeat(2, 1))
        expected = np.einsum("cp,phw->chw", np.linalg.inv(THEIR_YCC), np.stack(planes)) / 127.5 - 1
        assert np.abs(result - expected).max() < 1e-9


def test_the_published_code_takes_whole_macroblocks() -> None:
    with pytest.raises(ValueError, match="multiples of 16, got \\(24, 32\\)"):
        published(10)(torch.zeros(1, 3, 24, 32))


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("quality", [5, 10, 75])
def test_the_files_code_is_its_encoder(quality: int, subsampling: str) -> None:
    pixels = ((images(1, 40)[0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    code = of_file(standard_tables(quality), subsampling)
    found = code(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1)
    assert np.array_equal(
        ((found[0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy(), degrade(pixels, quality, subsampling)
    )
    with pytest.raises(InvalidInput, match="4:1:1"):
        of_file(standard_tables(quality), "4:1:1")


@pytest.mark.parametrize(("eta", "eta_b"), [(1.0, 0.4), (0.5, 1.0), (0.0, 0.0)])
def test_the_sampler_is_theirs_step_by_step(eta: float, eta_b: float) -> None:
    levels, y = linear_levels(times()), images(1).double()
    assert times() == list(range(285, -1, -15))
    with pytest.raises(ValueError, match="divide the start, got 7 and 300"):
        times(7)
    draws = [torch.randn(y.shape, dtype=torch.float64) for _ in range(21)]
    code: Callable[[Tensor], Tensor] = lambda x: (x * 4).round() / 4  # noqa: E731

    def estimate(x: Tensor, i: int) -> Tensor:
        return 0.3 * x.sin() + 0.01 * i

    x = levels[0].sqrt() * y + (1 - levels[0]).sqrt() * draws[0]
    for i, kept in enumerate(levels):
        e = estimate(x, i)
        x0 = (x - (1 - kept).sqrt() * e) / kept.sqrt()
        bar = x0 - code(x0) + y
        after = levels[i + 1] if i < 19 else torch.ones(())
        mixed = after.sqrt() * (eta_b * bar + (1 - eta_b) * x0)
        x = mixed + (1 - after).sqrt() * (eta * draws[i + 1] + (1 - eta) * e)
    found = ddrm(estimate, y, code, lambda i: draws[i], levels, eta=eta, eta_b=eta_b)
    assert (found - x.clamp(-1, 1)).abs().max() < 1e-10


def smooth(count: int, side: int = 32, seed: int = 0) -> Tensor:
    """Nine colours that flow into each other, in [-1, 1]: what a small network learns in a minute."""
    generator = np.random.default_rng(seed)
    coarse = [Image.fromarray(generator.integers(0, 256, (3, 3, 3), dtype=np.uint8)) for _ in range(count)]
    pixels = np.stack([np.asarray(one.resize((side, side), Image.Resampling.BICUBIC)) for one in coarse])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_model_that_never_saw_a_jpeg_restores_one() -> None:
    """With their settings: 20 steps from 285, eta 1, eta_b 0.4, one sample."""
    torch.manual_seed(0)
    network = replace(NetworkConfig.tiny(), width=16, extra=())
    denoiser = Denoiser.create(network, Conditional(), "x0", residual_std=0.25)
    settings = Optimisation(steps=1500, lr=4e-3, warmup=20, ema_decay=0.98, muon=True, bf16=False)
    learner = Learner(denoiser, TimeDensity(power=2.0), settings)
    grey = torch.full((16, 3, 32, 32), 0.5)
    for step in range(settings.steps):
        learner.step((smooth(16, seed=1 + step) + 1) / 2, grey)
    denoiser.network.load_state_dict(learner.ema.state_of(denoiser.network))
    clean, other = smooth(8, seed=9999), smooth(8, seed=8888)
    code = of_file(standard_tables(10), "4:2:0")
    y = code(clean)
    estimate, levels = of_denoiser(denoiser.eval(), denoiser.process, times())
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        restored = ddrm(estimate, y, code, lambda _: torch.randn(y.shape, generator=generator), levels)
    psnr, bef = (
        {name: PAIR_METRICS[metric]((clean + 1) / 2, (one + 1) / 2).mean().item() for name, one in pair}
        for metric, pair in (("psnr", [("jpeg", y), ("ddrm", restored)]), ("bef", [("jpeg", y), ("ddrm", restored)]))
    )
    assert psnr["ddrm"] > psnr["jpeg"] + 0.3
    assert bef["ddrm"] < 0.3 * bef["jpeg"]
    # consistency: encoded again, it is (nearly) the file, which another image of the same kind is not
    off, others = ((code(one) - y).square().mean().sqrt().item() for one in (restored, other))
    assert off < 0.05 * others
