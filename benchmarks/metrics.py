"""How many images a second get PSNR, SSIM, BEF and PSNR-B on one core, and how many the usual way?

python -m benchmarks.metrics [--images 16] [--rounds 5] [--size 256]

The usual way is scikit-image for SSIM (its default window) and PSNR, and the blocking effect factor in NumPy, image by
image, channel by channel. Ours is `pair_scores`. Both start from the same decoded 8-bit images. Interleaved: each round
runs both once, with one thread. Prints the images a second of each by its CPU time (which counts on a machine that does
other work, too) in its fastest round, their ratio, the median of the rounds' ratios, and how far the values are apart.
"""

from __future__ import annotations

import argparse
import os

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # before NumPy is imported

import statistics
import time

import numpy as np
import torch
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from driftrec.jpeg.codec import degrade
from driftrec.metrics import pair_scores

NAMES = ("psnr", "ssim", "bef", "psnrb")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=256, help="side of the images, to 400")
    args = parser.parse_args()
    torch.set_num_threads(1)
    pairs = photographs(args.images, args.size)
    ways = {"scikit-image and NumPy": usual_way, "pair_scores": our_way}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    values: dict[str, np.ndarray] = {}
    for _ in range(args.rounds + 1):  # the first round warms up
        for name, way in ways.items():
            start = time.process_time()
            values[name] = np.array([way(*pair) for pair in pairs])
            seconds[name].append(time.process_time() - start)
    theirs, ours = (np.array(taken[1:]) / len(pairs) for taken in seconds.values())
    print(f"{args.images} pairs of {args.size}x{args.size}, 1 thread")
    for name, taken in zip(ways, (theirs, ours), strict=True):
        print(f"{name:<24}{1 / taken.min():>8.1f} images a second{1e3 * taken.min():>8.2f} ms an image")
    print(f"ratio {theirs.min() / ours.min():.1f}, median of the rounds {statistics.median(theirs / ours):.1f}")
    apart = np.abs(np.subtract(*values.values())).max(axis=0)
    print("largest difference:", ", ".join(f"{name} {gap:.1e}" for name, gap in zip(NAMES, apart, strict=True)))


def photographs(count: int, size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Crops of real photographs and their JPEG copies of quality 5 to 80, (size, size, 3) uint8."""
    draw = np.random.default_rng(0)
    pairs = []
    for i in range(count):
        photo = (data.astronaut(), data.coffee())[i % 2]
        top, left = (draw.integers(0, side - size + 1) for side in photo.shape[:2])
        crop = np.ascontiguousarray(photo[top : top + size, left : left + size])
        pairs.append((crop, degrade(crop, quality=int(draw.integers(5, 81)))))
    return pairs


def our_way(reference: np.ndarray, restored: np.ndarray) -> list[float]:
    x, y = (torch.from_numpy(image).permute(2, 0, 1)[None] for image in (reference, restored))
    scores = pair_scores(x, y, NAMES)
    return [scores[name].item() for name in NAMES]


def usual_way(reference: np.ndarray, restored: np.ndarray) -> list[float]:
    psnr = peak_signal_noise_ratio(reference, restored, data_range=255)
    ssim = structural_similarity(reference, restored, channel_axis=2, data_range=255)
    x, y = reference.astype(np.float64) / 255, restored.astype(np.float64) / 255
    factors = np.array([blocking_effect_factor(y[..., channel]) for channel in range(3)])
    errors = ((x - y) ** 2).mean(axis=(0, 1))
    return [psnr, ssim, factors.mean(), (-10 * np.log10(errors + factors)).mean()]


def blocking_effect_factor(plane: np.ndarray, block: int = 8) -> float:
    """Yim and Bovik 2011, set by set of pixel pairs: across and within blocks, of columns and of rows."""
    height, width = plane.shape
    columns, rows = np.arange(width - 1), np.arange(height - 1)
    across_columns, across_rows = columns % block == block - 1, rows % block == block - 1
    total, pairs = [], []
    for chosen_columns, chosen_rows in ((across_columns, across_rows), (~across_columns, ~across_rows)):
        j, i = columns[chosen_columns], rows[chosen_rows]
        total.append(((plane[:, j] - plane[:, j + 1]) ** 2).sum() + ((plane[i] - plane[i + 1]) ** 2).sum())
        pairs.append(height * len(j) + width * len(i))
    across, within = (squares / number for squares, number in zip(total, pairs, strict=True))
    eta = np.log2(block) / np.log2(min(height, width)) if across > within else 0.0
    return eta * (across - within)


if __name__ == "__main__":
    main()
