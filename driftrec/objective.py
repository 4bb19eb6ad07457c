"""The training loss, E || N - target ||^2, one expression for every form of the network.

For "noise" it is the paper's eq. 15 (|| sigma s + z ||^2 with s = -N / sigma), for "x0" the squared error of x0hat
weighted by 1 / c_out^2, for "residual" with the process `regression` the baseline of eq. 10.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from driftrec.denoiser import Denoiser


@dataclass(frozen=True)
class TimeDensity:
    """t = t_eps + (1 - t_eps) u^power with u uniform, except for a share of the batch that trains the posterior mean
    at t = 1.
    """

    t_eps: float = 0.01  # smallest time trained
    power: float = 1.0  # above 1: more of the small times, where fine detail is decided
    share_at_one: float = 0.0  # of the batch, at t = 1 exactly

    def __post_init__(self) -> None:
        if not 0 < self.t_eps < 1 or not self.power > 0 or not 0 <= self.share_at_one <= 1:
            raise ValueError(f"need 0 < t_eps < 1, power > 0, 0 <= share_at_one <= 1, got {self}")

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """(count,) times, stratified: one in each of `count` equal strata of u, in random order."""
        u = (torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)) / count
        rest = 1 - self.share_at_one  # the strata above `rest` go to t = 1
        stretched = (u / rest).clamp(max=1.0) if rest > 0 else torch.ones(count)
        return self.t_eps + (1 - self.t_eps) * stretched**self.power


class Objective(nn.Module):
    """forward(x0, y, t, z) -> scalar loss, the mean over the batch. x0 clean, y JPEG and z noise, all (B, 3, H, W), the
    pixels in [0, 1]; t (B,). A module, so that DDP can wrap it. It draws nothing itself: a batch has the same times
    and noise whole or in parts.
    """

    def __init__(self, denoiser: Denoiser, density: TimeDensity) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.density = density

    def draw(self, x0: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(t, z) for a batch."""
        t = self.density.draw(len(x0), generator)
        return t, torch.randn(x0.shape, generator=generator).to(x0.device)

    def forward(self, x0: Tensor, y: Tensor, t: Tensor, z: Tensor) -> Tensor:
        mean, sigma = self.denoiser.process.marginal(x0, y, t)
        x = mean + sigma * z
        error = self.denoiser.network_output(x, y, t) - self.denoiser.network_target(x0, x, y, t)
        return error.square().mean()
