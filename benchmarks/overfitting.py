"""Does a model know its photographs by heart? What its mean gains on tiles that it was trained on, and on others.

python -m benchmarks.overfitting data/photos [--model tiny ...] [--tiles 60]

Prints PSNR gains over the JPEG (Pillow, 4:2:0, qualities 10 and 40) of the middles of tiles: some that
`recipes.embedded` trains on, and those that it holds out. The photographs differ, so that only how the gains of two
models differ can be compared: where the seen ones gain more than the others, they are learnt by heart.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from driftrec.jpeg.codec import degrade
from driftrec.metrics import PAIR_METRICS
from driftrec.models import checkpoint
from recipes.embedded.data import read_photographs
from recipes.embedded.run import QUALITIES, mean_psnr, middle

Pixels = NDArray[np.uint8]  # (H, W, 3)


def main() -> None:
    """A row a model and set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="what `python -m recipes.photos` has left")
    parser.add_argument("--model", nargs="+", default=["tiny"], help="names or files")
    parser.add_argument("--tiles", type=int, default=60, help="of those trained on")
    args = parser.parse_args()
    torch.set_num_threads(1)
    photographs = read_photographs(args.photos)
    sets = {"trained on": photographs.seen(args.tiles), "held out": photographs.held_out}
    print("| model | tiles | " + " | ".join(f"gain at {q}" for q in QUALITIES) + " |\n" + "|---" * 4 + "|", flush=True)
    for model in args.model:
        denoiser = checkpoint.load(model).denoiser.eval().to(memory_format=torch.channels_last)
        for label, tiles in sets.items():
            gains = [mean_psnr(denoiser, tiles, quality) - jpeg_psnr(tiles, quality) for quality in QUALITIES]
            told = " | ".join(f"{gain:+.2f}" for gain in gains)
            print(f"| {Path(model).name} | {len(tiles)} {label} | {told} |", flush=True)


def jpeg_psnr(tiles: dict[str, Pixels], quality: int) -> float:
    """Of the JPEGs themselves, mean over the tiles' middles."""
    scores: list[float] = []
    for pixels in tiles.values():
        clean = middle(pixels)
        pair = (torch.from_numpy(one).permute(2, 0, 1)[None] / 255 for one in (clean, degrade(clean, quality, "4:2:0")))
        scores.append(PAIR_METRICS["psnr"](*pair).item())
    return float(np.mean(scores))


if __name__ == "__main__":
    main()
