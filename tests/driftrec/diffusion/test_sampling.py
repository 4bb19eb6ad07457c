"""Samplers against a case that can be solved: x0 - y Gaussian with known scales, so that x0hat is exact."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from driftrec.diffusion.baselines import I2SB, IRSDE, Conditional, InDI
from driftrec.diffusion.drift import OUVE, TSDVE, CosVE
from driftrec.diffusion.grids import GRIDS
from driftrec.diffusion.process import Diffusion, Process
from driftrec.diffusion.sampling import SAMPLERS, dormand_prince, multistep
from driftrec.restoration.options import Sampling

SCALES = torch.tensor([0.02, 0.05, 0.1], dtype=torch.float64)  # standard deviation of x0 - y, one a channel
FAMILY = [OUVE(), TSDVE(), CosVE()]
NOISY: list[Diffusion] = [*FAMILY, IRSDE(noise_level=0.2), Conditional()]  # with noise at t = 1
EVERY: list[Process] = [*NOISY, I2SB(), InDI(noise=0.1)]
END = {"conditional": 1e-4, "i2sb": 1e-3}  # t_eps where sigma(0.01) is not small beside SCALES


def exact_denoiser(process: Process) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """E[x0 | x_t, y] for x0 - y ~ N(0, SCALES^2)."""

    def denoise(x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        a, sigma = process.mean_coefficient(t), process.std(t).clamp(min=1e-9)
        variance = SCALES.reshape(1, 3, 1, 1) ** 2
        return y + a * variance / (a**2 * variance + sigma**2) * (x - process.centre(y, t))

    return denoise


def draw(process: Process, sampling: Sampling) -> Tensor:
    """Samples of x0 - y: (3, many)."""
    y = torch.full((1, 3, 100, 100), 0.5, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)

    def noise(step: int) -> Tensor:
        return torch.randn(y.shape, generator=generator, dtype=y.dtype)

    settings = sampling.resolve({})
    result = settings.draw()(exact_denoiser(process), process, y, noise, settings.times(process))
    return (result - y)[0].reshape(3, -1)


def error(drawn: Tensor) -> float:
    """Of the standard deviation, root mean square of its logarithm over the scales."""
    return (drawn.std(dim=1) / SCALES).log().square().mean().sqrt().item()


@pytest.mark.parametrize("process", EVERY, ids=lambda p: p.name)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_multistep_draws_from_the_posterior(process: Process, eta: float) -> None:
    assert error(draw(process, Sampling(steps=160, eta=eta, t_eps=END.get(process.name)))) < 0.08


@pytest.mark.parametrize("process", NOISY, ids=lambda p: p.name)
@pytest.mark.parametrize("sampler", ["euler-maruyama", "euler-heun"])
def test_reverse_sde_draws_from_the_posterior(process: Diffusion, sampler: str) -> None:
    assert (
        error(draw(process, Sampling(sampler=sampler, steps=120, grid="quadratic", t_eps=END.get(process.name, 0.01))))
        < 0.08
    )


@pytest.mark.parametrize("process", NOISY, ids=lambda p: p.name)
def test_probability_flow_draws_from_the_posterior(process: Diffusion) -> None:
    assert (
        error(draw(process, Sampling(sampler="ode", tolerance=1e-4, steps=1, t_eps=END.get(process.name, 0.01)))) < 0.08
    )


@pytest.mark.parametrize("process", FAMILY, ids=lambda p: p.name)
def test_ten_multistep_evaluations_match_a_hundred_of_euler_maruyama(process: Process) -> None:
    hundred = Sampling(sampler="euler-maruyama", steps=100)
    assert error(draw(process, Sampling(steps=10))) <= error(draw(process, hundred))


def test_averages_of_samples_gain_what_they_should() -> None:
    """The mean of k samples has (1 + 1/k) times the least possible squared error."""
    process, sampling = OUVE(), Sampling(steps=20).resolve({})
    y = torch.full((1, 3, 100, 100), 0.5, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)

    def noise(step: int) -> Tensor:
        return torch.randn(y.shape, generator=generator, dtype=y.dtype)

    clean = y + SCALES.reshape(1, 3, 1, 1) * noise(0)
    samples = [
        sampling.draw()(exact_denoiser(process), process, y, noise, sampling.times(process)) for _ in range(8)
    ]
    errors = [(torch.stack(samples[:k]).mean(dim=0) - clean).square().mean() for k in (1, 2, 4, 8)]
    gains = [10 * (errors[0] / each).log10().item() for each in errors]
    assert gains == pytest.approx([0.0, 1.25, 2.04, 2.50], abs=0.3)


def test_options_change_what_they_say() -> None:
    process = OUVE()
    plain = Sampling(sampler="euler-maruyama", steps=30)
    assert error(draw(process, Sampling(sampler="euler-maruyama", steps=30, corrector_steps=2))) < error(
        draw(process, plain)
    )
    authors = draw(process, Sampling(sampler="euler-maruyama", steps=30, spacing="authors"))
    assert not torch.equal(authors, draw(process, plain))
    first, second = (error(draw(process, Sampling(steps=6, order=order))) for order in (1, 2))
    assert second < first


@pytest.mark.parametrize("process", [*NOISY, I2SB()], ids=lambda p: p.name)
def test_eta_1_is_the_gaussian_bayes_posterior(process: Diffusion) -> None:
    """One step with x0 known, from s to t: p(x_t | x_s, x0) by Bayes' rule."""
    s, t = torch.tensor(0.7, dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64)
    x0, y, xs, z = (torch.full((1, 3, 1, 1), v, dtype=torch.float64) for v in (0.3, 0.6, 0.8, 0.5))
    seen = one_step(process, s, t, x0, y, xs, z, eta=1.0)
    r = process.mean_coefficient(s) / process.mean_coefficient(
        t
    )  # forwards: x_s = r x_t + rest y + noise of variance q
    rest = (process.jpeg_coefficient(s) - r * process.jpeg_coefficient(t)) * y
    rest = rest + process.constant(s) - r * process.constant(t)
    var_t = process.std(t) ** 2
    q = process.std(s) ** 2 - r**2 * var_t
    precision = 1 / var_t + r**2 / q
    prior_mean, _ = process.marginal(x0, y, t)
    mean = (prior_mean / var_t + r * (xs - rest) / q) / precision
    torch.testing.assert_close(seen, mean + z / precision.sqrt(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("process", [*NOISY, I2SB()], ids=lambda p: p.name)
def test_eta_0_is_the_probability_flow_with_x0hat_frozen(process: Diffusion) -> None:
    s, t = torch.tensor(0.7, dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64)
    x0, y, xs = (torch.full((1, 3, 1, 1), v, dtype=torch.float64) for v in (0.3, 0.6, 0.8))

    def slope(x: Tensor, time: Tensor) -> Tensor:
        mean, sigma = process.marginal(x0, y, time)
        return process.drift(x, y, time) - process.diffusion(time) ** 2 / 2 * (mean - x) / sigma**2

    flow = dormand_prince(slope, xs, s, t, 1e-13)
    torch.testing.assert_close(
        one_step(process, s, t, x0, y, xs, torch.zeros_like(y), eta=0.0), flow, rtol=0, atol=1e-10
    )


def one_step(
    process: Process, s: Tensor, t: Tensor, x0: Tensor, y: Tensor, xs: Tensor, z: Tensor, eta: float
) -> Tensor:
    """x_t after one step from x_s = xs, with x0hat = x0 and fresh noise z."""
    seen: list[Tensor] = []

    def denoise(x: Tensor, y: Tensor, time: Tensor) -> Tensor:
        seen.append(x)
        return x0

    start = (xs - process.centre(y, s)) / process.std(s)
    multistep(denoise, process, y, lambda step: start if step == 0 else z, torch.stack([s, t]), eta=eta)
    torch.testing.assert_close(seen[0], xs)
    return seen[1]


def test_a_bridges_first_step_is_all_fresh_noise() -> None:
    process, t = I2SB(), torch.tensor([1.0, 0.6], dtype=torch.float64)
    x0, y, z = (torch.full((1, 3, 1, 1), v, dtype=torch.float64) for v in (0.3, 0.6, 2.0))
    seen: list[Tensor] = []

    def denoise(x: Tensor, y: Tensor, time: Tensor) -> Tensor:
        seen.append(x)
        return x0

    multistep(denoise, process, y, lambda step: z, t)
    assert torch.equal(seen[0], y)
    mean, sigma = process.marginal(x0, y, t[1])
    torch.testing.assert_close(seen[1], mean + sigma * z)


def test_indi_without_noise_walks_the_straight_line() -> None:
    x0, y = torch.rand(2, 1, 3, 4, 4, dtype=torch.float64)
    seen: list[Tensor] = []

    def denoise(x: Tensor, y: Tensor, time: Tensor) -> Tensor:
        seen.append(x)
        return x0

    times = torch.tensor([1.0, 0.5, 0.1], dtype=torch.float64)
    assert torch.equal(multistep(denoise, InDI(), y, lambda step: torch.zeros_like(y), times), x0)
    for x, t in zip(seen, times, strict=True):
        torch.testing.assert_close(x, (1 - t) * x0 + t * y)


@pytest.mark.parametrize(
    ("sampling", "evaluations"),
    [
        (Sampling(steps=1), 1),
        (Sampling(steps=9), 9),
        (Sampling(sampler="euler-maruyama", steps=1), 1),
        (Sampling(sampler="euler-maruyama", steps=9), 9),
        (Sampling(sampler="euler-maruyama", steps=9, spacing="authors"), 9),
        (Sampling(sampler="euler-maruyama", steps=9, corrector_steps=2), 27),
        (Sampling(sampler="euler-maruyama", steps=9, denoise_last=True), 10),
        (Sampling(sampler="euler-heun", steps=5), 10),
    ],
)
def test_evaluations_are_what_was_asked_for(sampling: Sampling, evaluations: int) -> None:
    calls = 0

    def denoise(x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return y

    y = torch.rand(1, 3, 8, 8)
    settings = sampling.resolve({})
    settings.draw()(denoise, OUVE(), y, lambda step: torch.zeros_like(y), settings.times(OUVE()))
    assert calls == evaluations


def test_ode_steps_of_an_image_do_not_depend_on_its_batch() -> None:
    process, sampling = OUVE(), Sampling(sampler="ode", tolerance=1e-3, steps=1).resolve({})
    y = torch.rand(3, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    kicks = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(1))
    seen = 0

    def denoise(x: Tensor, image: Tensor, t: Tensor) -> Tensor:
        nonlocal seen
        seen += len(x)
        return exact_denoiser(process)(x, image, t)

    together = sampling.draw()(denoise, process, y, lambda step: kicks, sampling.times(process))
    evaluations, seen = seen, 0
    for i in range(3):
        part = slice(i, i + 1)
        alone = sampling.draw()(denoise, process, y[part], lambda step, part=part: kicks[part], sampling.times(process))
        assert torch.equal(alone, together[part])
    assert seen == evaluations


def test_quadratic_grid_is_the_published_one() -> None:
    expected = torch.tensor([1, 0.7594, 0.5518, 0.3773, 0.2359, 0.1276, 0.0522, 0.01], dtype=torch.float64)
    torch.testing.assert_close(Sampling(steps=8).resolve({}).times(OUVE()), expected, rtol=0, atol=5e-5)


@pytest.mark.parametrize("process", [*FAMILY, I2SB()], ids=lambda p: p.name)
def test_lambda_grid_is_equidistant_in_lambda(process: Process) -> None:
    times = GRIDS["lambda"](process, 7, 0.01, 0.9)
    steps = (process.mean_coefficient(times) / process.std(times)).log().diff()
    torch.testing.assert_close(steps, steps.mean().expand(6))
    assert (times[0].item(), times[-1].item()) == (0.9, 0.01)


@pytest.mark.parametrize("name", GRIDS)
def test_grids_fall_from_start_to_t_eps_and_refuse_the_impossible(name: str) -> None:
    times = GRIDS[name](OUVE(), 5, 0.02, 0.8)
    assert (times.diff() < 0).all()
    torch.testing.assert_close(times[[0, -1]], torch.tensor([0.8, 0.02], dtype=torch.float64))
    assert GRIDS[name](OUVE(), 1, 0.02, 1.0).tolist() == [1.0]
    with pytest.raises(ValueError, match="at least 1"):
        GRIDS[name](OUVE(), 0, 0.01, 1.0)
    with pytest.raises(ValueError, match="t_eps < start"):
        GRIDS[name](OUVE(), 5, 0.5, 0.4)


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in ("multistep", "cold")])
def test_samplers_of_the_reverse_sde_refuse_processes_without_one(name: str) -> None:
    sampling = Sampling(sampler=name, steps=2).resolve({})
    y = torch.rand(1, 3, 8, 8)
    with pytest.raises(ValueError, match="use the sampler multistep"):
        sampling.draw()(lambda x, y, t: y, I2SB(), y, lambda step: y, sampling.times(OUVE()))


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"eta": 2.5}, r"eta must be in 0\.\.2"),
        ({"order": 3}, "1 or 2"),
        ({"tolerance": 0.0}, "tolerance must be positive"),
        ({"start": 0.005}, "t_eps < start"),
        ({"start": 1.5}, "start <= 1"),
        ({"grid": "cosine"}, "uniform, quadratic, lambda"),
        ({"corrector_steps": -1}, "corrector_steps"),
    ],
)
def test_sampling_refuses_what_is_out_of_range(bad: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Sampling(**bad)  # type: ignore[arg-type]


SPREAD = {  # of samples, as a share of the truth's: by (eta, order), standard deviation s of x0 - y, (start, steps)
    (0.0, 2): {
        0.01: {(0.15, 2): 0.60, (0.2, 2): 0.55, (0.3, 2): 0.46, (1.0, 8): 0.95},
        0.02: {(0.15, 2): 0.57, (0.2, 2): 0.57, (0.3, 2): 0.47, (1.0, 8): 1.02},
        0.05: {(0.15, 2): 0.36, (0.2, 2): 0.45, (0.3, 2): 0.53, (1.0, 8): 1.02},
        0.1: {(0.15, 2): 0.20, (0.2, 2): 0.27, (0.3, 2): 0.42, (1.0, 8): 1.01},
    },
    (1.0, 1): {
        0.01: {(0.15, 2): 0.50, (0.2, 2): 0.43, (0.25, 1): 0.24, (0.25, 2): 0.39, (0.3, 2): 0.35, (1.0, 8): 0.68},
        0.02: {(0.15, 2): 0.53, (0.2, 2): 0.50, (0.25, 1): 0.40, (0.25, 2): 0.44, (0.3, 2): 0.37, (1.0, 8): 0.71},
        0.05: {(0.15, 2): 0.36, (0.2, 2): 0.44, (0.25, 1): 0.49, (0.25, 2): 0.49, (0.3, 2): 0.50, (1.0, 8): 0.71},
        0.1: {(0.15, 2): 0.20, (0.2, 2): 0.27, (0.25, 1): 0.34, (0.25, 2): 0.34, (0.3, 2): 0.41, (1.0, 8): 0.68},
    },
}


@pytest.mark.parametrize("kind", SPREAD)
@pytest.mark.parametrize("s", [0.01, 0.02, 0.05, 0.1])
def test_samples_from_one_have_the_spread_of_what_is_open_and_later_ones_less(
    kind: tuple[float, int], s: float
) -> None:
    """Of an exact Gaussian of which y says nothing: the table of docs/explanation/samplers.md."""
    process, y = OUVE(), torch.full((1, 3, 100, 100), 0.5, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)

    def denoise(x: torch.Tensor, y: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        a, sigma = process.mean_coefficient(t), process.std(t)
        return y + a * s**2 / (a**2 * s**2 + sigma**2) * (x - process.centre(y, t))

    eta, order = kind
    for (start, steps), expected in SPREAD[kind][s].items():
        resolved = Sampling(start=start, steps=steps, eta=eta, order=order).resolve({})
        noise = [torch.randn(y.shape, generator=generator, dtype=torch.float64) for _ in range(steps + 1)]
        guess = y if start < 1 else None
        found = resolved.draw()(denoise, process, y, noise.__getitem__, resolved.times(process), guess)
        assert (found - y).std().item() / s == pytest.approx(expected, abs=0.02)
