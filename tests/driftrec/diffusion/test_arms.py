"""Every process trains the same network with the same learner, and samples by the same restorer."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

from driftrec import Restorer
from driftrec.diffusion.baselines import I2SB, IRSDE, Cold, Conditional, InDI, Regression
from driftrec.diffusion.denoiser import ENDS, Denoiser, Form, check
from driftrec.diffusion.drift import OUVE, PROCESSES, TSDVE, CosVE
from driftrec.diffusion.process import Process
from driftrec.diffusion.sampling import multistep, transition
from driftrec.image import from_pil
from driftrec.jpeg.codec import degrade
from driftrec.models.checkpoint import save
from driftrec.networks.config import NetworkConfig
from driftrec.restoration.options import Sampling
from driftrec.training.learner import Learner, Optimisation
from driftrec.training.loss import Loss, TimeDensity, matching
from driftrec.training.patches import PatchConfig, draw_patches

ARMS: list[tuple[Process, Form, Loss]] = [
    (OUVE(), "noise", "mean"),  # the paper's
    (OUVE(), "noise", "half-sum"),
    (OUVE(), "x0", "mean"),
    (OUVE(), "x0", "log"),
    (TSDVE(), "x0", "mean"),
    (CosVE(), "x0", "mean"),
    (I2SB(), "x0", "mean"),
    (I2SB(), "bridge", "mean"),
    (IRSDE(), "x0", "mean"),
    (IRSDE(), "x0", "matching"),
    (Conditional(), "x0", "mean"),
    (Conditional(), "noise", "mean"),
    (InDI(), "residual", "mean"),
    (InDI(noise=0.1), "x0", "mean"),
    (Cold(), "residual", "mean"),
    (Regression(), "residual", "mean"),
]
NETWORK = replace(NetworkConfig.tiny(), width=16, multipliers=(1, 1), stem=4)
PATCHES = PatchConfig(size=32, per_image=64, quality_min=5, quality_max=15, share_double=0.0)


@pytest.fixture(scope="module")
def patches() -> tuple[torch.Tensor, torch.Tensor]:
    """Clean and damaged patches of a smooth coloured scene with edges."""
    generator = np.random.default_rng(0)
    coarse = Image.fromarray(generator.integers(0, 256, (24, 24, 3), dtype=np.uint8)).resize(
        (256, 256), Image.Resampling.BICUBIC
    )
    scene = np.asarray(coarse).copy()
    scene[60:130, 40:220] //= 2
    clean, damaged = draw_patches(scene, PATCHES, 0, 0, "scene")
    as_tensors = (torch.from_numpy(images).permute(0, 3, 1, 2) for images in (clean, damaged))
    first, second = as_tensors
    return first, second


QUICK = [(OUVE(), "noise", "mean"), (OUVE(), "x0", "log"), (I2SB(), "bridge", "mean"), (InDI(), "residual", "mean")]


@pytest.mark.parametrize(
    ("process", "form", "loss"),
    [pytest.param(*arm, marks=[] if arm in QUICK else pytest.mark.slow) for arm in ARMS],
    ids=lambda arm: getattr(arm, "name", arm),
)
def test_loss_falls_and_it_samples(
    process: Process, form: Form, loss: Loss, patches: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    denoiser = Denoiser.create(NETWORK, process, form)
    optimisation = Optimisation(steps=200, lr=3e-3, warmup=10, ema_decay=0.9, bf16=False)
    learner = Learner(denoiser, TimeDensity(), optimisation, loss=loss)
    losses = []
    for step in range(200):
        picked = torch.randint(64, (8,), generator=torch.Generator().manual_seed(step))
        losses.append(learner.step(patches[0][picked], patches[1][picked]).loss)
    errors = np.exp(losses) if loss == "log" else losses
    assert np.mean(errors[-50:]) < 0.95 * np.mean(errors[:25])

    save(tmp_path / "arm.safetensors", denoiser, learner.ema.state_of(denoiser.network))
    restorer = Restorer.from_pretrained(str(tmp_path / "arm.safetensors"), device="cpu")
    damaged = from_pil(Image.fromarray(patches[1][0].permute(1, 2, 0).numpy()))
    steps = 1 if isinstance(process, Regression) else 4
    sampler = "cold" if isinstance(process, Cold) else "multistep"
    done = restorer.restore([damaged], ["a"], 0, Sampling(sampler=sampler, steps=steps, fidelity=0.0))[0]
    assert done.nfe == steps
    assert done.picture.rgb.std() > 1


@pytest.mark.parametrize("process", [InDI(), Regression()], ids=lambda p: p.name)
def test_processes_without_noise_take_the_residual_form(process: Process) -> None:
    with pytest.raises(ValueError, match="must be residual"):
        Denoiser.create(NETWORK, process, "x0")


def test_regression_is_equation_10(patches: tuple[torch.Tensor, torch.Tensor]) -> None:
    """The state is the JPEG, and the loss the squared error of D(y), in units of residual_std."""
    torch.manual_seed(0)
    denoiser = Denoiser.create(NETWORK, Regression(), "residual")
    x0, y = (images[:4].float() / 255 for images in patches)
    t = torch.ones(4)
    mean, sigma = denoiser.process.marginal(x0, y, t)
    assert torch.equal(mean, y)
    assert not sigma.any()
    error = denoiser.network_output(y, y, t) - denoiser.network_target(x0, y, y, t)
    torch.testing.assert_close(error * denoiser.residual_std, denoiser(y, y, t) - x0, rtol=0, atol=1e-6)


FORMS: tuple[Form, ...] = get_args(Form)
REFUSED = {
    *((name, "bridge") for name in PROCESSES if name != "i2sb"),
    *((name, form) for name in ("indi", "cold", "regression") for form in ("noise", "x0")),
    ("i2sb", "noise"),
    ("conditional", "residual"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", list(PROCESSES))
def test_every_process_and_form_is_finite_at_both_ends_or_refused(name: str, form: Form) -> None:
    """What it sees, what it should say, and the estimate whatever it says, at the ends of time and between."""
    process = PROCESSES[name]()
    if (name, form) in REFUSED:
        with pytest.raises(ValueError, match=r"take x0|must be residual") as refusal:
            check(process, form, 0.05)
        assert name in str(refusal.value)
        assert form in str(refusal.value)
        return
    torch.manual_seed(0)
    denoiser = Denoiser.create(NETWORK, process, form)
    x0, y = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    for t in (*ENDS, 0.01, 0.03, 0.5):
        times = torch.full((2,), t)
        x = process.state(x0, y, times, torch.randn(x0.shape))
        assert x.isfinite().all()
        assert all(part.isfinite().all() for part in denoiser._network_input(x, y, times))
        assert denoiser(x, y, times).isfinite().all()
        target = denoiser.network_target(x0, x, y, times)
        assert denoiser.estimate(target, x, y, times).isfinite().all() or form == "direct"
        if process.std(t) > 0 or form == "residual":
            torch.testing.assert_close(denoiser.estimate(target, x, y, times), x0, rtol=0, atol=2e-2)


def test_a_residual_of_no_size_is_refused() -> None:
    with pytest.raises(ValueError, match="residual_std"):
        check(OUVE(), "x0", 1e30)


@pytest.mark.parametrize(("process", "form"), [(I2SB(), "noise"), (InDI(noise=0.1), "noise"), (OUVE(), "bridge")])
def test_what_has_no_level_at_an_end_is_refused(process: Process, form: Form) -> None:
    with pytest.raises(ValueError, match="take x0"):
        check(process, form, 0.05)


TIMES = [(1.0, 0.7), (0.7, 0.35), (0.35, 0.1), (0.1, 1e-3)]


@pytest.mark.parametrize(("n", "m"), TIMES)
def test_i2sbs_posterior_is_theirs(n: float, m: float) -> None:
    """Liu et al. 2023, eqs. 4 and 11: products of two Gaussians."""
    process = I2SB()
    s_m, s_n, total = (process.std_from_clean(t).item() ** 2 for t in (m, n, 1.0))
    kernel = transition(process, *torch.tensor([n, m], dtype=torch.float64), eta=1.0)
    between = s_n - s_m
    of_state = kernel.A + (kernel.B if n == 1 else 0)  # where the state is y
    assert of_state.item() == pytest.approx(s_m / s_n, abs=1e-10)
    assert kernel.C.item() == pytest.approx(between / s_n, abs=1e-10)
    assert kernel.variance.item() == pytest.approx(s_m * between / s_n, abs=1e-10)
    assert n == 1 or abs(kernel.B.item()) < 1e-10
    assert process.mean_coefficient(m).item() == pytest.approx((total - s_m) / total, abs=1e-10)
    assert process.std(m).item() ** 2 == pytest.approx(s_m * (total - s_m) / total, abs=1e-10)


def test_i2sbs_sampler_is_theirs() -> None:
    """By what its process recommends: from time to time x0hat, then p(x_m | x_n, x0hat)."""
    process, y = I2SB(), torch.rand(1, 3, 4, 4, dtype=torch.float64)
    noise = [torch.randn(y.shape, dtype=torch.float64) for _ in range(9)]
    resolved = Sampling(steps=8).resolve(process.sampling)
    times = resolved.times(process)
    assert torch.allclose(times.diff(), times.diff()[0].expand(7), atol=1e-12)
    assert times[-1].item() == pytest.approx(1e-3)

    def denoise(x: torch.Tensor, y: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return 0.7 * x + 0.1 * y + 0.1 * t

    x = y
    for step, (n, m) in enumerate(pairwise(times), start=1):
        s_n, s_m = process.std_from_clean(n) ** 2, process.std_from_clean(m) ** 2
        x = (s_n - s_m) / s_n * denoise(x, y, n) + s_m / s_n * x + (s_m * (s_n - s_m) / s_n).sqrt() * noise[step]
    expected = denoise(x, y, times[-1])
    found = multistep(denoise, process, y, lambda step: noise[step], times, eta=resolved.eta, order=resolved.order)
    assert (found - expected).abs().max() < 1e-10


@pytest.mark.parametrize(("n", "m"), TIMES)
def test_irsdes_posterior_is_theirs(n: float, m: float) -> None:
    """Luo et al. 2023, Proposition 3.2 and its variance."""
    process = IRSDE()
    bar_n, bar_m = (float(process._integrated_rate(np.asarray(t))) for t in (n, m))
    prime = bar_n - bar_m
    kernel = transition(process, *torch.tensor([n, m], dtype=torch.float64), eta=1.0)
    of_state = np.expm1(-2 * bar_m) / np.expm1(-2 * bar_n) * np.exp(-prime)
    of_clean = np.expm1(-2 * prime) / np.expm1(-2 * bar_n) * np.exp(-bar_m)
    variance = -(process.noise_level**2) * np.expm1(-2 * bar_m) * np.expm1(-2 * prime) / np.expm1(-2 * bar_n)
    found = (kernel.A, kernel.C, kernel.B, kernel.variance)
    for value, expected in zip(found, (of_state, of_clean, 1 - of_state - of_clean, variance), strict=True):
        assert value.item() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("name", [name for name in PROCESSES if name != "cold"])
def test_steps_keep_the_marginals(name: str) -> None:
    """From x_s as the process has it, a step with the true x0 gives mean and variance of x_t."""
    process = PROCESSES[name]()
    x0, y = torch.tensor(0.8).reshape(1, 1, 1, 1).double(), torch.tensor(0.3).reshape(1, 1, 1, 1).double()
    for eta in (0.0, 1.0):
        for n, m in TIMES:
            s, t = torch.tensor([n, m], dtype=torch.float64)
            kernel = transition(process, s, t, eta)
            mean_s, sigma_s = process.marginal(x0, y, s)
            mean_t, sigma_t = process.marginal(x0, y, t)
            if name in ("regression", "indi"):
                assert kernel.mean(mean_s, y, x0).item() == pytest.approx(mean_t.item(), abs=1e-10)
                continue
            assert kernel.mean(mean_s, y, x0).item() == pytest.approx(mean_t.item(), abs=1e-10)
            if sigma_s > 0 or eta == 1:
                spread = (kernel.A * sigma_s) ** 2 + kernel.variance
                assert spread.item() == pytest.approx(sigma_t.item() ** 2, rel=1e-9, abs=1e-14)


def test_palette_is_the_one_of_pixels_in_minus_one_to_one() -> None:
    """2 x - 1 of its state is the state of Song et al.'s VP diffusion of 2 x0 - 1."""
    process, x0 = Conditional(), torch.rand(4, 3, 2, 2, dtype=torch.float64)
    for t in (0.1, 0.5, 1.0):
        integral = process.beta_min * t + (process.beta_max - process.beta_min) * t**2 / 2
        mean, sigma = process.marginal(x0, torch.zeros_like(x0), t)
        torch.testing.assert_close(2 * mean - 1, np.exp(-integral / 2) * (2 * x0 - 1))
        assert 2 * sigma.item() == pytest.approx((1 - np.exp(-integral)) ** 0.5)


