"""A network bound to its process: estimates of x0, score and noise, which are one thing in three clothes.

With z_t = x_t - y and u = x0 - y every process here reads z_t = a u + sigma z. The same network can take two forms:

- "noise", the paper's: the network sees x_t and y and estimates z; the score is -z / sigma (eq. 15).
- "x0", EDM's preconditioning (Karras et al., NeurIPS 2022) of z_t and u, r = residual_std being the standard deviation
  of u: x0hat = y + c_skip z_t + c_out N. The network sees the Wiener estimate of u, so that at t = 1, where x_t says
  next to nothing about x0, it sees next to nothing of the noise: there x0hat is the posterior mean.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from driftrec.network import NCSNpp, NetworkConfig
from driftrec.sde import DriftProcess, Time, per_image

Form = Literal["noise", "x0"]


class Denoiser(nn.Module):
    """forward(x, y, t) -> x0hat. x: state, y: JPEG, result: (B, 3, H, W), pixels in [0, 1]; t: scalar or (B,) in (0,
    1].
    """

    def __init__(self, network: NCSNpp, process: DriftProcess, form: Form = "x0", residual_std: float = 0.05) -> None:
        super().__init__()
        if form not in get_args(Form):
            raise ValueError(f"unknown form {form!r}; known: {', '.join(get_args(Form))}")
        if not residual_std > 0:
            raise ValueError(f"residual_std must be positive, got {residual_std}")
        self.network = network
        self.process = process
        self.form: Form = form
        self.residual_std = residual_std  # of x0 - y over the training data, pixels in [0, 1]

    @classmethod
    def create(
        cls, config: NetworkConfig, process: DriftProcess, form: Form = "x0", residual_std: float = 0.05
    ) -> Denoiser:
        return cls(NCSNpp(config), process, form, residual_std)

    def forward(self, x: Tensor, y: Tensor, t: Time) -> Tensor:
        output = self.network_output(x, y, t)
        a, sigma = self._coefficients(x, t)
        if self.form == "noise":
            return y + (x - y - sigma * output) / a
        c_skip, c_out = self._skip_and_out(a, sigma)
        return y + c_skip * (x - y) + c_out * output

    def score(self, x: Tensor, y: Tensor, t: Time) -> Tensor:
        """Gradient of the log density of x_t given y: (B, 3, H, W)."""
        return score_from_x0(self.process, x, y, self(x, y, t), t)

    def network_output(self, x: Tensor, y: Tensor, t: Time) -> Tensor:
        """What the network says, in float32: z ("noise") or the unit-variance rest of x0 ("x0")."""
        a, sigma = self._coefficients(x, t)
        if self.form == "noise":
            state, jpeg, level = x, y, torch.as_tensor(t).log()
        else:
            r = self.residual_std
            state = (x - y) * (a * r / (a**2 * r**2 + sigma**2))
            jpeg, level = 2 * y - 1, (self.process.std(t) / self.process.mean_coefficient(t)).log() / 4
        dtype = self.network.embedding.first.weight.dtype
        output: Tensor = self.network(state.to(dtype), jpeg.to(dtype), level.to(x.device, torch.float32))
        return output.to(x.dtype)

    def network_target(self, x0: Tensor, y: Tensor, x: Tensor, z: Tensor, t: Time) -> Tensor:
        """What the network should have said."""
        if self.form == "noise":
            return z
        c_skip, c_out = self._skip_and_out(*self._coefficients(x, t))
        return (x0 - y - c_skip * (x - y)) / c_out

    def _coefficients(self, like: Tensor, t: Time) -> tuple[Tensor, Tensor]:
        return per_image(self.process.mean_coefficient(t), like), per_image(self.process.std(t), like)

    def _skip_and_out(self, a: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        variance = a**2 * self.residual_std**2 + sigma**2
        return a * self.residual_std**2 / variance, sigma * self.residual_std / variance.sqrt()


def score_from_x0(process: DriftProcess, x: Tensor, y: Tensor, x0: Tensor, t: Time) -> Tensor:
    """(mean of x_t given x0 - x_t) / sigma^2."""
    mean, sigma = process.marginal(x0, y, t)
    return (mean - x) / sigma**2
