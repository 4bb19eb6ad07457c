"""Samplers against a case that can be solved: u = x0 - y Gaussian with a known spectrum of scales, so that x0hat is
exact.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from driftrec.sampling import SAMPLERS, euler_maruyama, multistep, quadratic_grid, uniform_grid
from driftrec.sde import OUVE, PROCESSES, DriftProcess, per_image

SCALES = torch.tensor([0.02, 0.05, 0.1], dtype=torch.float64)  # standard deviation of x0 - y, one a channel


def exact_denoiser(process: DriftProcess) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """E[x0 | x_t, y] for x0 - y ~ N(0, SCALES^2)."""

    def denoise(x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        a, sigma = process.mean_coefficient(t), process.std(t)
        variance = SCALES.reshape(1, 3, 1, 1) ** 2
        return y + a * variance / (a**2 * variance + sigma**2) * (x - y)

    return denoise


def draw(sampler: Callable[..., Tensor], process: DriftProcess, times: Tensor, **options: float) -> Tensor:
    """Samples of x0 - y: (3, many)."""
    y = torch.full((1, 3, 200, 200), 0.5, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    kicks = [torch.randn(y.shape, generator=generator, dtype=y.dtype) for _ in range(len(times) + 1)]
    result = sampler(exact_denoiser(process), process, y, lambda step: kicks[step], times, **options)
    return (result - y)[0].reshape(3, -1)


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_multistep_draws_from_the_posterior(name: str, eta: float) -> None:
    drawn = draw(multistep, PROCESSES[name](), quadratic_grid(12), eta=eta)
    torch.testing.assert_close(drawn.std(dim=1), SCALES, rtol=0.1, atol=0)


def test_euler_maruyama_draws_from_the_posterior() -> None:
    drawn = draw(euler_maruyama, OUVE(), uniform_grid(100))
    torch.testing.assert_close(drawn.std(dim=1), SCALES, rtol=0.12, atol=0)


@pytest.mark.parametrize("name", PROCESSES)
def test_ten_multistep_evaluations_match_a_hundred_of_euler_maruyama(name: str) -> None:
    def error(drawn: Tensor) -> float:
        return ((drawn.std(dim=1) / SCALES).log() ** 2).mean().sqrt().item()

    process = PROCESSES[name]()
    assert error(draw(multistep, process, quadratic_grid(10))) <= error(
        draw(euler_maruyama, process, uniform_grid(100))
    )


def test_one_exponential_step_keeps_the_gaussian_bayes_posterior() -> None:
    """eta = 1 and x0 known: p(x_t | x_s, x0) by Bayes' rule."""
    process, s, t = OUVE(), torch.tensor(0.7, dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64)
    x0, y, xs, z = (torch.full((1, 3, 1, 1), v, dtype=torch.float64) for v in (0.3, 0.6, 0.8, 0.5))
    times = torch.stack([s, t])
    seen: list[Tensor] = []

    def denoise(x: Tensor, y: Tensor, time: Tensor) -> Tensor:
        seen.append(x)
        return x0

    start_noise = (xs - y) / process.std(s)
    multistep(denoise, process, y, lambda step: start_noise if step == 0 else z, times, eta=1.0)
    a_s, a_t, var_s, var_t = (
        process.mean_coefficient(s), process.mean_coefficient(t), process.std(s) ** 2, process.std(t) ** 2,
    )  # fmt: skip
    # forwards from t to s: x_s = r x_t + (1 - r) y + noise of variance q
    r = a_s / a_t
    q = var_s - r**2 * var_t
    precision = 1 / var_t + r**2 / q
    prior_mean = a_t * x0 + (1 - a_t) * y
    mean = (prior_mean / var_t + r * (xs - (1 - r) * y) / q) / precision
    torch.testing.assert_close(seen[1], mean + z / precision.sqrt(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("evaluations", [1, 2, 9])
def test_evaluations_are_what_was_asked_for(name: str, evaluations: int) -> None:
    sampler, grid = SAMPLERS[name]
    calls = 0

    def denoise(x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return y

    y = torch.rand(1, 3, 8, 8)
    sampler(denoise, OUVE(), y, lambda step: torch.zeros_like(y), grid(evaluations))
    assert calls == evaluations


def test_quadratic_grid_is_the_published_one() -> None:
    expected = torch.tensor([1, 0.7594, 0.5518, 0.3773, 0.2359, 0.1276, 0.0522, 0.01], dtype=torch.float64)
    torch.testing.assert_close(quadratic_grid(8), expected, rtol=0, atol=5e-5)


@pytest.mark.parametrize("grid", [uniform_grid, quadratic_grid])
def test_grids_refuse(grid: Callable[..., Tensor]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        grid(0)
    with pytest.raises(ValueError, match="t_eps < start"):
        grid(5, t_eps=0.5, start=0.4)


def test_batch_times_shape() -> None:
    assert per_image(torch.rand(4), torch.rand(4, 3, 2, 2)).shape == (4, 1, 1, 1)
