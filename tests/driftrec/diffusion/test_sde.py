"""The forward processes: the paper's numbers, and the equations that they must solve."""

from dataclasses import replace

import pytest
import torch
from scipy.integrate import quad

from driftrec.diffusion.baselines import I2SB, IRSDE, Conditional, InDI, Regression
from driftrec.diffusion.drift import OUVE, PROCESSES, TSDVE, CosVE, DriftProcess
from driftrec.diffusion.process import Diffusion, Process

POINTS = {  # t: (a, sigma) for each process, from quadrature of eqs. 7-9 at 30 digits
    "ouve": {0.01: (0.99005, 0.003410), 0.03: (0.97045, 0.006136), 0.5: (0.60653, 0.099816), 0.9: (0.40657, 0.630944)},
    "tsdve": {0.01: (0.99990, 0.003675), 0.03: (0.99910, 0.006671), 0.5: (0.77880, 0.108714), 0.9: (0.44486, 0.641250)},
    "cosve": {0.01: (1.00000, 0.003704), 0.03: (0.99996, 0.006727), 0.5: (0.83386, 0.110450), 0.9: (0.44859, 0.636926)},
}
NORMALISERS = {"ouve": 3.34818, "tsdve": 3.59054, "cosve": 3.61883}
FAMILY: list[DriftProcess] = [OUVE(), TSDVE(), CosVE()]
IR_SDES = [IRSDE(schedule=schedule) for schedule in ("constant", "linear", "cosine")]  # type: ignore[arg-type]
DIFFUSIONS: list[Diffusion] = [*FAMILY, CosVE(gamma=0.5, sigma_max=0.3), I2SB(), *IR_SDES, Conditional()]


@pytest.mark.parametrize("process", FAMILY, ids=lambda p: p.name)
def test_published_points(process: DriftProcess) -> None:
    for t, (a, sigma) in POINTS[process.name].items():
        assert process.mean_coefficient(t).item() == pytest.approx(a, abs=5.1e-6)
        assert process.std(t).item() == pytest.approx(sigma, abs=5.1e-7)
    assert process.normaliser == pytest.approx(NORMALISERS[process.name], abs=5.1e-6)
    assert process.mean_coefficient(1.0).item() == pytest.approx(torch.e**-1, rel=1e-12)


