"""Further processes between a clean image and its JPEG, which train the same network and are sampled the same way.

They are here to be compared with the drift family: I2SB, IR-SDE, InDI, a Palette-like diffusion from pure noise, and
plain regression. All noise scales are for pixels in [0, 1]; the papers that use [-1, 1] are halved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from driftrec.diffusion.process import Array, Diffusion, MeanReverting, Process, Time, as_array, as_tensor, per_image
from driftrec.jpeg.codec import degrade


@dataclass(frozen=True)
class I2SB(MeanReverting):
    """Schroedinger bridge (Liu et al., ICML 2023): noise is zero at both ends, so the first reverse step is
    stochastic.

    g^2 rises from beta_min to its middle value at t = 1/2 and falls again; with S(t) its integral and S = S(1), b =
    S(t) / S and sigma^2 = S(t) (S - S(t)) / S.
    """

    beta_min: float = 0.1 / 4  # theirs for [-1, 1]: 1e-4 a step of 1000
    beta_max: float = 0.3 / 4  # theirs: 0.3, reached if the rise went on to t = 1
    name: ClassVar[str] = "i2sb"
    # p(x_m | x_n, x0hat) from time to time, evenly spaced, down to the first of their 1000 steps
    sampling: ClassVar[Mapping[str, Any]] = {"eta": 1.0, "order": 1, "grid": "uniform", "t_eps": 1e-3}

    def __post_init__(self) -> None:
        if not 0 < self.beta_min < self.beta_max:
            raise ValueError(f"need 0 < beta_min < beta_max, got {self.beta_min} and {self.beta_max}")

    def _half(self, t: Array) -> Array:
        """S(t) for t up to 1/2."""
        root, slope = np.sqrt(self.beta_min), np.sqrt(self.beta_max) - np.sqrt(self.beta_min)
        return ((root + slope * t) ** 3 - root**3) / (3 * slope)

    def _since_start(self, t: Array) -> Array:
        total = 2 * self._half(np.full_like(t, 0.5))
        return np.where(t <= 0.5, self._half(np.minimum(t, 0.5)), total - self._half(np.minimum(1 - t, 0.5)))

    def _jpeg(self, t: Array) -> Array:
        return self._since_start(t) / self._since_start(np.ones_like(t))

    def _clean(self, t: Array) -> Array:
        return self._jpeg(1 - t)  # the schedule is symmetric

    def _variance(self, t: Array) -> Array:
        return self._since_start(t) * self._clean(t)

    def std_from_clean(self, t: Time) -> Tensor:
        """sqrt(S(t)): the standard deviation of x_t - x0 were there no JPEG; what form bridge divides by."""
        return as_tensor(np.sqrt(self._since_start(as_array(t))), t)

    def _rate(self, t: Array) -> Array:
        return self._diffusion(t) ** 2 / self._since_start(1 - t)  # without bound towards t = 1

    def _diffusion(self, t: Array) -> Array:
        root, slope = np.sqrt(self.beta_min), np.sqrt(self.beta_max) - np.sqrt(self.beta_min)
        return root + slope * np.minimum(t, 1 - t)

    def diffusion(self, t: Time) -> Tensor:
        """g(t)."""
        return as_tensor(self._diffusion(as_array(t)), t)


@dataclass(frozen=True)
class IRSDE(MeanReverting):
    """Mean-reverting SDE, g^2 = 2 noise_level^2 theta (Luo et al., ICML 2023): sigma = noise_level sqrt(1 - a^2)."""

    noise_level: float = 10 / 255  # stationary standard deviation, theirs for most tasks
    schedule: Literal["constant", "linear", "cosine"] = "cosine"  # of theta
    rest: float = 0.005  # a(1): how much of x0 is left in the mean at the end
    name: ClassVar[str] = "irsde"

    COSINE_OFFSET: ClassVar[float] = 0.008  # Nichol and Dhariwal 2021

    def __post_init__(self) -> None:
        if not self.noise_level > 0 or not 0 < self.rest < 1:
            raise ValueError(f"need noise_level > 0 and 0 < rest < 1, got {self.noise_level} and {self.rest}")
        if self.schedule not in ("constant", "linear", "cosine"):
            raise ValueError(f"unknown schedule {self.schedule!r}; known: constant, linear, cosine")

    def _shape(self, t: Array) -> tuple[Array, Array]:
        """Theta and its integral, up to a factor."""
        if self.schedule == "constant":
            return np.ones_like(t), t
        if self.schedule == "linear":
            return t, t**2 / 2
        k = np.pi / 2 / (1 + self.COSINE_OFFSET)
        phase, start = k * (t + self.COSINE_OFFSET), k * self.COSINE_OFFSET
        scale = np.cos(start) ** 2
        integral = t - (t / 2 + (np.sin(2 * phase) - np.sin(2 * start)) / (4 * k)) / scale
        return 1 - np.cos(phase) ** 2 / scale, integral

    def _factor(self) -> float:
        return float(-np.log(self.rest) / self._shape(np.ones(()))[1])

    def _rate(self, t: Array) -> Array:
        return self._factor() * self._shape(t)[0]

    def _integrated_rate(self, t: Array) -> Array:
        return self._factor() * self._shape(t)[1]

    def _variance(self, t: Array) -> Array:
        return -(self.noise_level**2) * np.expm1(-2 * self._integrated_rate(t))

    def diffusion(self, t: Time) -> Tensor:
        """g(t)."""
        return as_tensor(self.noise_level * np.sqrt(2 * self._rate(as_array(t))), t)


@dataclass(frozen=True)
class InDI(Process):
    """Straight line from y to x0 (Delbracio and Milanfar, TMLR 2023): a = 1 - t, b = t, sigma = noise t, none by
    default.
    """

    noise: float = 0.0  # theirs: zero, or small
    name: ClassVar[str] = "indi"

    def __post_init__(self) -> None:
        if not self.noise >= 0:
            raise ValueError(f"noise must not be negative, got {self.noise}")

    def _clean(self, t: Array) -> Array:
        return 1 - t

    def _jpeg(self, t: Array) -> Array:
        return t

    def _variance(self, t: Array) -> Array:
        return (self.noise * t) ** 2

    def std_ratio(self, t: Time, s: Time) -> Tensor:
        """t / s, without noise too."""
        return as_tensor(as_array(t) / as_array(s), t)


@dataclass(frozen=True)
class Conditional(Diffusion):
    """Variance-preserving diffusion from pure noise with the JPEG as condition only (Palette, Saharia et al. 2022).

    Of pixels v = x - grey: dv = -beta/2 v dt + noise sqrt(beta) dw with beta from beta_min to beta_max, linear in t
    (Song et al. 2021); b = 0.
    """

    beta_min: float = 0.1  # per unit time
    beta_max: float = 20.0
    grey: float = 0.5  # what pixels are measured from: 0 of those in [-1, 1]
    noise: float = 0.5  # standard deviation at the end: 1 of pixels in [-1, 1]
    name: ClassVar[str] = "conditional"

    def __post_init__(self) -> None:
        if not 0 < self.beta_min < self.beta_max or not self.noise > 0:
            raise ValueError(f"need 0 < beta_min < beta_max and noise > 0, got {self}")

    def _beta(self, t: Array) -> Array:
        return self.beta_min + (self.beta_max - self.beta_min) * t

    def _integrated_beta(self, t: Array) -> Array:
        return self.beta_min * t + (self.beta_max - self.beta_min) * t**2 / 2

    def _clean(self, t: Array) -> Array:
        return np.exp(-self._integrated_beta(t) / 2)

    def _jpeg(self, t: Array) -> Array:
        return np.zeros_like(t)

    def _constant(self, t: Array) -> Array:
        return -self.grey * np.expm1(-self._integrated_beta(t) / 2)

    def _variance(self, t: Array) -> Array:
        return -(self.noise**2) * np.expm1(-self._integrated_beta(t))

    def drift(self, x: Tensor, y: Tensor, t: Time) -> Tensor:
        """-beta(t) (x - grey) / 2; x and result: (B, C, H, W)."""
        return per_image(as_tensor(-self._beta(as_array(t)) / 2, t), x) * (x - self.grey)

    def diffusion(self, t: Time) -> Tensor:
        """g(t)."""
        return as_tensor(self.noise * np.sqrt(self._beta(as_array(t))), t)


@dataclass(frozen=True)
class Cold(Process):
    """Cold diffusion (Bansal et al. 2022) by JPEG: x_t is x0 as a JPEG of quality best^(1 - t) worst^t, 4:2:0.

    No noise, and the state is no mixture: its coefficients merely tell how far, about, x_t is from x0; soon far, for
    chroma is lost at any quality. Sampler: cold.
    """

    best: float = 100.0  # quality at t = 0
    worst: float = 10.0  # quality at t = 1
    name: ClassVar[str] = "cold"

    def __post_init__(self) -> None:
        if not 1 <= self.worst < self.best <= 100:
            raise ValueError(f"need 1 <= worst < best <= 100, got {self.worst} and {self.best}")

    def _clean(self, t: Array) -> Array:
        return 1 - self._jpeg(t)

    def _jpeg(self, t: Array) -> Array:
        return t**0.35

    def _variance(self, t: Array) -> Array:
        return np.zeros_like(t)

    def quality(self, t: Time) -> Array:
        """Of the JPEG at t, a whole number from 1 to 100; or one per image."""
        share = as_array(t)
        return np.rint(self.best ** (1 - share) * self.worst**share)

    def state(self, x0: Tensor, y: Tensor, t: Time, z: Tensor) -> Tensor:
        """JPEGs of x0, each at its time's quality: (B, 3, H, W)."""
        qualities = np.broadcast_to(self.quality(t), len(x0))
        clean = (x0.detach().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        jpegs = [degrade(one, int(quality), "4:2:0") for one, quality in zip(clean, qualities, strict=True)]
        return torch.from_numpy(np.stack(jpegs)).permute(0, 3, 1, 2).to(x0) / 255


@dataclass(frozen=True)
class Regression(Process):
    """No process at all: x_t = y at every time, so that the network's x0hat is the regression D(y) of eq. 10."""

    name: ClassVar[str] = "regression"

    def _clean(self, t: Array) -> Array:
        return np.zeros_like(t)

    def _jpeg(self, t: Array) -> Array:
        return np.ones_like(t)

    def _variance(self, t: Array) -> Array:
        return np.zeros_like(t)
