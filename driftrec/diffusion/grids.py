"""Time grids of the samplers: falling times from a start (at most 1) to t_eps, as float64 tensors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from driftrec.diffusion.process import Process

Grid = Callable[[Process, int, float, float], Tensor]  # (process, points, t_eps, start) -> (points,)


def power(process: Process, points: int, t_eps: float, start: float, exponent: float = 2.0) -> Tensor:  # noqa: ARG001
    """Equidistant in t^(1 / exponent): with an exponent above 1 more of the small times, where detail is decided."""
    _check(points, t_eps, start)
    share = torch.linspace(0, 1, points, dtype=torch.float64)
    root = 1 / exponent
    return (start**root + (t_eps**root - start**root) * share) ** exponent


def uniform_lambda(process: Process, points: int, t_eps: float, start: float) -> Tensor:
    """Equidistant in lambda = ln(a / sigma). Raises ValueError for a process without noise at a time between the
    ends.
    """
    from scipy.optimize import brentq  # a fifth of a second, which no other grid needs

    _check(points, t_eps, start)

    def lam(t: float, level: float = 0.0) -> float:
        return float((process.mean_coefficient(t) / process.std(t)).log()) - level

    first = min(start, 1 - 1e-4) if process.mean_coefficient(1.0) == 0 else start  # lambda(1) is infinite there
    if not np.isfinite([lam(first), lam(t_eps)]).all():
        raise ValueError(f"{process.name} has no noise, so no grid in lambda: use uniform or quadratic")
    levels = np.linspace(lam(first), lam(t_eps), points)[1:-1]
    inner = [brentq(partial(lam, level=level), t_eps, first, xtol=1e-12) for level in levels]
    return torch.tensor([start, *inner, t_eps][:points], dtype=torch.float64)


def _check(points: int, t_eps: float, start: float) -> None:
    if points < 1:
        raise ValueError(f"a grid needs at least 1 point, got {points}")
    if not 0 < t_eps < start <= 1:
        raise ValueError(f"need 0 < t_eps < start <= 1, got t_eps = {t_eps}, start = {start}")


GRIDS: dict[str, Grid] = {
    "uniform": partial(power, exponent=1.0),
    "quadratic": power,
    "lambda": uniform_lambda,
}
