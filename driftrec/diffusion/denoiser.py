"""A network bound to its process: estimates of x0, score and noise, three forms of one thing.

With z_t = x_t - (a + b) y - c and u = x0 - y every process reads z_t = a u + sigma z. The network can take five forms:

- "noise", the paper's: the network sees x_t, y and ln sigma and estimates z; the score is -z / sigma (eq. 15).
- "x0", EDM's preconditioning (Karras et al., NeurIPS 2022) of z_t and u, r = residual_std being the standard deviation
  of u: x0hat = y + c_skip z_t + c_out N. The network sees the Wiener estimate of u, so that at t = 1, where x_t says
  next to nothing about x0, it sees next to nothing of the noise: there x0hat is the posterior mean.
- "residual", for processes without noise (InDI, and the regression of eq. 10): x0hat = x_t + r b N.
- "bridge", I2SB's own: the network estimates (x_t - x0) / sqrt(S), S being the variance of a walk from x0 without y.
- "direct", the authors' regression: x0hat = N, of the images as they are.
"""

from __future__ import annotations

from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from driftrec import bounds
from driftrec.diffusion.baselines import I2SB
from driftrec.diffusion.process import Process, Time, per_image
from driftrec.networks import architectures
from driftrec.networks.network import Network

Form = Literal["noise", "x0", "residual", "bridge", "direct"]
ENDS = (1.0, 1e-3)  # times: where sampling and training start, and as near to the clean image as they come
SMALLEST = 1e-6  # floor of coefficients that may vanish at the ends of t


class Denoiser(nn.Module):
    """forward(x, y, t) -> x0hat. x: state, y: JPEG, result: (B, 3, H, W), pixels in [0, 1]; t: scalar or (B,) in (0,
    1].
    """

    def __init__(self, network: Network, process: Process, form: Form = "x0", residual_std: float = 0.05) -> None:
        super().__init__()
        bounds.choice("form", form, get_args(Form))
        bounds.number("residual_std", residual_std, 1e-4, 1)
        if form in ("noise", "x0") and not process.std(0.5) > 0:
            raise ValueError(f"{process.name} has no noise to estimate: its form must be residual, got {form}")
        if form == "residual" and not process.jpeg_coefficient(0.5) > 0:
            why = "its states hold nothing of the JPEG that could be corrected"
            raise ValueError(f"process {process.name} does not take form residual: {why}; take x0")
        if form == "bridge" and not isinstance(process, I2SB):
            raise ValueError(f"form bridge is i2sb's own, {process.name} does not have it; take x0")
        self.network = network
        self.process = process
        self.form: Form = form
        self.residual_std = residual_std  # of x0 - y over the training data, pixels in [0, 1]
        self._check_numbers()

    @classmethod
    def create(cls, config: Any, process: Process, form: Form = "x0", residual_std: float = 0.05) -> Denoiser:
        """A new network of this shape, a config of one of NETWORKS; its weights from PyTorch's global generator."""
        return cls(architectures.create(config), process, form, residual_std)

    def forward(self, x: Tensor, y: Tensor, t: Time) -> Tensor:
        return self.estimate(self.network_output(x, y, t), x, y, t)

    def estimate(self, output: Tensor, x: Tensor, y: Tensor, t: Time) -> Tensor:
        """x0hat, from what the network says."""
        base, scale = self._base_and_scale(x, y, t)
        return base + scale * output

    def score(self, x: Tensor, y: Tensor, t: Time) -> Tensor:
        """Gradient of the log density of x_t given y: (B, 3, H, W)."""
        return score_from_x0(self.process, x, y, self(x, y, t), t)

    def network_output(self, x: Tensor, y: Tensor, t: Time) -> Tensor:
        """What the network says, in the dtype of x: z ("noise"), or the unit-variance rest of x0."""
        state, jpeg, level = self._network_input(x, y, t)
        dtype = next(self.network.parameters()).dtype
        output: Tensor = self.network(state.to(dtype), jpeg.to(dtype), level.to(x.device, torch.float32))
        return output.to(x.dtype)

    def network_target(self, x0: Tensor, x: Tensor, y: Tensor, t: Time) -> Tensor:
        """What the network should have said."""
        base, scale = self._base_and_scale(x, y, t)
        return (x0 - base) / scale

    def _check_numbers(self) -> None:
        """From the start of sampling to its end the network must see numbers, and x0hat must be one whatever number
        it says.
        """
        pixel = torch.full((1, 3, 1, 1), 0.5)
        for t in ENDS:
            parts = (*self._network_input(pixel, pixel, t), *self._base_and_scale(pixel, pixel, t))
            if not all(bool(part.float().isfinite().all()) for part in parts):
                why = f"at t = {t:g} what it sees of x_t, or says of x0, is no number"
                raise ValueError(f"process {self.process.name} does not take form {self.form}: {why}; take x0")

    def _base_and_scale(self, x: Tensor, y: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        """x0hat = base + scale * network output."""
        a, sigma = self._coefficients(x, t)
        b = per_image(self.process.jpeg_coefficient(t), x)
        if self.form == "noise":
            return (x - b * y - per_image(self.process.constant(t), x)) / a, -sigma / a
        if self.form == "residual":
            return x, b * self.residual_std
        if isinstance(self.process, I2SB) and self.form == "bridge":
            return x, -per_image(self.process.std_from_clean(t), x)
        if self.form == "direct":
            return torch.zeros_like(x), torch.ones_like(a)
        variance = a**2 * self.residual_std**2 + sigma**2
        c_skip, c_out = a * self.residual_std**2 / variance, sigma * self.residual_std / variance.sqrt()
        return y + c_skip * (x - self.process.centre(y, t)), c_out

    def _network_input(self, x: Tensor, y: Tensor, t: Time) -> tuple[Tensor, Tensor, Tensor]:
        """State and JPEG as the network sees them, and the noise level."""
        if self.form == "noise":
            return x, y, self.process.std(t).log()
        if self.form in ("residual", "bridge"):
            return 2 * x - 1, 2 * y - 1, torch.as_tensor(t)
        if self.form == "direct":
            return x, y, torch.as_tensor(t)
        a, sigma = self._coefficients(x, t)
        r = self.residual_std
        wiener = (x - self.process.centre(y, t)) * (a * r / (a**2 * r**2 + sigma**2))
        level = self.process.std(t).clamp(min=SMALLEST) / self.process.mean_coefficient(t).clamp(min=SMALLEST)
        return wiener, 2 * y - 1, level.log() / 4

    def _coefficients(self, like: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        a, sigma = self.process.mean_coefficient(t), self.process.std(t)
        return per_image(a, like), per_image(sigma.clamp(min=SMALLEST), like)


def check(process: Process, form: Form, residual_std: float) -> None:
    """Raises ValueError for what no Denoiser can be made of, before there is a network."""
    Denoiser(cast(Network, nn.Identity()), process, form, residual_std)


def score_from_x0(process: Process, x: Tensor, y: Tensor, x0: Tensor, t: Time) -> Tensor:
    """(mean of x_t given x0 - x_t) / sigma^2."""
    mean, sigma = process.marginal(x0, y, t)
    return (mean - x) / sigma**2
