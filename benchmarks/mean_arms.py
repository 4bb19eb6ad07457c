"""What gives the mean most for its CPU seconds? Small networks that learn the posterior mean alone, for equal seconds.

python -m benchmarks.mean_arms data/photos [--seconds 100] [--images 24] [--arm NAME ...]

Each arm changes one thing of the first, and all see the same patches in the same order (but for those whose last are
larger). How many steps an arm takes follows from the fastest of some steps that all take in turn beforehand, so that
other work on the machine weighs on none. Prints of each: seconds a step, steps, CPU seconds that an evaluation takes a
megapixel, parameters, and PSNR and PSNR-B of photographs that none has seen, quality 10, 4:2:0. Minutes an arm: what
differs little is not decided.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.scores import Set, clean_images
from driftrec.diffusion.denoiser import Denoiser
from driftrec.diffusion.drift import OUVE
from driftrec.jpeg.codec import degrade
from driftrec.metrics import PAIR_METRICS
from driftrec.networks.config import NetworkConfig
from driftrec.networks.ncsnpp import NCSNpp, parameter_count
from driftrec.random import generator_for
from driftrec.training.loss import Objective, TimeDensity
from driftrec.training.muon import Muon
from driftrec.training.patches import PatchConfig, draw_patches, draw_quality
from recipes.embedded.data import read_tiles

THRESHOLDS = (12, 30, 60)
LR, WARMUP = 8e-4, 40  # of AdamW and Muon alike; steps
BATCH = 8
SIDE, LATE_SIDE = 64, 96  # pixels, of patches
LATE = 0.4  # share of the seconds at the end in which patches are of LATE_SIDE, for arms that have them
QUALITY = 10  # of the JPEGs that are scored
ROUNDS = 4  # of timed steps

Batch = tuple[Tensor, Tensor, Tensor]  # clean, damaged: (BATCH, 3, side, side) uint8; JPEG quality: (BATCH,)


@dataclass(frozen=True)
class Arm:
    """One way to train."""

    network: NetworkConfig
    muon: bool = False
    told: bool = False  # the network is told the JPEG's quality
    late: bool = False  # ends with larger patches


SMALL = replace(NetworkConfig.tiny(), extra=())
PLAIN = replace(SMALL, norm="none", activation="relu")
ARMS = {
    "first: BigGAN's blocks, pixel norm": Arm(SMALL),
    "DCT estimates": Arm(replace(SMALL, estimates=THRESHOLDS)),
    "place in the MCU": Arm(replace(SMALL, grid=True)),
    "no norm, ReLU": Arm(PLAIN),
    "NAFNet's blocks": Arm(replace(SMALL, block="gated", blocks=2)),
    "Muon": Arm(SMALL, muon=True),
    "told the quality": Arm(SMALL, told=True),
    "larger patches late": Arm(SMALL, late=True),
    "first level 96 wide": Arm(replace(SMALL, width=96, multipliers=(1, 1, 1))),
    "estimates, place, Muon": Arm(replace(SMALL, estimates=THRESHOLDS, grid=True), muon=True),
    "estimates, place, Muon, told the quality": Arm(
        replace(SMALL, estimates=THRESHOLDS, grid=True), muon=True, told=True
    ),
    "estimates, place, Muon, larger patches late": Arm(
        replace(SMALL, estimates=THRESHOLDS, grid=True), muon=True, late=True
    ),
    "estimates, place, no norm, Muon": Arm(replace(PLAIN, estimates=THRESHOLDS, grid=True), muon=True),
    "estimates, place, NAFNet's blocks, Muon": Arm(
        replace(SMALL, estimates=THRESHOLDS, grid=True, block="gated", blocks=2), muon=True
    ),
    "estimates, place, NAFNet's blocks, three a level, Muon": Arm(
        replace(SMALL, estimates=THRESHOLDS, grid=True, block="gated", blocks=3), muon=True
    ),
}


class ToldQuality(NCSNpp):
    """Modulated by the JPEG's quality instead of the noise level, which is the same in all that is trained here."""

    quality = torch.zeros(())

    def forward(self, x: Tensor, y: Tensor, noise_level: Tensor) -> Tensor:
        return super().forward(x, y, self.quality / 50 - 1)


