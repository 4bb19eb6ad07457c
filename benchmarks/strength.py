"""Which share of the network's change does a picture bear, by quality?

python -m benchmarks.strength data/photos/devtest [--limit N] [--quality 60 75 90] [--model tiny]

The posterior mean moves a JPEG by a change c, the clean image lies at e from it: a share s of the change leaves the
error |e - s c|^2, least at s = <e, c> / <c, c>. Each row gives the share that `adaptive` applies, that best share (mean
over the photographs, and the least), and what the shares gain in PSNR, in dB: the mean, and the worst photograph's.
Without projection, which bounds the change to what the file leaves open. Photographs bear more than drawings: this
table alone is no reason to apply more.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from benchmarks.scores import Set, clean_images
from driftrec import Restorer
from driftrec.jpeg.codec import encode_jpeg
from driftrec.restoration import adaptive
from driftrec.restoration.opening import open_picture
from driftrec.restoration.options import Sampling

QUALITIES = (50, 60, 70, 75, 80, 85, 90, 93, 95, 97, 98)
MEAN = Sampling(fidelity=1.0, adaptive=False, projection=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="clean PNG images of one size")
    parser.add_argument("--limit", type=int, default=None, help="photographs")
    parser.add_argument("--quality", nargs="+", type=int, default=list(QUALITIES))
    parser.add_argument("--model", default="tiny")
    args = parser.parse_args()
    torch.set_num_threads(1)
    restorer = Restorer.from_pretrained(args.model)
    _, clean = clean_images(args.folder, args.limit)
    print(f"{len(clean)} photographs, model {restorer.fingerprint[:12]}\n")
    print(
        "| quality | | share applied | best share | least | gain applied | of all | at best | worst applied | of all |"
    )
    print("|" + "---|" * 10)
    for quality in args.quality:
        for subsampling in ("4:2:0", "4:4:4"):
            print(row(restorer, clean, quality, subsampling), flush=True)


def row(restorer: Restorer, clean: Set, quality: int, subsampling: str) -> str:
    """A line of the table."""
    applied = adaptive.strength(quality)
    best, gains = list[float](), list[list[float]]()
    for number, truth in enumerate(clean):
        picture = open_picture(encode_jpeg(truth, quality, subsampling), projection=False)
        restored = restorer.restore([picture], [str(number)], 0, MEAN)[0].picture.rgb8
        error, change = truth.astype(float) - picture.rgb8, restored.astype(float) - picture.rgb8
        best.append(float((error * change).sum() / max(1.0, (change**2).sum())))
        before = (error**2).mean()
        shares = (applied, 1.0, best[-1])
        gains.append([10 * float(np.log10(before / ((error - share * change) ** 2).mean())) for share in shares])
    mean, worst = np.mean(gains, axis=0), np.min(gains, axis=0)
    cells = [f"{applied:.2f}", f"{np.mean(best):.2f}", f"{min(best):.2f}"]
    cells += [f"{value:+.2f}" for value in (*mean, *worst[:2])]
    return f"| {quality} | {subsampling} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
