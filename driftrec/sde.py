"""The forward processes that drift from the clean image x0 to its JPEG y (Welker, Chapman, Gerkmann, IEEE TIP 2024,
eqs. 3-9).

    dx = gamma f(t) (y - x) dt + g(t) dw,        g(t) = c sigma_min (sigma_max / sigma_min)^t,        t in [0, 1]

so that x_t = a(t) x0 + (1 - a(t)) y + sigma(t) z with a(t) = exp(-gamma F(t)), F the integral of f. Three members:
OUVE, TSDVE, CosVE. Everything here is computed in float64, and knows nothing of images or networks. Pixels are in [0,
1]; sigma is in the same unit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.special import dawsn
from torch import Tensor

Time = float | Tensor  # a scalar, or one time an image: (B,)
Array = NDArray[np.float64]


@dataclass(frozen=True)
class DriftProcess:
    """What the three members share. Members say f, F and the variance; times are float or (B,), results (0-d or (B,))
    float64 tensors.
    """

    gamma: float = 1.0  # pull of the mean towards the JPEG, per unit time
    sigma_min: float = 0.01  # noise scale for pixels in [0, 1]
    sigma_max: float = 1.0  # noise scale at t = 1

    name: ClassVar[str]

    def __post_init__(self) -> None:
        if not self.gamma > 0:
            raise ValueError(f"gamma must be positive, got {self.gamma}")
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(f"need 0 < sigma_min < sigma_max, got {self.sigma_min} and {self.sigma_max}")

    # what a member defines, on float64 arrays
    def _rate(self, t: Array) -> Array:
        raise NotImplementedError

    def _integrated_rate(self, t: Array) -> Array:
        raise NotImplementedError

    def _variance(self, t: Array) -> Array:
        raise NotImplementedError

    @property
    def normaliser(self) -> float:
        """c of g(t) = c sigma_min (sigma_max / sigma_min)^t."""
        raise NotImplementedError

    @property
    def log_ratio(self) -> float:
        """L = ln(sigma_max / sigma_min)."""
        return float(np.log(self.sigma_max / self.sigma_min))

    def rate(self, t: Time) -> Tensor:
        """f(t), per unit time."""
        return _as_tensor(self._rate(_as_array(t)), t)

    def mean_coefficient(self, t: Time) -> Tensor:
        """a(t): the share of x0 in the mean (eq. 7); the JPEG has the share 1 - a(t)."""
        return _as_tensor(np.exp(-self.gamma * self._integrated_rate(_as_array(t))), t)

    def std(self, t: Time) -> Tensor:
        """sigma(t), for pixels in [0, 1]."""
        return _as_tensor(np.sqrt(self._variance(_as_array(t))), t)

    def diffusion(self, t: Time) -> Tensor:
        """g(t)."""
        return _as_tensor(self.normaliser * self.sigma_min * np.exp(self.log_ratio * _as_array(t)), t)

    def drift(self, x: Tensor, y: Tensor, t: Time) -> Tensor:
        """gamma f(t) (y - x); x, y and result: (B, C, H, W)."""
        return per_image(self.gamma * self.rate(t), x) * (y - x)

    def marginal(self, x0: Tensor, y: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        """Mean (B, C, H, W) and standard deviation (broadcastable to it) of x_t given x0 and y."""
        a = per_image(self.mean_coefficient(t), x0)
        return a * x0 + (1 - a) * y, per_image(self.std(t), x0)


@dataclass(frozen=True)
class OUVE(DriftProcess):
    """Ornstein-Uhlenbeck, variance exploding: f = 1. sigma(1) falls short of sigma_max by e^(-2 gamma), the authors'
    choice.
    """

    name: ClassVar[str] = "ouve"

    def _rate(self, t: Array) -> Array:
        return np.ones_like(t)

    def _integrated_rate(self, t: Array) -> Array:
        return t

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
        return t

    def _integrated_rate(self, t: Array) -> Array:
        return t**2 / 2

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
        return 1 - np.cos(np.pi * t)

    def _integrated_rate(self, t: Array) -> Array:
        return _cosve_integrated_rate(t)

    def _variance(self, t: Array) -> Array:
        return self.normaliser**2 * self.sigma_min**2 * t * _cosve_variance_slope(self.gamma, self.log_ratio)(t)

    @property
    def normaliser(self) -> float:
        slope_at_1 = float(_cosve_variance_slope(self.gamma, self.log_ratio)(1.0))
        return float(self.sigma_max / self.sigma_min / np.sqrt(slope_at_1))


def _cosve_integrated_rate(t: Array) -> Array:
    return t - np.sin(np.pi * t) / np.pi


@lru_cache(maxsize=16)
def _cosve_variance_slope(gamma: float, log_ratio: float) -> CubicSpline:
    """Spline of sigma(t)^2 / t for c = sigma_min = 1. The quotient is smooth at 0, where sigma itself has a root's
    vertical tangent.
    """
    knots = np.linspace(0.0, 1.0, 1001)
    nodes, weights = np.polynomial.legendre.leggauss(8)
    width = knots[1]
    s = knots[:-1, None] + width * (nodes + 1) / 2
    integrand = np.exp(2 * log_ratio * s + 2 * gamma * _cosve_integrated_rate(s))  # g^2 / a^2
    integral = np.cumsum(integrand @ weights * width / 2)
    a2 = np.exp(-2 * gamma * _cosve_integrated_rate(knots[1:]))
    return CubicSpline(knots, np.concatenate([[1.0], a2 * integral / knots[1:]]))  # the limit at 0 is g(0)^2 = 1


PROCESSES: dict[str, type[DriftProcess]] = {"ouve": OUVE, "tsdve": TSDVE, "cosve": CosVE}


def per_image(value: Tensor, like: Tensor) -> Tensor:
    """A scalar or (B,) value, shaped to multiply the images `like` (B, C, H, W), in their dtype and on their device."""
    value = value.to(device=like.device, dtype=like.dtype)
    return value.reshape(-1, 1, 1, 1) if value.ndim else value


def _as_array(t: Time) -> Array:
    return np.asarray(t.detach().cpu().numpy() if isinstance(t, Tensor) else t, dtype=np.float64)


def _as_tensor(value: Array, t: Time) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64, device=t.device if isinstance(t, Tensor) else None)