class Training:
    """A network that learns the mean, step by step."""

    def __init__(self, arm: Arm) -> None:
        torch.manual_seed(0)
        network = ToldQuality(arm.network) if arm.told else NCSNpp(arm.network)
        self.denoiser = Denoiser(network, OUVE()).to(memory_format=torch.channels_last)
        self.objective = Objective(self.denoiser, TimeDensity(share_at_one=1.0))
        kind = Muon if arm.muon else torch.optim.AdamW
        self.optimiser = kind(self.denoiser.parameters(), lr=LR, betas=(0.9, 0.99))
        self.generator = torch.Generator().manual_seed(0)

    def step(self, batch: Batch, lr: float) -> None:
        *images, quality = batch
        x0, y = ((pixels.float() / 255).contiguous(memory_format=torch.channels_last) for pixels in images)
        self.tell(quality)
        with torch.autocast("cpu", torch.bfloat16):
            loss = self.objective(x0, y, *self.objective.draw(x0, self.generator))
        self.denoiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.denoiser.parameters(), 1.0)
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        self.optimiser.step()

    def tell(self, quality: Tensor) -> None:
        """The quality of what comes next, to a network that is told it: (B,) or scalar."""
        if isinstance(self.denoiser.network, ToldQuality):
            self.denoiser.network.quality = quality

    @torch.inference_mode()
    def restored(self, damaged: Set) -> tuple[Set, float]:
        """The mean of each image, and CPU seconds a megapixel."""
        denoiser, begun = self.denoiser.eval(), time.process_time()
        self.tell(torch.tensor(float(QUALITY)))
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
    damaged = np.stack([degrade(image, QUALITY, "4:2:0") for image in clean])
    arms = {name: ARMS[name] for name in args.arm}
    small, large = step_seconds(arms, SIDE), step_seconds(arms, LATE_SIDE)
    print(f"{args.seconds:g} CPU s an arm, {len(clean)} images; JPEG: {mean_of('psnr', clean, damaged):.2f} dB\n")
    print(
        "| arm | s/step | steps | s/megapixel | parameters | PSNR | PSNR-B |\n|---|---|---|---|---|---|---|", flush=True
    )
    for name, arm in arms.items():
        training, early = Training(arm), args.seconds * (1 - LATE if arm.late else 1)
        sides = [SIDE] * int(early / small[name]) + [LATE_SIDE] * int((args.seconds - early) / large[name])
        for step, batch in enumerate(batches(args.photos, sides)):
            training.step(batch, rate(step, len(sides)))
        pixels, speed = training.restored(damaged)
        psnr, psnrb = (mean_of(metric, clean, pixels) for metric in ("psnr", "psnrb"))
        millions = parameter_count(training.denoiser.network) / 1e6
        row = f"{small[name]:.3f} | {len(sides)} | {speed:.2f} | {millions:.2f} M | {psnr:.2f} | {psnrb:.2f}"
        print(f"| {name} | {row} |", flush=True)


def batches(photos: Path, sides: list[int]) -> Iterator[Batch]:
    """A batch a side, of patches of that side; each patch is of another tile, and its quality is known."""
    tiles = {name: tile for name, tile in read_tiles(photos / "train") if min(tile.shape[:2]) >= LATE_SIDE}
    names = sorted(tiles)
    for step, side in enumerate(sides):
        rng = generator_for("mean arms", step)
        qualities = [draw_quality(PatchConfig(), rng) for _ in range(BATCH)]
        pairs = [
            draw_patches(tiles[name], PatchConfig(side, per_image=1, quality_min=q, quality_max=q), 0, step, name)
            for name, q in zip(rng.choice(names, BATCH, replace=False), qualities, strict=True)
        ]
        clean, damaged = (
            torch.from_numpy(np.concatenate(images)).permute(0, 3, 1, 2) for images in zip(*pairs, strict=True)
        )
        yield clean, damaged, torch.tensor(qualities, dtype=torch.float32)


def rate(step: int, steps: int) -> float:
    """Warm-up, then half a cosine to 0."""
    return LR * min(1.0, (step + 1) / WARMUP) * (1 + math.cos(math.pi * step / steps)) / 2


def step_seconds(arms: dict[str, Arm], side: int) -> dict[str, float]:
    """CPU seconds of the fastest step of each, all in turn, on patches of this side."""
    trainings = {name: Training(arm) for name, arm in arms.items()}
    pixels = torch.randint(0, 256, (BATCH, 3, side, side), dtype=torch.uint8)
    best = dict.fromkeys(arms, math.inf)
    for _ in range(ROUNDS):
        for name, training in trainings.items():
            begun = time.process_time()
            training.step((pixels, pixels, torch.full((BATCH,), float(QUALITY))), 0.0)
            best[name] = min(best[name], time.process_time() - begun)
    return best


def mean_of(metric: str, clean: Set, images: Set) -> float:
    pairs = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 for pixels in (clean, images))
    return PAIR_METRICS[metric](*pairs).mean().item()


if __name__ == "__main__":
    main()
