"""What every process of the family is: x_t = a(t) x0 + b(t) y + c(t) + sigma(t) z, with x0 clean, y its JPEG, z
standard normal, and c, the same for all pixels, 0 but where a process measures pixels from a grey.

A process says a, b and sigma; those that are diffusions also say drift and diffusion of dx = drift dt + g dw. One
network, one loss and one sampler serve them all. Everything is computed in float64, for t in [0, 1] and pixels in [0,
1]; nothing here knows of images or networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Time = float | Tensor  # a scalar, or one time per image: (B,)
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Process:
    """Base of all. Times are float or (B,); coefficients come back as float64 tensors, 0-d or (B,)."""

    name: ClassVar[str]
    sampling: ClassVar[Mapping[str, Any]] = {}  # settings of Sampling that are its authors' own, where they differ

    # what a process defines, on float64 arrays
    def _clean(self, t: Array) -> Array:
        raise NotImplementedError

    def _jpeg(self, t: Array) -> Array:
        raise NotImplementedError

    def _variance(self, t: Array) -> Array:
        raise NotImplementedError

    def _constant(self, t: Array) -> Array:
        return np.zeros_like(t)

    def mean_coefficient(self, t: Time) -> Tensor:
        """a(t): the share of x0 in the mean."""
        return as_tensor(self._clean(as_array(t)), t)

    def jpeg_coefficient(self, t: Time) -> Tensor:
        """b(t): the share of y in the mean."""
        return as_tensor(self._jpeg(as_array(t)), t)

    def constant(self, t: Time) -> Tensor:
        """c(t): what the mean has of neither."""
        return as_tensor(self._constant(as_array(t)), t)

    def std(self, t: Time) -> Tensor:
        """sigma(t), for pixels in [0, 1]."""
        return as_tensor(np.sqrt(self._variance(as_array(t))), t)

    def std_ratio(self, t: Time, s: Time) -> Tensor:
        """sigma(t) / sigma(s), which may exist where both are zero."""
        return self.std(t) / self.std(s)

    def marginal(self, x0: Tensor, y: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        """Mean (B, C, H, W) and standard deviation (broadcastable to it) of x_t given x0 and y."""
        a, b, c = (per_image(f(t), x0) for f in (self.mean_coefficient, self.jpeg_coefficient, self.constant))
        return a * x0 + b * y + c, per_image(self.std(t), x0)

    def state(self, x0: Tensor, y: Tensor, t: Time, z: Tensor) -> Tensor:
        """x_t, with z standard normal: (B, C, H, W), as x0."""
        mean, sigma = self.marginal(x0, y, t)
        return mean + sigma * z

    def centre(self, y: Tensor, t: Time) -> Tensor:
        """(a + b) y + c: what x_t would be without noise if the JPEG were already clean; (B, C, H, W)."""
        return per_image(self.mean_coefficient(t) + self.jpeg_coefficient(t), y) * y + per_image(self.constant(t), y)


@dataclass(frozen=True)
class Diffusion(Process):
    """A process that is the solution of dx = drift(x, y, t) dt + g(t) dw."""

    def drift(self, x: Tensor, y: Tensor, t: Time) -> Tensor:
        """Per unit time; x, y and result: (B, C, H, W)."""
        raise NotImplementedError

    def diffusion(self, t: Time) -> Tensor:
        """g(t)."""
        raise NotImplementedError


@dataclass(frozen=True)
class MeanReverting(Diffusion):
    """dx = rate(t) (y - x) dt + g dw: a = exp(-integral of the rate), b = 1 - a."""

    def _rate(self, t: Array) -> Array:
        raise NotImplementedError

    def _integrated_rate(self, t: Array) -> Array:
        raise NotImplementedError

    def _clean(self, t: Array) -> Array:
        return np.exp(-self._integrated_rate(t))

    def _jpeg(self, t: Array) -> Array:
        return -np.expm1(-self._integrated_rate(t))

    def rate(self, t: Time) -> Tensor:
        """Pull of x towards y, per unit time."""
        return as_tensor(self._rate(as_array(t)), t)

    def drift(self, x: Tensor, y: Tensor, t: Time) -> Tensor:
        """rate(t) (y - x); x, y and result: (B, C, H, W)."""
        return per_image(self.rate(t), x) * (y - x)


def per_image(value: Tensor, like: Tensor) -> Tensor:
    """A scalar or (B,) value, shaped to multiply the images `like` (B, C, H, W), in their dtype and on their device."""
    value = value.to(device=like.device, dtype=like.dtype)
    return value.reshape(-1, 1, 1, 1) if value.ndim else value


def as_array(t: Time) -> Array:
    """Times as float64."""
    return np.asarray(t.detach().cpu().numpy() if isinstance(t, Tensor) else t, dtype=np.float64)


def as_tensor(value: Array, t: Time) -> Tensor:
    """Float64, on the device of t."""
    return torch.as_tensor(value, dtype=torch.float64, device=t.device if isinstance(t, Tensor) else None)
