"""The training as a run that may be killed at any moment: files for its state, its learning curve and its model.

The state is written whole or not at all, and says which batch comes next and how many seconds are spent; the same
command goes on from there, as if nothing had been. Knows nothing of the command line.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from driftrec.diffusion.denoiser import Denoiser
from driftrec.errors import DriftRecError
from driftrec.jpeg.codec import degrade
from driftrec.metrics import PAIR_METRICS
from driftrec.models import checkpoint
from driftrec.models.checkpoint import Checkpoint
from driftrec.networks.config import NetworkConfig
from driftrec.networks.ncsnpp import parameter_count
from driftrec.networks.precision import bfloat16_is_faster
from driftrec.training.adversarial import Discriminator
from driftrec.training.features import Features
from driftrec.training.learner import Learner
from recipes.embedded import plan
from recipes.embedded.data import Batch, Batches, Photographs, Pixels
from recipes.embedded.recommend import recommend

log = logging.getLogger("recipes.embedded")

STATE, LOG, MODEL = "state.safetensors", "log.jsonl", "model.safetensors"
SAVE_S = 300.0  # seconds between two states
QUALITIES = (10, 40)  # of the scores along the way, 4:2:0
WINDOW = 256  # pixels: side of what is scored of each tile that is held out


class Diverged(DriftRecError):
    """The loss is no number any more."""


@dataclass
class Spent:
    """What the run has taken so far, over all its attempts."""

    seconds: float = 0.0  # of a GPU by the clock; of a CPU those that this process got of one, whatever else ran
    pixels: int = 0
    batches: int = 0


class Run:
    """One attempt at the run of a folder. Raises InvalidInput where its state does not fit."""

    def __init__(
        self,
        out: Path,
        device: str,
        minutes: float,
        init: Checkpoint | None,
        network: NetworkConfig,
        features: Features,
        stages: Sequence[plan.Stage] = plan.STAGES,
        only: Sequence[str] = (),
    ) -> None:
        self.out, self.minutes, self.device = out, minutes, device
        self.stages, self.only = stages, only
        torch.manual_seed(plan.SEED)
        denoiser = plan.denoiser(network)
        if init is not None:
            take_over(denoiser, init.denoiser)
        train_only(denoiser, only)
        self.sizes = plan.sizes(device, fresh=init is None)
        optimisation = plan.optimisation(self.sizes, device)
        self.learner = Learner(
            denoiser.to(device),
            stages[0].density,
            optimisation,
            blocking=plan.BLOCKING,
            loss=plan.LOSS,
            discriminator=Discriminator(features).to(device),
        )
        self.spent = Spent()
        self.halted = False  # asked to end after the present step
        self.init = init.sha256 if init is not None else None
        if (out / STATE).exists():
            extra = self.learner.load(out / STATE)
            self.spent, self.init = Spent(**extra["spent"]), extra["init"]
            log.info("going on after step %d, %.0f s", self.learner.step_count, self.spent.seconds)

    @property
    def share(self) -> float:
        """Of the minutes that are over."""
        return min(1.0, self.spent.seconds / 60 / self.minutes)

    def train(self, photographs: Photographs, workers: int) -> None:
        """To the end of the minutes, and what the model recommends.

        Raises Diverged, the last whole state being kept, and KeyboardInterrupt where it was halted, this one being.
        """
        batches = Batches(photographs.train, plan.PATCHES, self.sizes.batch).since(self.spent.batches, workers)
        if self.learner.step_count == 0:
            self.score(photographs, math.nan)
        while self.share < 1:
            loss = self.stretch(batches)
            self.score(photographs, loss)
            self.save()
            if self.halted:
                raise KeyboardInterrupt
        tiles = {name: middle(pixels) for name, pixels in photographs.held_out.items()}
        chosen, tried = recommend(self.out / MODEL, self.device, tiles)
        self.save_model(chosen or plan.RECOMMENDED, {"tried": tried})

    def stretch(self, batches: Iterator[Batch]) -> float:
        """Steps until it is time for a state; their mean loss."""
        begun, losses = time.monotonic(), list[float]()
        while not losses or (time.monotonic() - begun < SAVE_S and self.share < 1 and not self.halted):
            started = self.clock()
            clean, damaged = next(batches)
            stage, objective = plan.stage_at(self.share, self.stages), self.learner.objective
            objective.density = stage.density
            objective.adversarial, objective.perceptual = stage.adversarial, stage.perceptual
            self.learner.optimisation = replace(self.learner.optimisation, lr=plan.rate(self.sizes.lr, self.share))
            result = self.learner.step(clean, damaged)
            if not math.isfinite(result.gradient_norm):
                raise Diverged(
                    f"step {result.step}: the loss is {result.loss}; the last whole state is "
                    f"{self.out / STATE}; the same command goes on from there"
                )
            losses.append(result.loss)
            self.spent.pixels += clean.shape[0] * clean.shape[2] * clean.shape[3]
            self.spent.batches += 1
            self.spent.seconds += self.clock() - started
        return sum(losses) / len(losses)

    def clock(self) -> float:
        """Seconds, of which the run has so many minutes."""
        return time.monotonic() if self.device == "cuda" else time.process_time() / torch.get_num_threads()

    def score(self, photographs: Photographs, loss: float) -> None:
        """A line of the curve: PSNR of the averaged weights' mean on what is held out, and on what is trained on. Where
        the latter alone rises, photographs are learnt by heart.
        """
        denoiser = self.averaged()
        tiles = {"psnr": photographs.held_out, "seen": photographs.seen()}
        scores = {
            f"{name}_{quality}": round(mean_psnr(denoiser, of, quality), 3)
            for name, of in tiles.items()
            for quality in QUALITIES
        }
        line = {
            "step": self.learner.step_count,
            "loss": loss if math.isfinite(loss) else None,
            **vars(self.spent),
            **scores,
        }
        with (self.out / LOG).open("a") as file:
            file.write(json.dumps(line) + "\n")
        log.info(
            "step %d, %.0f s, %.0f Mpixel: loss %.4f, %s",
            self.learner.step_count,
            self.spent.seconds,
            self.spent.pixels / 1e6,
            loss,
            scores,
        )

    def averaged(self) -> Denoiser:
        """A denoiser with the averaged weights, for inference."""
        trained = self.learner.denoiser
        with torch.random.fork_rng():
            denoiser = plan.denoiser(trained.network.config)
        denoiser.network.load_state_dict(self.learner.ema.state_of(trained.network))
        return denoiser.eval().to(self.device).to(memory_format=torch.channels_last)

    def save(self) -> None:
        """The model, then the state, which says that it is whole."""
        self.save_model(plan.RECOMMENDED, {})
        partial = self.out / (STATE + ".partial")
        self.learner.save(partial, {"spent": vars(self.spent), "init": self.init})
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(self.out / STATE)

    def save_model(self, recommended: dict[str, Any], more: dict[str, Any]) -> None:
        """The averaged weights, with what is recommended and the card; `more` is for the card."""
        denoiser = self.learner.denoiser
        weights = rounded(self.learner.ema.state_of(denoiser.network), self.only, plan.MANTISSA)
        checkpoint.save(self.out / MODEL, denoiser, weights, recommended, self.card() | more, torch.bfloat16)

    def card(self) -> dict[str, Any]:
        """What the model's file says of its training."""
        network = self.learner.denoiser.network
        return {
            "made_by": "python -m recipes.embedded",
            "parameters": parameter_count(network),
            "device": torch.cuda.get_device_name() if self.device == "cuda" else "CPU",
            "steps": self.learner.step_count,
            "started_from_sha256": self.init,
            "stages": [stage.name for stage in self.stages],
            "only": self.only,  # parts of the network that were trained; none: all of it
            **vars(self.spent),
        }