@pytest.mark.parametrize("process", DIFFUSIONS, ids=str)
def test_moments_solve_their_own_equations(process: Diffusion) -> None:
    """d mean = drift dt, and d(sigma^2) = 2 (slope of the drift in x) sigma^2 + g^2, by central differences."""
    t = torch.linspace(0.02, 0.97, 48, dtype=torch.float64)
    step = 1e-5
    x0, y = (torch.full((48, 1, 1, 1), v, dtype=torch.float64) for v in (0.2, 0.9))
    mean, _ = process.marginal(x0, y, t)
    slope = (process.marginal(x0, y, t + step)[0] - process.marginal(x0, y, t - step)[0]) / (2 * step)
    torch.testing.assert_close(slope, process.drift(mean, y, t), rtol=1e-6, atol=1e-7)

    pull = (process.drift(mean + 1, y, t) - process.drift(mean, y, t)).flatten()
    slope = (process.std(t + step) ** 2 - process.std(t - step) ** 2) / (2 * step)
    expected = 2 * pull * process.std(t) ** 2 + process.diffusion(t) ** 2
    torch.testing.assert_close(slope, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("process", [*FAMILY, CosVE(gamma=0.5, sigma_max=0.3), TSDVE(sigma_max=0.5), IRSDE()], ids=str)
@pytest.mark.parametrize("t", [0.0005, 0.002, 0.2, 0.77, 1.0])
def test_variance_is_the_integral(process: Diffusion, t: float) -> None:
    """sigma^2 = a^2 * integral of g^2 / a^2, by adaptive quadrature."""

    def integrand(s: float) -> float:
        return (process.diffusion(s) / process.mean_coefficient(s)).item() ** 2

    integral, _ = quad(integrand, 0, t, epsabs=0, epsrel=1e-11)
    expected = process.mean_coefficient(t).item() ** 2 * integral
    assert process.std(t).item() ** 2 == pytest.approx(expected, rel=1e-8)


def test_end_points() -> None:
    assert OUVE().std(1.0).item() == pytest.approx(0.99999323, abs=1e-8)
    assert TSDVE().std(1.0).item() == pytest.approx(1.0, abs=1e-12)
    assert CosVE(sigma_max=0.3).std(1.0).item() == pytest.approx(0.3, abs=1e-12)
    for t in (0.0, 1.0):
        assert I2SB().std(t).item() == 0
    assert I2SB().mean_coefficient(1.0).item() == 0
    assert IRSDE().mean_coefficient(1.0).item() == pytest.approx(0.005, rel=1e-12)
    assert IRSDE().std(1.0).item() == pytest.approx(10 / 255, rel=1e-4)
    assert (InDI().std(0.7).item(), InDI(noise=0.1).std(0.7).item()) == (0, pytest.approx(0.07))


@pytest.mark.parametrize("process", [cls() for cls in PROCESSES.values()], ids=lambda p: p.name)
def test_every_process_starts_clean(process: Process) -> None:
    if not isinstance(process, Regression):
        assert process.mean_coefficient(0.0).item() == pytest.approx(1)
        assert process.jpeg_coefficient(0.0).item() == pytest.approx(0, abs=1e-12)
        assert process.std(0.0).item() == pytest.approx(0, abs=1e-7)
    shares = (process.mean_coefficient(0.4) + process.jpeg_coefficient(0.4)).item()
    assert shares == pytest.approx(1) or isinstance(process, Conditional)


@pytest.mark.parametrize("process", [*FAMILY, I2SB(), IRSDE(), Conditional()], ids=lambda p: p.name)
def test_forward_simulation_has_the_stated_marginal(process: Diffusion) -> None:
    """100,000 Euler-Maruyama paths of one pixel agree with mean and standard deviation to 1 %."""
    generator = torch.Generator().manual_seed(1)
    paths, steps, end = 100_000, 400, 0.6
    x0, y = 0.3, 0.9
    x = torch.full((paths, 1, 1, 1), x0, dtype=torch.float64)
    jpeg = torch.full_like(x, y)
    dt = end / steps
    for i in range(steps):
        t = (i + 0.5) * dt
        kick = process.diffusion(t) * dt**0.5 * torch.randn(x.shape, generator=generator, dtype=x.dtype)
        x = x + process.drift(x, jpeg, t) * dt + kick
    mean, sigma = process.marginal(torch.tensor([[[[x0]]]], dtype=x.dtype), jpeg[:1], end)
    assert x.mean().item() == pytest.approx(mean.item(), rel=0.01, abs=4 * sigma.item() / paths**0.5)
    assert x.std().item() == pytest.approx(sigma.item(), rel=0.01)


def test_scalar_and_batch_times_agree() -> None:
    times = torch.tensor([0.1, 0.4, 0.9])
    for process in DIFFUSIONS:
        each = torch.stack([process.std(t) for t in times])
        torch.testing.assert_close(process.std(times), each, rtol=1e-12, atol=0)
        x, y = torch.rand(3, 3, 4, 5), torch.rand(3, 3, 4, 5)
        single = torch.cat([process.drift(x[i : i + 1], y[i : i + 1], times[i]) for i in range(3)])
        torch.testing.assert_close(process.drift(x, y, times), single)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: OUVE(gamma=0.0), "gamma"),
        (lambda: OUVE(sigma_min=0.0), "sigma_min"),
        (lambda: replace(CosVE(), sigma_min=2.0), "sigma_min"),
        (lambda: IRSDE(rest=1.0), "rest"),
        (lambda: IRSDE(schedule="sine"), "constant, linear, cosine"),  # type: ignore[arg-type]
        (lambda: I2SB(beta_min=1.0), "beta_min"),
        (lambda: Conditional(beta_min=0.0), "beta_min"),
        (lambda: InDI(noise=-1.0), "noise"),
    ],
)
def test_refuses_impossible_settings(make, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        make()
