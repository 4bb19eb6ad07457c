"""The training loss, E || N - target ||^2 and what is made of it, one expression for every form of the network.

For "noise" it is the paper's eq. 15 (|| sigma s + z ||^2 with s = -N / sigma), for "x0" the squared error of x0hat
weighted by 1 / c_out^2, for "residual" with the process `regression` the baseline of eq. 10.

On top of it, a penalty for blocks that the estimate shows and the clean image does not, in squared steps across
JPEG's block boundaries. A step of the posterior mean has the clean step's mean square less the step's posterior
variance, and that variance is greater across a boundary, where two blocks err apart: on average the mean has no
boundary excess, and a small network far from it has. The penalty is one-sided and taken image by image, though, where
chance makes some excess: too large a weight costs accuracy, and smooths boundaries more than the clean image is.

And, with a discriminator, what it says of samples that start from the mean, as the recommended ones do, and how far
they are from the clean image by the features that it sees.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from driftrec.diffusion.denoiser import Denoiser
from driftrec.diffusion.detail import on_coarse_mean
from driftrec.diffusion.process import Process, per_image
from driftrec.diffusion.sampling import check_diffusion, reverse_drift, transition
from driftrec.metrics.blockiness import boundary_excess
from driftrec.training.adversarial import Discriminator, balanced
from driftrec.training.features import perceptual_distance

# Of squared errors their mean, or half their sum over an image, the authors'; the logarithm of an image's mean, so that
# a decibel counts alike in one that is hardly damaged and in one that is (as Chen et al. train NAFNet, ECCV 2022); or
# IR-SDE's distance to the best step.
Loss = Literal["mean", "half-sum", "log", "matching"]
STARTS = (0.15, 0.35)  # least and greatest time of a sample that the discriminator sees
STEP = 1 / 100  # of "matching": theirs
FLOOR = 0.1  # of "log", added to an image's mean: below it, what is left of the error counts less


@dataclass(frozen=True)
class TimeDensity:
    """t = t_eps + (1 - t_eps) u^power with u uniform, except for a share of the batch that trains the posterior mean
    at t = 1.
    """

    t_eps: float = 0.01  # smallest time trained
    power: float = 1.0  # above 1: more of the small times, where fine detail is decided
    share_at_one: float = 0.0  # of the batch, at t = 1 exactly
    stratified: bool = True  # times of a batch are spread evenly; off: each drawn alone, as the authors do

    def __post_init__(self) -> None:
        if not 0 < self.t_eps < 1 or not self.power > 0 or not 0 <= self.share_at_one <= 1:
            raise ValueError(f"need 0 < t_eps < 1, power > 0, 0 <= share_at_one <= 1, got {self}")

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """(count,) times; if stratified, one in each of `count` equal strata of u, in random order."""
        strata = torch.randperm(count, generator=generator) if self.stratified else None
        u = torch.rand(count, generator=generator)
        u = (strata + u) / count if strata is not None else u
        rest = 1 - self.share_at_one  # what lies above `rest` goes to t = 1
        stretched = (u / rest).clamp(max=1.0) if rest > 0 else torch.ones(count)
        return self.t_eps + (1 - self.t_eps) * stretched**self.power


class Objective(nn.Module):
    """forward(x0, y, t, z, starts) -> scalar loss, the mean over the batch. x0 clean, y JPEG and z noise, all (B, 3, H,
    W), the pixels in [0, 1]; t (B,); starts (B,): the time at which an image's sample starts, if it has one. A module,
    so that DDP can wrap it, without a discriminator. It draws nothing itself: a batch has the same times and noise
    whole or in parts.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        density: TimeDensity,
        blocking: float = 0.0,
        loss: Loss = "mean",
        discriminator: Discriminator | None = None,
    ) -> None:
        super().__init__()
        if blocking and denoiser.form == "noise":
            raise ValueError("blocking is of the estimated image: with form noise it must be 0")
        if loss == "matching":
            check_diffusion(denoiser.process)
        self.denoiser = denoiser
        self.density = density
        self.blocking = blocking  # weight of the penalty
        self.loss: Loss = loss
        self.discriminator = discriminator
        # What pulls at samples, as multiples of their error's pull; without the first no samples are made.
        self.adversarial = 0.0  # the discriminator
        self.perceptual = 0.0  # distance of what it sees by: of its features

    def draw(self, x0: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """(t, z, starts) for a batch."""
        t = self.density.draw(len(x0), generator)
        z = torch.randn(x0.shape, generator=generator).to(x0.device)
        low, high = STARTS
        return t, z, low + (high - low) * torch.rand(len(x0), generator=generator)

    def forward(self, x0: Tensor, y: Tensor, t: Tensor, z: Tensor, starts: Tensor) -> Tensor:
        x = self.denoiser.process.state(x0, y, t, z)
        output = self.denoiser.network_output(x, y, t)
        loss = self.error(output, x0, x, y, t)
        mean = t == 1
        if self.discriminator and self.adversarial and mean.any():
            guess = self.denoiser.estimate(output, x, y, t).detach()
            loss = loss + self.of_samples(self.discriminator, *(of[mean] for of in (x0, y, guess, z, starts)))
        return loss

    def error(self, output: Tensor, x0: Tensor, x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        """How far the network's output is from what it should have been, and the penalty; the mean over the batch."""
        if self.loss == "matching":
            errors = matching(self.denoiser.process, x0, self.denoiser.estimate(output, x, y, t), x, y, t)
        else:
            errors = (output - self.denoiser.network_target(x0, x, y, t)).square().mean(dim=(1, 2, 3))
        if self.loss == "half-sum":
            errors = errors * output[0].numel() / 2
        if self.blocking:
            restored = self.denoiser.estimate(output, x, y, t)
            errors = errors + self.blocking * added_blocks(x0, restored) / self.denoiser.residual_std**2
        return (errors + FLOOR).log().mean() if self.loss == "log" else errors.mean()

    def of_samples(
        self, discriminator: Discriminator, x0: Tensor, y: Tensor, mean: Tensor, z: Tensor, starts: Tensor
    ) -> Tensor:
        """Loss of samples as they are drawn: from the posterior mean with noise, at the times `starts`: (B,), and with
        a `coarse_fidelity` of 1. Such a state tells no more of x0 than y does, so that the error alone would make the
        mean of it again. All pulls together are about as strong as the error's alone would be, so that the mean is
        learnt as well beside them.
        """
        x = self.denoiser.process.state(mean, y, starts, z)
        output = self.denoiser.network_output(x, y, starts)
        restored = on_coarse_mean(self.denoiser.estimate(output, x, y, starts), mean)
        error = self.error(output, x0, x, y, starts)
        discriminator.accumulate(x0, restored, y)
        loss = error + balanced(discriminator.generator_loss(restored, y), error, output, self.adversarial)
        if self.perceptual:
            features = discriminator.features.rectified
            distance = perceptual_distance(features(restored), features(x0))
            loss = loss + balanced(distance, error, output, self.perceptual)
        return loss / (1 + self.adversarial + self.perceptual)


def matching(process: Process, x0: Tensor, x0hat: Tensor, x: Tensor, y: Tensor, t: Tensor) -> Tensor:
    """IR-SDE's maximum likelihood objective (Luo et al. 2023, Proposition 3.2): how far an Euler step of the reverse
    SDE without noise, by the score that x0hat gives, ends from the likeliest state a step before x; absolute, the mean
    over an image: (B,).
    """
    diffusion = check_diffusion(process)
    before = (t.double() - STEP).clamp(min=0)
    step = x - reverse_drift(diffusion, x, y, x0hat, t) * per_image(t.double() - before, x)
    return (step - transition(process, t.double(), before, eta=1.0).mean(x, y, x0)).abs().mean(dim=(1, 2, 3))


def added_blocks(x0: Tensor, restored: Tensor) -> Tensor:
    """What `restored` has more of steps across block boundaries than x0: squared, where positive; the mean over the
    channels. Both (B, 3, H, W), blocks from their corner on -> (B,).
    """
    more = boundary_excess(restored.float()) - boundary_excess(x0.float())
    return more.clamp(min=0).mean(dim=1)
