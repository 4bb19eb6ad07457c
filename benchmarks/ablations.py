"""What helps? The same small network trained for equal steps in different ways, and what came of it.

python -m benchmarks.ablations data/photos data/standins [--steps 800] [--images 24] [--arm NAME ...] [--keep FOLDER]

Each arm changes one thing of the first. Prints a row an arm: scores at quality 10, 4:2:0, of the mean (one evaluation)
and of a sample by its own sampler, over photographs that none has seen. All arms see the same patches in the same
order. --keep stores the weights of each arm, and a second run goes on with what is there. A few minutes an arm on one
core: enough to rank what differs much, no more.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.scores import Scores, cells, clean_images, header
from driftrec import Restorer
from driftrec.diffusion.baselines import I2SB, IRSDE, Cold, Conditional, InDI, Regression
from driftrec.diffusion.denoiser import Denoiser, Form
from driftrec.diffusion.drift import OUVE, TSDVE, CosVE
from driftrec.diffusion.process import Process
from driftrec.image import from_pil
from driftrec.jpeg.codec import degrade
from driftrec.models.checkpoint import save
from driftrec.networks.config import NetworkConfig
from driftrec.random import generator_for
from driftrec.restoration.options import Sampling
from driftrec.training.learner import Learner, Optimisation
from driftrec.training.loss import Loss, TimeDensity
from driftrec.training.patches import PatchConfig, draw_patches
from recipes.embedded.data import read_tiles


@dataclass(frozen=True)
class Arm:
    """One way to train."""

    process: Process
    form: Form
    density: TimeDensity
    network: NetworkConfig
    patches: PatchConfig
    sampler: Sampling
    blocking: float = 0.0
    loss: Loss = "mean"


SMALL = replace(NetworkConfig.tiny(), extra=())
FIRST = Arm(
    process=OUVE(),
    form="x0",
    density=TimeDensity(power=1.5, share_at_one=0.2),
    network=SMALL,
    patches=PatchConfig(size=64, per_image=8),
    sampler=Sampling(steps=8, fidelity=0.0),
)
ARMS = {
    "x0, t = u^1.5": FIRST,
    "the paper's form (noise)": replace(FIRST, form="noise"),
    "the paper's form, uniform t": replace(FIRST, form="noise", density=TimeDensity()),
    "uniform t": replace(FIRST, density=TimeDensity(share_at_one=0.2)),
    "uniform t, none at t = 1": replace(FIRST, density=TimeDensity()),
    "TSDVE": replace(FIRST, process=TSDVE()),
    "CosVE": replace(FIRST, process=CosVE()),
    "OUVE, sigma_max 0.3": replace(FIRST, process=OUVE(sigma_max=0.3)),
    "I2SB": replace(FIRST, process=I2SB()),
    "IR-SDE": replace(FIRST, process=IRSDE()),
    "Palette-like": replace(FIRST, process=Conditional()),
    "InDI": replace(FIRST, process=InDI(), form="residual"),
    # As their papers have them, each with its own sampler: of 100 steps where noise is estimated, else of 8.
    "I2SB, its form and sampler": replace(FIRST, process=I2SB(), form="bridge", density=TimeDensity(t_eps=1e-3)),
    "IR-SDE, its loss and sampler": replace(
        FIRST,
        process=IRSDE(),
        form="noise",
        loss="matching",
        density=TimeDensity(),
        sampler=Sampling(steps=100, fidelity=0.0, eta=1.0, order=1, grid="uniform"),
    ),
    "Palette-like, its form and sampler": replace(
        FIRST,
        process=Conditional(),
        form="noise",
        density=TimeDensity(),
        sampler=Sampling(steps=100, fidelity=0.0, eta=1.0, order=1, grid="uniform"),
    ),
    "InDI with noise": replace(FIRST, process=InDI(noise=0.1)),
    "Cold diffusion": replace(
        FIRST, process=Cold(), form="residual", sampler=Sampling(sampler="cold", steps=8, fidelity=0.0)
    ),
    "regression": replace(FIRST, process=Regression(), form="residual", sampler=Sampling(steps=1, fidelity=0.0)),
    "stem 4": replace(FIRST, network=replace(SMALL, stem=4)),
    "blocking 0.05": replace(FIRST, blocking=0.05),
    "log loss": replace(FIRST, loss="log"),
    "quality uniform": replace(FIRST, patches=replace(FIRST.patches, quality_power=1.0)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="what `python -m recipes.photos` has left")
    parser.add_argument("standins", type=Path, help="folder of the stand-ins' weights")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--arm", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--keep", type=Path, default=Path("runs/arms"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    names, clean = clean_images(args.photos / "devtest", None)
    every = len(names) // args.images
    names, clean = names[::every][: args.images], clean[::every][: args.images]
    score = Scores(clean, args.standins)
    damaged = [from_pil(Image.fromarray(degrade(image, 10, "4:2:0"))) for image in clean]
    print(f"{args.steps} steps of 8 patches, {len(names)} images\n\n" + header("arm", ""), flush=True)
    for name in args.arm:
        path = train(name, ARMS[name], args.photos, args.steps, args.keep)
        restorer = Restorer.from_pretrained(str(path))
        for label, sampling in {"mean": Sampling(fidelity=1.0), "sample": ARMS[name].sampler}.items():
            done = restorer.restore(damaged, names, 0, sampling)
            images = np.stack([result.picture.rgb for result in done])
            print(f"| {name} | {label} | {cells(score(images))} |", flush=True)


def train(name: str, arm: Arm, photos: Path, steps: int, folder: Path) -> Path:
    """The averaged weights after so many steps."""
    path = folder / f"{name.replace('/', '-')} {steps}.safetensors"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    denoiser = Denoiser.create(arm.network, arm.process, arm.form)
    optimisation = Optimisation(steps=steps, lr=8e-4, warmup=100, ema_decay=0.995)
    learner = Learner(denoiser, arm.density, optimisation, blocking=arm.blocking, loss=arm.loss)
    for _, (x0, y) in zip(range(steps), batches(photos, arm.patches), strict=False):
        learner.step(x0, y)
    save(path, denoiser, learner.ema.state_of(denoiser.network))
    return path


def batches(photos: Path, config: PatchConfig) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Eight patches of eight tiles at a time, for ever; the order depends on nothing but the tiles."""
    tiles = dict(read_tiles(photos / "train"))
    names, epoch = sorted(tiles), 0
    while True:
        order = [names[i] for i in generator_for("arms", epoch).permutation(len(names))]
        for start in range(0, len(order) - 7, 8):
            drawn = [draw_patches(tiles[name], config, 0, epoch, name) for name in order[start : start + 8]]
            for i in range(config.per_image):
                clean, damaged = (np.stack([pair[side][i] for pair in drawn]) for side in (0, 1))
                yield torch.from_numpy(clean).permute(0, 3, 1, 2), torch.from_numpy(damaged).permute(0, 3, 1, 2)
        epoch += 1


if __name__ == "__main__":
    main()
