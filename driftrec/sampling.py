"""From the JPEG back to the clean image: one function a sampler, all with one signature; grids of times apart from
samplers.

    sampler(denoise, process, y, noise, times) -> image        y and image: (B, 3, H, W) in [0, 1]

`denoise(x, y, t)` estimates x0; `noise(step)` gives standard normal noise like y; `times` fall from the start (at
most 1) to t_eps.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from driftrec.denoiser import score_from_x0
from driftrec.sde import DriftProcess, per_image

Denoise = Callable[[Tensor, Tensor, Tensor], Tensor]
Noise = Callable[[int], Tensor]


class Sampler(Protocol):
    """What every sampler looks like."""

    def __call__(self, denoise: Denoise, process: DriftProcess, y: Tensor, noise: Noise, times: Tensor) -> Tensor: ...


def uniform_grid(evaluations: int, t_eps: float = 0.03, start: float = 1.0) -> Tensor:
    """evaluations + 1 equidistant times from start to t_eps (Table I: 100 steps, t_eps = 0.03): (evaluations + 1,)
    float64.
    """
    _check_grid(evaluations, t_eps, start)
    return torch.linspace(start, t_eps, evaluations + 1, dtype=torch.float64)


def quadratic_grid(evaluations: int, t_eps: float = 0.01, start: float = 1.0) -> Tensor:
    """`evaluations` times from start to t_eps, equidistant in sqrt(t): more of them where detail is decided."""
    _check_grid(evaluations, t_eps, start)
    share = torch.linspace(0, 1, evaluations, dtype=torch.float64)
    return (start**0.5 + (t_eps**0.5 - start**0.5) * share) ** 2


def euler_maruyama(denoise: Denoise, process: DriftProcess, y: Tensor, noise: Noise, times: Tensor) -> Tensor:
    """The reverse SDE (eq. 2), dx = [gamma f (y - x) - g^2 score] dt + g dw: len(times) - 1 evaluations."""
    x = start_state(process, y, noise, times)
    mean = x
    for step, (t, dt) in enumerate(zip(times[:-1], times.diff(), strict=True), start=1):  # dt < 0
        g2 = process.diffusion(t) ** 2
        score = score_from_x0(process, x, y, denoise(x, y, t), t)
        mean = x + (process.drift(x, y, t) - per_image(g2, x) * score) * per_image(dt, x)
        x = mean + per_image((g2 * -dt).sqrt(), x) * noise(step)
    return mean  # no fresh noise at the end


def multistep(
    denoise: Denoise, process: DriftProcess, y: Tensor, noise: Noise, times: Tensor, eta: float = 0.0
) -> Tensor:
    """Second-order exponential multistep sampler in lambda = ln(a / sigma), after DPM-Solver++(2M) (Lu et al. 2022)
    carried over to a mean that drifts: x_t = A x_s + B y + C x0hat + sqrt(V) xi with A + B + C = 1. eta from 0
    (ODE, the default) to 1 (reverse SDE). len(times) evaluations: the last output is x0hat at times[-1].
    """
    x = start_state(process, y, noise, times)
    order2 = 1 + eta**2
    previous: Tensor | None = None
    h_previous = torch.tensor(1.0)
    for step, (s, t) in enumerate(pairwise(times), start=1):
        x0 = denoise(x, y, s)
        a_s, a_t, sigma_s, sigma_t = (
            process.mean_coefficient(s),
            process.mean_coefficient(t),
            process.std(s),
            process.std(t),
        )
        h = (a_t / sigma_t).log() - (a_s / sigma_s).log()  # > 0
        A = sigma_t / sigma_s * (-(eta**2) * h).exp()
        C = -a_t * torch.expm1(-order2 * h)
        B = (1 - a_t) - A * (1 - a_s)
        mean = per_image(A, x) * x + per_image(B, x) * y + per_image(C, x) * x0
        if previous is not None:  # the slope of x0hat along lambda
            slope = (x0 - previous) / per_image(h_previous, x)
            mean = mean + per_image(a_t * (h + torch.expm1(-order2 * h) / order2), x) * slope
        V = -(sigma_t**2) * torch.expm1(-2 * eta**2 * h)
        x = mean + per_image(V.sqrt(), x) * noise(step) if eta > 0 else mean
        previous, h_previous = x0, h
    return denoise(x, y, times[-1])


def start_state(process: DriftProcess, y: Tensor, noise: Noise, times: Tensor) -> Tensor:
    """x at times[0]: the JPEG under the process's noise."""
    return y + per_image(process.std(times[0]), y) * noise(0)


def _check_grid(evaluations: int, t_eps: float, start: float) -> None:
    if evaluations < 1:
        raise ValueError(f"steps must be at least 1, got {evaluations}")
    if not 0 < t_eps < start <= 1:
        raise ValueError(f"need 0 < t_eps < start <= 1, got t_eps = {t_eps}, start = {start}")


# with the grid that gives it as many evaluations as asked for
SAMPLERS: dict[str, tuple[Sampler, Callable[[int], Tensor]]] = {
    "multistep": (multistep, quadratic_grid),
    "euler-maruyama": (euler_maruyama, uniform_grid),
}
