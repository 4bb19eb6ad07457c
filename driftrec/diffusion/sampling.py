"""From the JPEG back to the clean image: one function a sampler, all with one signature.

    sampler(denoise, process, y, noise, times) -> image        y and image: (B, 3, H, W) in [0, 1]

`denoise(x, y, t)` estimates x0; `noise(step)` gives standard normal noise like y; `times` fall from the start (at
most 1) to t_eps and come from a grid (`driftrec.diffusion.grids`). A start below 1 wants a `guess` of x0, say the
posterior mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from driftrec.diffusion.baselines import Cold
from driftrec.diffusion.denoiser import score_from_x0
from driftrec.diffusion.process import Diffusion, Process, Time, per_image
from driftrec.plugins import Table

Denoise = Callable[[Tensor, Tensor, Tensor], Tensor]
Noise = Callable[[int], Tensor]
Spacing = Literal["true", "authors"]


def start_state(process: Process, y: Tensor, noise: Noise, times: Tensor, guess: Tensor | None) -> Tensor:
    """x at times[0], x0 being guessed: by default as the JPEG, which costs nothing at t = 1, where x0 is (nearly)
    forgotten.
    """
    if guess is None and isinstance(process, Cold):
        return y
    return process.state(y if guess is None else guess, y, times[0], noise(0))


def reverse_drift(process: Diffusion, x: Tensor, y: Tensor, x0: Tensor, t: Time, share: float = 1.0) -> Tensor:
    """Of the reverse SDE (eq. 2): drift - g^2 score, the score being that of x0hat. share 1/2: of the ODE."""
    g2 = per_image(share * process.diffusion(t) ** 2, x)
    return process.drift(x, y, t) - g2 * score_from_x0(process, x, y, x0, t)


def multistep(
    denoise: Denoise, process: Process, y: Tensor, noise: Noise, times: Tensor, guess: Tensor | None = None, *,
    eta: float = 0.0,
    order: int = 2,
) -> Tensor:
    """Exponential multistep sampler in lambda = ln(a / sigma), for any process: len(times) evaluations.

    DPM-Solver++(2M) (Lu et al. 2022) carried over to a mean that moves: `transition` from time to time. eta from 0
    (ODE) over 1 (ancestral, the reverse SDE) to 2; order 1 is the kin of DDIM. The last output is x0hat at times[-1].
    """
    check_multistep(eta, order)
    check_linear(process)
    x = start_state(process, y, noise, times, guess)
    p = 1 + eta**2
    previous, h_previous = None, torch.ones((), dtype=torch.float64)
    for step, (s, t) in enumerate(pairwise(times), start=1):
        x0 = denoise(x, y, s)
        kernel = transition(process, s, t, eta)
        h, V = kernel.h, kernel.variance
        x = kernel.mean(x, y, x0)
        if order == 2 and previous is not None:  # the slope of x0hat along lambda
            slope = (x0 - previous) / per_image(h_previous, x)
            x = x + per_image(process.mean_coefficient(t) * (h + torch.expm1(-p * h) / p), x) * slope
        if V > 0:
            x = x + per_image(V.sqrt(), x) * noise(step)
        previous, h_previous = x0, h
    return denoise(x, y, times[-1])


class Transition(NamedTuple):
    """From x_s to an earlier x_t, x0 being known: x_t = A x_s + B y + C x0 + D + sqrt(variance) xi."""

    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    variance: Tensor
    h: Tensor  # lambda_t - lambda_s; infinite where nothing of x0 is left at s

    def mean(self, x: Tensor, y: Tensor, x0: Tensor) -> Tensor:
        """Of x_t; all (B, C, H, W)."""
        A, B, C, D = (per_image(weight, x) for weight in self[:4])
        return A * x + B * y + C * x0 + D


def transition(process: Process, s: Tensor, t: Tensor, eta: float) -> Transition:
    """eta 0: along the ODE; 1: p(x_t | x_s, x0, y), the process's own posterior. s and t: scalar or (B,), t < s."""
    a_s, a_t = process.mean_coefficient(s), process.mean_coefficient(t)
    sigma_t, ratio = process.std(t), process.std_ratio(t, s)
    h = -(a_s / a_t * ratio).log()
    A = ratio * (-(eta**2) * h).exp() if eta > 0 else ratio
    V = -(sigma_t**2) * torch.expm1(-2 * eta**2 * h) if eta > 0 else torch.zeros_like(h)
    bridge = ~ratio.isfinite()  # a bridge starts without noise: its first step is all fresh
    A, V = torch.where(bridge, 0.0, A), torch.where(bridge, sigma_t**2, V)
    h = torch.where(bridge, torch.inf, h)
    B = process.jpeg_coefficient(t) - A * process.jpeg_coefficient(s)
    C, D = -a_t * torch.expm1(-(1 + eta**2) * h), process.constant(t) - A * process.constant(s)
    return Transition(A, B, C, D, V, h)


