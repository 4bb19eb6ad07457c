"""What the embedded model is, and how its training goes over its minutes. All that a reader would tune is here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from driftrec.diffusion.denoiser import Denoiser
from driftrec.diffusion.drift import OUVE
from driftrec.networks.config import NetworkConfig
from driftrec.networks.precision import bfloat16_is_faster
from driftrec.training.learner import Optimisation
from driftrec.training.loss import Loss, TimeDensity
from driftrec.training.patches import PatchConfig

NETWORK = replace(NetworkConfig.tiny(), estimates=(12, 30, 60), grid=True)
PATCHES = PatchConfig(
    size=96,
    per_image=1,
    quality_min=3,
    quality_max=100,
    quality_power=2.0,
    share_444=0.4,
    share_reduced=0.5,
    share_scaled=0.3,
    share_recoloured=0.1,
)
FEATURES = Path("data/standins/efficientnet_lite0.safetensors")  # what the discriminator sees by
BLOCKING = 0.05
LOSS: Loss = "log"
SEED = 0
MANTISSA = 4  # bits that parts keep which alone are trained: of what changed a repository keeps every version
WARMUP = 0.01  # share of the minutes over which the learning rate rises
# Start and steps until the end, which chooses. The reverse SDE: from t = 1 its samples keep less of the noise than the
# ODE's, whose errors nothing forgets.
RECOMMENDED = {"start": 0.25, "steps": 1, "fidelity": 0.0, "coarse_fidelity": 1.0, "eta": 1.0, "order": 1}


@dataclass(frozen=True)
class Stage:
    """A part of the training."""

    name: str
    until: float  # share of the minutes at which it ends
    density: TimeDensity
    adversarial: float = 0.0  # the discriminator's pull at samples, as a multiple of their error's
    perceptual: float = 0.0  # that of what it sees by, likewise


STAGES = (
    Stage("mean", 0.4, TimeDensity(power=2.5, share_at_one=0.75)),
    Stage("samples", 1.0, TimeDensity(power=1.5, share_at_one=0.5), adversarial=10.0, perceptual=16.0),
)


@dataclass(frozen=True)
class Sizes:
    """What follows from the device."""

    batch: int
    lr: float  # at its peak
    ema_decay: float


def sizes(device: str, fresh: bool) -> Sizes:
    """A large GPU takes larger batches; weights that were trained before are moved less."""
    gentle = 1.0 if fresh else 0.5
    if device == "cuda":
        return Sizes(batch=128, lr=1.2e-3 * gentle, ema_decay=0.998)
    return Sizes(batch=16, lr=8e-4 * gentle, ema_decay=0.999)


def optimisation(of: Sizes, device: str) -> Optimisation:
    """The learner's settings; its rate is set step by step, by `rate`."""
    bf16 = bfloat16_is_faster(torch.device(device))
    return Optimisation(steps=10**9, lr=of.lr, muon=True, warmup=0, decay_steps=0, ema_decay=of.ema_decay, bf16=bf16)


def stage_at(share: float, stages: Sequence[Stage] = STAGES) -> Stage:
    """The stage after this share of the minutes."""
    return next(stage for stage in stages if share < stage.until or stage is stages[-1])


def rate(peak: float, share: float) -> float:
    """Learning rate after this share of the minutes: a short rise, then half a cosine down to a thousandth."""
    return peak * min(1.0, (share + 1e-3) / WARMUP) * max(1e-3, (1 + math.cos(math.pi * min(1.0, share))) / 2)


def denoiser(network: NetworkConfig) -> Denoiser:
    """A new one of this shape."""
    return Denoiser.create(network, OUVE(), form="x0", residual_std=0.05)
