"""The drift family: diffusions from the clean image x0 to its JPEG y (Welker, Chapman, Gerkmann, IEEE TIP 2024, eqs.
3-9).

    dx = gamma f(t) (y - x) dt + g(t) dw,        g(t) = c sigma_min (sigma_max / sigma_min)^t,        t in [0, 1]

so that x_t = a(t) x0 + (1 - a(t)) y + sigma(t) z with a(t) = exp(-gamma F(t)), F the integral of f. Three members:
OUVE, TSDVE, CosVE. `PROCESSES` names them and all others that train the same network.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from scipy.special import dawsn
from torch import Tensor

from driftrec.diffusion.baselines import I2SB, IRSDE, Cold, Conditional, InDI, Regression
from driftrec.diffusion.process import Array, MeanReverting, Process, Time, as_array, as_tensor
from driftrec.plugins import Table

if TYPE_CHECKING:
    from scipy.interpolate import CubicSpline


@dataclass(frozen=True)
class DriftProcess(MeanReverting):
    """What the three members share; they say f, F, the variance and c."""

    gamma: float = 1.0  # pull of the mean towards the JPEG, per unit time
    sigma_min: float = 0.01  # noise scale for pixels in [0, 1]
    sigma_max: float = 1.0  # noise scale at t = 1

    def __post_init__(self) -> None:
        if not self.gamma > 0:
            raise ValueError(f"gamma must be positive, got {self.gamma}")
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(f"need 0 < sigma_min < sigma_max, got {self.sigma_min} and {self.sigma_max}")

    @property
    def normaliser(self) -> float:
        """c of g(t) = c sigma_min (sigma_max / sigma_min)^t."""
        raise NotImplementedError

    @property
    def log_ratio(self) -> float:
        """L = ln(sigma_max / sigma_min)."""
        return float(np.log(self.sigma_max / self.sigma_min))

    def diffusion(self, t: Time) -> Tensor:
        """g(t)."""
        return as_tensor(self.normaliser * self.sigma_min * np.exp(self.log_ratio * as_array(t)), t)


@dataclass(frozen=True)
class OUVE(DriftProcess):
    """Ornstein-Uhlenbeck, variance exploding: f = 1. sigma(1) falls short of sigma_max by e^(-2 gamma), the authors'
    way.
    """

    name: ClassVar[str] = "ouve"

    def _rate(self, t: Array) -> Array:
        return np.full_like(t, self.gamma)

    def _integrated_rate(self, t: Array) -> Array:
        return self.gamma * t

    def _variance(self, t: Array) -> Array:
        growth, decay = 2 * self.log_ratio * t, -2 * self.gamma * t
        return self.sigma_min**2 * (np.expm1(growth) - np.expm1(decay))

    @property
    def normaliser(self) -> float:
        return float(np.sqrt(2 * (self.gamma + self.log_ratio)))


@dataclass(frozen=True)
class TSDVE(DriftProcess):
    """Time-scaled drift: f = t, closed form by Dawson's function; sigma(1) = sigma_max."""

    gamma: float = 2.0
    name: ClassVar[str] = "tsdve"

    def _rate(self, t: Array) -> Array:
        return self.gamma * t

    def _integrated_rate(self, t: Array) -> Array:
        return self.gamma * t**2 / 2

    def _variance(self, t: Array) -> Array:
        return self.normaliser**2 * self.sigma_min**2 * self._unit_variance(t)

    def _unit_variance(self, t: Array) -> Array:
        """sigma^2 for c = sigma_min = 1."""
        root, log_ratio = np.sqrt(self.gamma), self.log_ratio
        upper = np.exp(2 * log_ratio * t) * dawsn((self.gamma * t + log_ratio) / root)
        return (upper - np.exp(-self.gamma * t**2) * dawsn(log_ratio / root)) / root

    @property
    def normaliser(self) -> float:
        return float(self.sigma_max / self.sigma_min / np.sqrt(self._unit_variance(np.ones(()))))


@dataclass(frozen=True)
class CosVE(DriftProcess):
    """f = 1 - cos(pi t): no closed form, so quadrature and a spline; sigma(1) = sigma_max."""

    name: ClassVar[str] = "cosve"

    def _rate(self, t: Array) -> Array:
        return self.gamma * (1 - np.cos(np.pi * t))

    def _integrated_rate(self, t: Array) -> Array:
        return self.gamma * _cosve_time(t)

    def _variance(self, t: Array) -> Array:
        return self.normaliser**2 * self.sigma_min**2 * t * _cosve_variance_slope(self.gamma, self.log_ratio)(t)

    @property
    def normaliser(self) -> float:
        slope_at_1 = float(_cosve_variance_slope(self.gamma, self.log_ratio)(1.0))
        return float(self.sigma_max / self.sigma_min / np.sqrt(slope_at_1))


def _cosve_time(t: Array) -> Array:
    """F(t)."""
    return t - np.sin(np.pi * t) / np.pi


@lru_cache(maxsize=16)
def _cosve_variance_slope(gamma: float, log_ratio: float) -> CubicSpline:
    """Spline of sigma(t)^2 / t for c = sigma_min = 1: smooth at 0, where sigma has a root's vertical tangent."""
    from scipy.interpolate import CubicSpline  # a tenth of a second, which no other process needs

    knots = np.linspace(0.0, 1.0, 1001)
    nodes, weights = np.polynomial.legendre.leggauss(8)
    width = knots[1]
    s = knots[:-1, None] + width * (nodes + 1) / 2
    integrand = np.exp(2 * log_ratio * s + 2 * gamma * _cosve_time(s))  # g^2 / a^2
    integral = np.cumsum(integrand @ weights * width / 2)
    a2 = np.exp(-2 * gamma * _cosve_time(knots[1:]))
    return CubicSpline(knots, np.concatenate([[1.0], a2 * integral / knots[1:]]))  # the limit at 0 is g(0)^2 = 1


_OURS: tuple[type[Process], ...] = (OUVE, TSDVE, CosVE, I2SB, IRSDE, InDI, Cold, Conditional, Regression)
PROCESSES: Table[type[Process]] = Table("process", {cls.name: cls for cls in _OURS})