def cold(
    denoise: Denoise, process: Process, y: Tensor, noise: Noise, times: Tensor, guess: Tensor | None = None
) -> Tensor:
    """For a process without noise: from s to t goes x + D(x0hat, t) - D(x0hat, s), D being what damages (Bansal et al.
    2022, algorithm 2). One evaluation a time; the last output is x0hat.
    """
    check_noiseless(process)
    nothing = torch.zeros_like(y)
    x = start_state(process, y, noise, times, guess)
    for s, t in pairwise(times):
        x0 = denoise(x, y, s)
        x = x + process.state(x0, y, t, nothing) - process.state(x0, y, s, nothing)
    return denoise(x, y, times[-1])


def euler_maruyama(
    denoise: Denoise, process: Process, y: Tensor, noise: Noise, times: Tensor, guess: Tensor | None = None, *,
    spacing: Spacing = "true",
    corrector_steps: int = 0,
    corrector_ratio: float = 0.5,
    denoise_last: bool = False,
) -> Tensor:
    """The reverse SDE (eq. 2), dx = [drift - g^2 score] dt + g dw: one evaluation per step, the last without fresh
    noise.

    spacing "true" steps between the times; "authors" takes a step of -1/N at each of the N times, as their code does.
    corrector_steps: annealed Langevin steps before each (Song and Ermon 2019), of size 2 (corrector_ratio sigma)^2.
    denoise_last: one more evaluation; the output is x0hat at the end instead of the mean of the last step.
    """
    diffusion = check_diffusion(process)
    x = mean = start_state(process, y, noise, times, guess)
    draw = counted(noise)
    for t, dt in _steps(times, spacing):
        for _ in range(corrector_steps):
            size = per_image(2 * (corrector_ratio * process.std(t)) ** 2, x)
            x = x + size * score_from_x0(process, x, y, denoise(x, y, t), t) + (2 * size).sqrt() * next(draw)
        mean = x + reverse_drift(diffusion, x, y, denoise(x, y, t), t) * per_image(dt, x)
        x = mean + per_image((diffusion.diffusion(t) ** 2 * -dt).sqrt(), x) * next(draw)
    return denoise(mean, y, times[-1]) if denoise_last else mean


def euler_heun(
    denoise: Denoise, process: Process, y: Tensor, noise: Noise, times: Tensor, guess: Tensor | None = None, *,
    spacing: Spacing = "true",
    denoise_last: bool = False,
) -> Tensor:
    """Heun's second order for the reverse SDE: two evaluations per step. The noise is additive, so the same kick serves
    both.

    spacing "authors": Roberts' scheme (arXiv:1210.0933) with steps of -1/N at each of the N times, as their code does:
    to and from the first estimate goes a whole kick more, up and down by turns (they draw which). A step that would
    end below 0 is Euler-Maruyama's.
    """
    diffusion = check_diffusion(process)

    def slope(x: Tensor, t: Tensor) -> Tensor:
        return reverse_drift(diffusion, x, y, denoise(x, y, t), t)

    def true_step(x: Tensor, s: Tensor, dt: Tensor, number: int) -> tuple[Tensor, Tensor]:
        t = s + dt
        variance = -dt * (diffusion.diffusion(s) ** 2 + diffusion.diffusion(t) ** 2) / 2
        kick = per_image(variance.sqrt(), x) * noise(number)
        first = slope(x, s)
        mean = x + (first + slope(x + first * per_image(dt, x) + kick, t)) * per_image(dt, x) / 2
        return mean, mean + kick

    def roberts_step(x: Tensor, s: Tensor, dt: Tensor, number: int) -> tuple[Tensor, Tensor]:
        root, kick, sign = per_image((-dt).sqrt(), x), noise(number), 1 if number % 2 else -1
        g = per_image(diffusion.diffusion(s), x)
        first = slope(x, s) * per_image(dt, x)
        if s + dt <= 0:
            return x + first, x + first + g * root * kick
        g_next = per_image(diffusion.diffusion(s + dt), x)
        second = slope(x + first + g * root * (kick + sign), s + dt) * per_image(dt, x)
        mean = x + (first + second) / 2
        return mean, mean + root * (g * (kick + sign) + g_next * (kick - sign)) / 2

    step = true_step if spacing == "true" else roberts_step
    x = mean = start_state(process, y, noise, times, guess)
    for number, (s, dt) in enumerate(_steps(times, spacing), start=1):
        mean, x = step(x, s, dt, number)
    return denoise(mean, y, times[-1]) if denoise_last else mean


def probability_flow(
    denoise: Denoise, process: Process, y: Tensor, noise: Noise, times: Tensor, guess: Tensor | None = None, *,
    tolerance: float = 1e-3,
    last_step: float = 0.0,
    denoise_last: bool = False,
) -> Tensor:
    """The probability-flow ODE, dx = [drift - g^2 score / 2] dt, by Dormand and Prince's 5(4) pair with error
    control.

    tolerance: largest root-mean-square error of a step, relative to 1 + |x|. Each image is solved alone, with steps
    of its own, so what else is in the batch changes neither its result nor its number of evaluations. At 1e-2 samples
    lose some of their spread.
    last_step: length of a step of the reverse SDE without noise at the end, as the authors' code denoises.
    """
    diffusion = check_diffusion(process)
    if not tolerance > 0:
        raise ValueError(f"tolerance must be positive, got {tolerance}")
    x = start_state(process, y, noise, times, guess)
    results: list[Tensor] = []
    for i in range(len(y)):
        image = y[i : i + 1]

        def slope(x: Tensor, t: Tensor, image: Tensor = image) -> Tensor:
            return reverse_drift(diffusion, x, image, denoise(x, image, t), t, share=0.5)

        end = dormand_prince(slope, x[i : i + 1], times[0], times[-1], tolerance)
        if last_step:
            end = end - last_step * reverse_drift(diffusion, end, image, denoise(end, image, times[-1]), times[-1])
        results.append(denoise(end, image, times[-1]) if denoise_last else end)
    return torch.cat(results)


