"""How many evaluations does a sampler need? Scores against evaluations on photographs, and what averaging brings.

python -m benchmarks.steps data/photos/devtest data/standins [--quality 10] [--model tiny] [--limit N] [--keep FOLDER]

Prints two tables: every sampler at 1 to 100 evaluations, and the mean of 1 to 8 samples of the multistep sampler (the
paper's Fig. 7). BEF is in squared levels of 255. lpips-like and kid* are stand-ins (`python -m recipes.standins`): good
for comparing rows of one table, not comparable with anything called LPIPS or KID. --keep stores every restored set, and
a second run goes on with what is there. On one core an image takes about a minute.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.scores import HIGHER_IS_BETTER, Scores, Set, cells, clean_images, header
from driftrec import Restorer
from driftrec.image import from_pil
from driftrec.jpeg.codec import degrade
from driftrec.restoration.options import Sampling

EVALUATIONS = (1, 2, 3, 5, 8, 10, 20, 50, 100)
AVERAGED = (1, 2, 4, 8)
REFERENCE = "euler-maruyama, uniform", 100
CLOSE = 0.02  # of the reference's score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="clean PNG images of one size")
    parser.add_argument("standins", type=Path, help="folder of the stand-ins' weights")
    parser.add_argument("--quality", type=int, default=10)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--keep", type=Path, default=None)
    args = parser.parse_args()
    names, clean = clean_images(args.folder, args.limit)
    bench = Bench(names, clean, Restorer.from_pretrained(args.model), args.quality, args.keep)
    arms = dict(all_arms())
    restored = {arm: bench.restored(*arm, sampling) for arm, sampling in arms.items()}
    sample = Sampling(steps=8, fidelity=0.0, start=1.0)
    samples = [bench.restored("sample", seed, sample, seed) for seed in range(max(AVERAGED))]
    score = Scores(clean, args.standins)
    fingerprint = bench.restorer.fingerprint[:12]
    print(f"{len(names)} images, quality {args.quality}, 4:2:0, model {args.model} ({fingerprint})\n")
    show_steps({("JPEG", 0): score(bench.damaged)} | {arm: score(images) for arm, images in restored.items()})
    show_averages({k: score(average(samples[:k])) for k in AVERAGED})


def all_arms() -> Iterator[tuple[tuple[str, int], Sampling]]:
    """((label, evaluations), settings)."""
    ode = Sampling(fidelity=0.0, start=1.0, eta=0.0, order=2)
    for n in EVALUATIONS:
        yield ("multistep 2, eta 0, quadratic", n), replace(ode, steps=n)
    for n in EVALUATIONS[2:5]:  # one of them for the mean
        yield ("multistep 2 from the mean at t = 0.3", n), replace(ode, steps=n - 1, start=0.3)
    yield ("multistep 2, eta 0, lambda", 10), replace(ode, steps=10, grid="lambda")
    yield ("multistep 1, eta 0, quadratic", 10), replace(ode, steps=10, order=1)
    yield ("multistep 2, eta 1, quadratic", 10), replace(ode, steps=10, eta=1.0)
    for n in EVALUATIONS[3:6]:
        yield ("multistep 1, eta 1, quadratic", n), replace(ode, steps=n, eta=1.0, order=1)
    yield ("euler-heun, uniform", 10), Sampling(sampler="euler-heun", steps=5, fidelity=0.0, start=1.0)
    for n in EVALUATIONS[4:]:
        yield ("euler-maruyama, uniform", n), Sampling(sampler="euler-maruyama", steps=n, fidelity=0.0, start=1.0)


class Bench:
    """The images, their JPEGs, and what the model makes of them."""

    def __init__(self, names: list[str], clean: Set, restorer: Restorer, quality: int, keep: Path | None) -> None:
        self.names, self.restorer, self.keep, self.quality = names, restorer, keep, quality
        self.damaged: Set = np.stack([degrade(image, quality, "4:2:0") for image in clean])

    def restored(self, label: str, number: int, sampling: Sampling, seed: int = 0) -> Set:
        """All images, restored so. label and number name the stored set."""
        name = f"{self.restorer.fingerprint[:12]} q{self.quality} n{len(self.names)} {label} {number}.npy"
        stored = self.keep / name if self.keep else None
        if stored and stored.is_file():
            return np.load(stored)
        pictures = [from_pil(Image.fromarray(y)) for y in self.damaged]
        results = self.restorer.restore(pictures, self.names, seed, sampling)
        images = np.stack([result.picture.rgb for result in results])
        if stored:
            stored.parent.mkdir(parents=True, exist_ok=True)
            np.save(stored, images)
        print(f"{label}, {number}: {results[0].nfe} evaluations an image", file=sys.stderr, flush=True)
        return images


def average(samples: list[Set]) -> Set:
    return np.mean(samples, axis=0).round().astype(np.uint8)


def show_steps(table: dict[tuple[str, int], list[float]]) -> None:
    print(header("sampler", "evaluations"))
    for (label, n), scores in table.items():
        print(f"| {label} | {n} | {cells(scores)} |")
    goal = table[REFERENCE]
    print(f"\nFirst number of evaluations, compared with {REFERENCE[0]} at {REFERENCE[1]}:")
    for label in dict.fromkeys(label for label, _ in table if label != "JPEG"):
        within = [n for (name, n), scores in table.items() if name == label and close(scores, goal, worse_only=False)]
        no_worse = [n for (name, n), scores in table.items() if name == label and close(scores, goal, worse_only=True)]
        print(
            f"{label}: every score within {CLOSE:.0%} at {min(within, default='none')}, "
            f"none worse by more at {min(no_worse, default='none')}"
        )


def close(scores: list[float], goal: list[float], worse_only: bool) -> bool:
    """Whether no score is off (worse than) the goal's by more than CLOSE of it."""
    signs = [1 if better else -1 for better in HIGHER_IS_BETTER]
    off = [sign * (score - aim) / abs(aim) for sign, score, aim in zip(signs, scores, goal, strict=True)]
    return all(-CLOSE <= each <= (float("inf") if worse_only else CLOSE) for each in off)


def show_averages(table: dict[int, list[float]]) -> None:
    print("\n" + header("samples averaged", "gain in dB", "10 log10(2 / (1 + 1/k))"))
    for k, scores in table.items():
        gain, law = scores[0] - table[1][0], 10 * np.log10(2 / (1 + 1 / k))
        print(f"| {k} | {gain:.2f} | {law:.2f} | {cells(scores)} |")


if __name__ == "__main__":
    main()
