"""How fast is one training step, against a plain one of the same network?

python -m benchmarks.train_step [--rounds 5] [--threads 2] [--only tiny|paper]

Ours is what `driftrec train` does: bfloat16 autocast, channels_last, gradient clipping, AdamW, EMA. The plain step does
the same in float32 on contiguous tensors. Interleaved: each round runs one step of either. Prints the fastest round of
each in seconds and in CPU seconds of all threads (which count on a machine that does other work, too), and the ratios.
On a GPU, if there is one, in seconds alone. Exit code 1 if a ratio is below 2.5.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from driftrec.diffusion.denoiser import Denoiser
from driftrec.diffusion.drift import OUVE
from driftrec.networks.config import NetworkConfig
from driftrec.training.learner import Learner, Optimisation
from driftrec.training.loss import Objective, TimeDensity

WANTED = 2.5  # times as fast as the plain step
NETWORKS = {  # config, patches in a batch, side of a patch: as in configs/tiny.yaml; so large that not AdamW decides
    "tiny": (NetworkConfig.tiny(), 8, 96),
    "paper": (NetworkConfig.paper(), 1, 256),
}
Step = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=None, help="default: PyTorch's")
    parser.add_argument("--only", choices=NETWORKS, default=None)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{where}, PyTorch {torch.__version__}; the fastest of {args.rounds} rounds")
    print(f"{'network':<26}{'plain s':>10}{'ours s':>9}{'ratio':>8}{'plain CPU s':>14}{'ours CPU s':>12}{'ratio':>8}")
    ratios: list[float] = []
    for name, (config, batch, side) in NETWORKS.items():
        if args.only in (None, name):
            plain, ours = fastest(steps(config, batch, side, device), args.rounds)
            wall, cpu = plain[0] / ours[0], plain[1] / ours[1]
            ratios.append(wall if device.type == "cuda" else cpu)
            told = f"{plain[0]:>10.3f}{ours[0]:>9.3f}{wall:>8.2f}{plain[1]:>14.3f}{ours[1]:>12.3f}{cpu:>8.2f}"
            print(f"{f'{name}, {batch} x {side}x{side}':<26}{told}", flush=True)
    sys.exit(min(ratios) < WANTED)


def steps(config: NetworkConfig, batch: int, side: int, device: torch.device) -> tuple[Step, Step]:
    """A plain step and ours, on the same random images."""
    clean = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    damaged = (clean.float() * 0.9).to(torch.uint8)
    return plain_step(make(config, device), clean, damaged), our_step(make(config, device), clean, damaged)


def make(config: NetworkConfig, device: torch.device) -> Denoiser:
    torch.manual_seed(0)
    return Denoiser.create(config, OUVE()).to(device)


def our_step(denoiser: Denoiser, clean: Tensor, damaged: Tensor) -> Step:
    learner = Learner(denoiser, TimeDensity(), Optimisation(warmup=0))
    return lambda: learner.step(clean, damaged)


def plain_step(denoiser: Denoiser, clean: Tensor, damaged: Tensor) -> Step:
    """The same step in float32, contiguous: forward, backward, clipping, AdamW, EMA."""
    settings, objective = Optimisation(), Objective(denoiser, TimeDensity())
    parameters = list(denoiser.parameters())
    optimiser = torch.optim.AdamW(parameters, settings.lr, settings.betas, weight_decay=settings.weight_decay)
    averages = [parameter.detach().clone() for parameter in parameters]
    device = parameters[0].device

    def step() -> float:
        x0, y = (images.to(device).float() / 255 for images in (clean, damaged))
        loss = objective(x0, y, *objective.draw(x0, torch.Generator().manual_seed(0)))
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, settings.clip)
        optimiser.step()
        with torch.no_grad():
            for average, parameter in zip(averages, parameters, strict=True):
                average.lerp_(parameter, 1 - settings.ema_decay)
        return loss.item()

    return step


def fastest(arms: tuple[Step, ...], rounds: int) -> list[tuple[float, float]]:
    """(seconds, CPU seconds) of the fastest step of each; the first round warms up."""
    taken: list[list[tuple[float, float]]] = [[] for _ in arms]
    for _ in range(rounds + 1):
        for arm, times in zip(arms, taken, strict=True):
            begun = time.perf_counter(), time.process_time()
            arm()
            times.append((time.perf_counter() - begun[0], time.process_time() - begun[1]))
    return [(min(wall for wall, _ in times[1:]), min(cpu for _, cpu in times[1:])) for times in taken]


if __name__ == "__main__":
    main()
