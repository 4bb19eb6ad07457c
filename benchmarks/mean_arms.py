"""What gives the mean most for its CPU seconds? Small networks that learn the posterior mean alone, for equal seconds.

python -m benchmarks.mean_arms data/photos [--seconds 100] [--images 24] [--arm NAME ...]

Each arm changes one thing of the first, and all see the same patches in the same order. How many steps an arm takes
follows from the fastest of some steps that all take in turn beforehand, so that other work on the machine weighs on
none. Prints of each: seconds a step, steps, CPU seconds that an evaluation takes a megapixel, parameters, and PSNR and
PSNR-B of photographs that none has seen, quality 10, 4:2:0. Minutes an arm: what differs little is not decided.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.ablations import batches
from benchmarks.scores import Set, clean_images
from driftrec.diffusion.denoiser import Denoiser
from driftrec.diffusion.drift import OUVE
from driftrec.jpeg.codec import degrade
from driftrec.metrics import PAIR_METRICS
from driftrec.networks.config import NetworkConfig
from driftrec.networks.ncsnpp import parameter_count
from driftrec.training.loss import Objective, TimeDensity
from driftrec.training.muon import Muon
from driftrec.training.patches import PatchConfig

THRESHOLDS = (12, 30, 60)
LR, WARMUP = 8e-4, 40  # of AdamW and Muon alike; steps
ROUNDS = 4  # of timed steps


@dataclass(frozen=True)
class Arm:
    """One way to train."""

    network: NetworkConfig
    muon: bool = False


SMALL = replace(NetworkConfig.tiny(), extra=())
PLAIN = replace(SMALL, norm="none", activation="relu")
ARMS = {
    "first: BigGAN's blocks, pixel norm": Arm(SMALL),
    "DCT estimates": Arm(replace(SMALL, estimates=THRESHOLDS)),
    "place in the MCU": Arm(replace(SMALL, grid=True)),
    "no norm, ReLU": Arm(PLAIN),
    "NAFNet's blocks": Arm(replace(SMALL, block="gated", blocks=2)),
    "Muon": Arm(SMALL, muon=True),
    "first level 96 wide": Arm(replace(SMALL, width=96, multipliers=(1, 1, 1))),
    "estimates, place, Muon": Arm(replace(SMALL, estimates=THRESHOLDS, grid=True), muon=True),
    "estimates, place, no norm, Muon": Arm(replace(PLAIN, estimates=THRESHOLDS, grid=True), muon=True),
    "estimates, place, NAFNet's blocks, Muon": Arm(
        replace(SMALL, estimates=THRESHOLDS, grid=True, block="gated", blocks=2), muon=True
    ),
    "estimates, place, NAFNet's blocks, three a level, Muon": Arm(
        replace(SMALL, estimates=THRESHOLDS, grid=True, block="gated", blocks=3), muon=True
    ),
}


class Training:
    """A network that learns the mean, step by step."""

    def __init__(self, arm: Arm) -> None:
        torch.manual_seed(0)
        self.denoiser = Denoiser.create(arm.network, OUVE()).to(memory_format=torch.channels_last)
        self.objective = Objective(self.denoiser, TimeDensity(share_at_one=1.0))
        kind = Muon if arm.muon else torch.optim.AdamW
        self.optimiser = kind(self.denoiser.parameters(), lr=LR, betas=(0.9, 0.99))
        self.generator = torch.Generator().manual_seed(0)

    def step(self, clean: Tensor, damaged: Tensor, lr: float) -> None:
        x0, y = ((pixels.float() / 255).contiguous(memory_format=torch.channels_last) for pixels in (clean, damaged))
        with torch.autocast("cpu", torch.bfloat16):
            loss = self.objective(x0, y, *self.objective.draw(x0, self.generator))
        self.denoiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.denoiser.parameters(), 1.0)
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        self.optimiser.step()

    @torch.inference_mode()
    def restored(self, damaged: Set) -> tuple[Set, float]:
        """The mean of each image, and CPU seconds a megapixel."""
        denoiser, begun = self.denoiser.eval(), time.process_time()
        y = torch.from_numpy(damaged).permute(0, 3, 1, 2).float() / 255
        t = torch.ones((), dtype=torch.float64)
        with torch.autocast("cpu", torch.bfloat16):
            done = torch.cat([denoiser(denoiser.process.centre(one, t), one, t) for one in y.split(1)])
        pixels = (done.float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
        return pixels, (time.process_time() - begun) / (damaged[..., 0].size / 1e6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="what `python -m recipes.photos` has left")
    parser.add_argument("--seconds", type=float, default=100, help="CPU seconds of training an arm")
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--arm", nargs="+", choices=list(ARMS), default=list(ARMS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    names, clean = clean_images(args.photos / "devtest", None)
    clean = clean[:: len(names) // args.images][: args.images]
    damaged = np.stack([degrade(image, 10, "4:2:0") for image in clean])
    taken = step_seconds([ARMS[name] for name in args.arm])
    print(f"{args.seconds:g} CPU s an arm, {len(clean)} images; JPEG: {mean_of('psnr', clean, damaged):.2f} dB\n")
    print(
        "| arm | s/step | steps | s/megapixel | parameters | PSNR | PSNR-B |\n|---|---|---|---|---|---|---|", flush=True
    )
    for name, seconds in zip(args.arm, taken, strict=True):
        training, steps = Training(ARMS[name]), int(args.seconds / seconds)
        for step, (x0, y) in zip(range(steps), batches(args.photos, PatchConfig(size=64, per_image=8)), strict=False):
            training.step(x0, y, rate(step, steps))
        pixels, speed = training.restored(damaged)
        psnr, psnrb = (mean_of(metric, clean, pixels) for metric in ("psnr", "psnrb"))
        millions = parameter_count(training.denoiser.network) / 1e6
        print(
            f"| {name} | {seconds:.3f} | {steps} | {speed:.2f} | {millions:.2f} M | {psnr:.2f} | {psnrb:.2f} |",
            flush=True,
        )


def rate(step: int, steps: int) -> float:
    """Warm-up, then half a cosine to 0."""
    return LR * min(1.0, (step + 1) / WARMUP) * (1 + math.cos(math.pi * step / steps)) / 2


def step_seconds(arms: list[Arm]) -> list[float]:
    """CPU seconds of the fastest step of each, all in turn."""
    trainings = [Training(arm) for arm in arms]
    pixels = torch.randint(0, 256, (8, 3, 64, 64), dtype=torch.uint8)
    best = [math.inf] * len(arms)
    for _ in range(ROUNDS):
        for number, training in enumerate(trainings):
            begun = time.process_time()
            training.step(pixels, pixels, 0.0)
            best[number] = min(best[number], time.process_time() - begun)
    return best


def mean_of(metric: str, clean: Set, images: Set) -> float:
    pairs = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 for pixels in (clean, images))
    return PAIR_METRICS[metric](*pairs).mean().item()


if __name__ == "__main__":
    main()