def test_cold_states_are_jpegs_and_its_sampler_ends_at_the_estimate() -> None:
    process, x0 = Cold(), torch.rand(2, 3, 32, 32)
    t = torch.tensor([0.0, 1.0])
    assert process.quality(t).tolist() == [100, 10]
    state = process.state(x0, x0, t, torch.zeros_like(x0))
    expected = degrade((x0[1] * 255).round().byte().permute(1, 2, 0).numpy(), 10, "4:2:0")
    assert np.array_equal((state[1] * 255).round().byte().permute(1, 2, 0).numpy(), expected)
    given = Sampling(sampler="cold", steps=4).resolve({})
    found = given.draw()(lambda x, y, t: x0, process, state, lambda _: x0, given.times(process))
    assert torch.equal(found, x0)
    with pytest.raises(ValueError, match="use the sampler cold"):
        Sampling().resolve({}).check(process)
    with pytest.raises(ValueError, match="use multistep"):
        given.check(OUVE())


def test_the_best_state_has_no_matching_loss() -> None:
    """IR-SDE's objective is least where x0hat is such that the Euler step ends in the likeliest state: next to x0."""
    process, generator = IRSDE(), torch.Generator().manual_seed(0)
    x0, y, z = (torch.rand(8, 3, 8, 8, generator=generator, dtype=torch.float64) for _ in range(3))
    t = torch.linspace(0.1, 0.9, 8, dtype=torch.float64)
    x = process.state(x0, y, t, z)
    losses = {off: matching(process, x0, x0 + off, x, y, t).mean().item() for off in (-0.05, -0.02, 0.0, 0.02, 0.05)}
    assert min(losses, key=lambda off: losses[off]) == 0.0
