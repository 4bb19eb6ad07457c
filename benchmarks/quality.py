"""How much better than its JPEG is a restored image? Means over a folder of clean images.

python benchmarks/quality.py data/photos/devtest --quality 10 [--model tiny] [--subsampling 4:2:0] [--limit N]

Prints a table: the JPEG itself, the model's mean (fidelity 1) and its sample (fidelity 0, 8 steps). BEF is in squared
levels of 255. The images come from `python -m recipes.photos`; the model has never seen those in devtest.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from driftrec import Restorer
from driftrec.image import from_pil
from driftrec.jpeg import degrade
from driftrec.metrics import PAIR_METRICS
from driftrec.restoration import Sampling

METRICS = {"psnr": 1.0, "ssim": 1.0, "psnrb": 1.0, "bef": 255.0**2}  # with the scale it is printed in
Restore = Callable[[np.ndarray, str], np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quality", default="10", help="comma-separated JPEG qualities")
    parser.add_argument("--subsampling", default="4:2:0")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--limit", type=int, default=None)
    args = parser.parse_args()
    files = sorted(args.folder.glob("*.png"))[: args.limit]
    if not files:
        sys.exit(f"{args.folder}: no PNG images; make them with: python -m recipes.photos")
    arms = candidates(Restorer.from_pretrained(args.model), args.steps)
    print(f"{len(files)} images, {args.subsampling}, model {args.model}")
    print(f"{'quality':>7}  {'candidate':<16}" + "".join(f"{name:>9}" for name in METRICS) + f"{'s/image':>9}")
    for quality in map(int, args.quality.split(",")):
        for name, restore in arms.items():
            scores, seconds = score(files, restore, quality, args.subsampling)
            print(f"{quality:>7}  {name:<16}" + "".join(f"{value:>9.4f}" for value in scores) + f"{seconds:>9.3f}")


def candidates(restorer: Restorer, steps: int) -> dict[str, Restore]:
    """What is compared: (damaged pixels, key) -> restored pixels."""

    def by(sampling: Sampling) -> Restore:
        def restore(damaged: np.ndarray, key: str) -> np.ndarray:
            return restorer.restore([from_pil(Image.fromarray(damaged))], [key], 0, sampling)[0].picture.rgb

        return restore

    return {
        "JPEG": lambda damaged, key: damaged,
        "mean": by(Sampling(fidelity=1.0)),
        f"sample, {steps} steps": by(Sampling(steps=steps, fidelity=0.0)),
    }


def score(files: list[Path], restore: Restore, quality: int, subsampling: str) -> tuple[np.ndarray, float]:
    """Mean of each metric over the files, and seconds an image for the restoration alone."""
    rows, seconds = [], 0.0
    for file in files:
        clean = np.asarray(Image.open(file).convert("RGB"))
        damaged = degrade(clean, quality, subsampling)
        start = time.perf_counter()
        restored = restore(damaged, file.name)
        seconds += time.perf_counter() - start
        pair = as_batch(clean), as_batch(restored)
        rows.append([PAIR_METRICS[name](*pair).item() * scale for name, scale in METRICS.items()])
    return np.mean(rows, axis=0), seconds / len(files)


def as_batch(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255


if __name__ == "__main__":
    main()