def dormand_prince(
    slope: Callable[[Tensor, Tensor], Tensor], x: Tensor, start: Tensor, end: Tensor, tolerance: float
) -> Tensor:
    """Solve dx/dt = slope(x, t) from start to end < start (Dormand and Prince 1980; step control of Hairer et al.,
    II.4).
    """
    t, dt = start, (end - start) / 20
    stages = [slope(x, t)]
    while t > end:
        dt = torch.maximum(dt, end - t)
        step = stages[0]
        for node, row in zip(DP_NODES, DP_ROWS, strict=True):
            step = sum((weight * k for weight, k in zip(row, stages, strict=True)), torch.zeros_like(x))
            stages.append(slope(x + per_image(dt, x) * step, t + node * dt))
        higher = x + per_image(dt, x) * step  # the last row is the fifth-order solution: its slope starts the next step
        error = sum((weight * k for weight, k in zip(DP_ERROR, stages, strict=True)), torch.zeros_like(x))
        scaled = (per_image(dt, x) * error / (tolerance * (1 + torch.maximum(x.abs(), higher.abs())))).double()
        size = scaled.square().mean().sqrt().cpu()
        if size <= 1:
            t, x, stages = t + dt, higher, stages[-1:]
            t = end if (t - end).abs() < 1e-12 else t
        else:
            stages = stages[:1]
        dt = dt * (0.9 * size.clamp(min=1e-8) ** -0.2).clamp(0.2, 5.0)
    return x


DP_NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
DP_ROWS = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
DP_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)  # fifth minus fourth order


def check_multistep(eta: float, order: int) -> None:
    """Raises ValueError with the range."""
    if not 0 <= eta <= 2:
        raise ValueError(f"eta must be in 0..2, got {eta}")
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, got {order}")


def check_diffusion(process: Process) -> Diffusion:
    """The process, if it has a reverse SDE that can start from its noise. Raises ValueError naming the sampler to
    take.
    """
    if not isinstance(process, Diffusion) or not process.std(1.0) > 0:
        raise ValueError(f"{process.name} has no reverse SDE that starts from noise: use the sampler multistep")
    return process


def check_noiseless(process: Process) -> None:
    """Raises ValueError naming the sampler to take."""
    if process.std(0.5) > 0:
        raise ValueError(f"{process.name} has noise, and the sampler cold is for what has none: use multistep")


def check_linear(process: Process) -> None:
    """Raises ValueError naming the sampler to take."""
    if isinstance(process, Cold):
        raise ValueError("cold's states are JPEGs, no mixtures that multistep can step between: use the sampler cold")


def counted(noise: Noise) -> Iterator[Tensor]:
    """noise(1), noise(2), ...: each asked for when it is needed."""
    step = 0
    while True:
        step += 1
        yield noise(step)


def _steps(times: Tensor, spacing: Spacing) -> Iterator[tuple[Tensor, Tensor]]:
    """Time and (negative) length of each step."""
    if spacing == "authors":
        return ((t, torch.full_like(t, -1 / len(times))) for t in times)
    if spacing != "true":
        raise ValueError(f"unknown spacing {spacing!r}; known: true, authors")
    return zip(times[:-1], times.diff(), strict=True)


@dataclass(frozen=True)
class Method:
    """A sampler with the grid that suits it."""

    sample: Callable[..., Tensor]  # of the signature above, and options that have defaults
    options: tuple[str, ...] = ()  # names of them, fields of Sampling
    grid: str = "uniform"
    t_eps: float = 0.03  # last time; 0.03 is Table I's
    points: Callable[[int], int] = lambda steps: steps + 1  # of the grid, for so many steps
    check: Callable[[Process], object] = check_diffusion  # raises ValueError for a process that it does not go back


_OURS = {
    "multistep": Method(multistep, ("eta", "order"), "quadratic", 0.01, lambda steps: steps, check_linear),
    "cold": Method(cold, (), "uniform", 0.01, lambda steps: steps, check_noiseless),
    "euler-maruyama": Method(
        euler_maruyama,
        ("spacing", "corrector_steps", "corrector_ratio", "denoise_last"),
    ),
    "euler-heun": Method(euler_heun, ("spacing", "denoise_last")),
    "ode": Method(probability_flow, ("tolerance", "last_step", "denoise_last"), points=lambda steps: 2),
}
SAMPLERS: Table[Method] = Table("sampler", _OURS)