@torch.inference_mode()
def mean_psnr(denoiser: Denoiser, tiles: dict[str, Pixels], quality: int) -> float:
    """PSNR of the posterior mean, mean over the tiles' middles."""
    t, scores = torch.ones((), dtype=torch.float64), list[float]()
    device = next(denoiser.parameters()).device
    for pixels in tiles.values():
        clean = middle(pixels)
        y, x0 = (
            torch.from_numpy(image).permute(2, 0, 1)[None].float().to(device) / 255
            for image in (degrade(clean, quality, "4:2:0"), clean)
        )
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16_is_faster(device)):
            restored = denoiser(denoiser.process.centre(y, t), y, t)
        scores.append(PAIR_METRICS["psnr"](x0, restored.float().clamp(0, 1)).item())
    return sum(scores) / len(scores)


def middle(pixels: Pixels) -> Pixels:
    """At most WINDOW x WINDOW of a tile, from its corner on."""
    return pixels[:WINDOW, :WINDOW].copy()


def take_over(denoiser: Denoiser, trained: Denoiser) -> None:
    """Start from trained weights. What is new in the network says nothing at first: new columns of a weight are 0.

    Raises ValueError naming a weight that the network does not have.
    """
    own = denoiser.network.state_dict()
    for name, value in trained.network.state_dict().items():
        if name not in own or any(new < old for new, old in zip(own[name].shape, value.shape, strict=True)):
            raise ValueError(f"--init: this network has no place for {name} of shape {tuple(value.shape)}")
        own[name].zero_()
        own[name][tuple(slice(length) for length in value.shape)] = value


def train_only(denoiser: Denoiser, parts: Sequence[str]) -> None:
    """Of the network, the weights whose names begin with one of these parts; without any, all. A step is the shorter
    the later the first of them comes, and a file shares what stays with the one it started from.

    Raises ValueError naming a part that the network does not have.
    """
    weights = dict(denoiser.network.named_parameters())
    for part in parts:
        if not any(_of(name, [part]) for name in weights):
            whole = dict.fromkeys(name.split(".")[0] for name in weights)
            raise ValueError(f"--only: this network has no {part}; it has {', '.join(whole)}, and parts of them (up.1)")
    for name, weight in weights.items():
        if parts:
            weight.requires_grad_(_of(name, parts))


def rounded(weights: Mapping[str, Tensor], parts: Sequence[str], bits: int) -> dict[str, Tensor]:
    """The same, but kernels and matrices of these parts with so many bits of mantissa behind the leading one."""
    return {
        name: _rounded(weight, bits) if weight.ndim > 1 and _of(name, parts) else weight
        for name, weight in weights.items()
    }


def _rounded(weight: Tensor, bits: int) -> Tensor:
    mantissa, exponent = torch.frexp(weight)  # from 1/2 to 1
    scale = 2.0 ** (bits + 1)
    return torch.ldexp((mantissa * scale).round() / scale, exponent)


def _of(name: str, parts: Sequence[str]) -> bool:
    """Whether a weight belongs to one of these parts of the network."""
    return any(f"{name}.".startswith(f"{part}.") for part in parts)
