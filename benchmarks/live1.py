"""How far behind the field's published networks? The table of LIVE1, or of any folder of clean images.

python -m benchmarks.live1 FOLDER [--quality 10,20,40] [--model tiny] [--sample] [--standins DIR] [--limit N]

Every image becomes a JPEG file (Pillow, 4:2:0) of each quality, and is restored from it as `driftrec restore
--no-adaptive` would. Prints a table a quality: RGB PSNR, SSIM (gaussian 11x11) and PSNR-B, means over the images, and
CPU seconds a megapixel of one core; with --standins also lpips-like and kid*. Where the images are LIVE1's, the
published rows stand beside ours. LIVE1 (Sheikh et al. 2005, 29 images) is published by the LIVE laboratory of the
University of Texas at Austin, and is not part of this repository. It is there to report on: nothing is chosen by it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from driftrec import Restorer
from driftrec.image import decode
from driftrec.jpeg.codec import encode_jpeg
from driftrec.metrics import WEIGHTED_PAIR_METRICS, pair_scores
from driftrec.metrics.features import load_features
from driftrec.metrics.kid import kid
from driftrec.restoration.opening import open_picture
from driftrec.restoration.options import Sampling
from pipeline.evaluate.published import LIVE1 as PUBLISHED

Pixels = NDArray[np.uint8]  # (H, W, 3)

METRICS = {"psnr": "{:.2f}", "ssim_gaussian": "{:.3f}", "psnrb": "{:.2f}"}  # and how they are shown
SUFFIXES = (".bmp", ".png", ".tif", ".tiff")
LIVE1 = frozenset(
    "bikes building2 buildings caps carnivaldolls cemetry churchandcapitol coinsinfountain dancers flowersonih35 house "
    "lighthouse2 lighthouse3 manfishing monarch ocean paintedhouse parrots plane rapids sailing1 sailing2 sailing3 "
    "sailing4 statue stream studentsculpture woman womanhat".split()
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="clean images, of any size")
    parser.add_argument("--quality", default="10,20,40", help="comma-separated JPEG qualities")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--sample", action="store_true", help="also what the model's file recommends")
    parser.add_argument("--standins", type=Path, default=None, help="folder of the stand-ins' weights")
    parser.add_argument("--limit", type=int, default=None, help="only the first so many images")
    args = parser.parse_args()
    torch.set_num_threads(1)
    images = read(args.folder, args.limit)
    restorer, standins = Restorer.from_pretrained(args.model), Standins(args.standins) if args.standins else None
    arms = {"JPEG": as_decoded, f"{args.model}, mean": by(restorer, Sampling(fidelity=1.0))}
    if args.sample:
        arms |= {f"{args.model}, as recommended": by(restorer, Sampling())}
    print(f"{len(images)} images, model {args.model} ({restorer.fingerprint[:12]})")
    for quality in map(int, args.quality.split(",")):
        print(f"\n| quality {quality}, 4:2:0 | PSNR | SSIM | PSNR-B | s/megapixel |{Standins.HEAD if standins else ''}")
        print("|---" * (7 if standins else 5) + "|", flush=True)
        for name, restore in arms.items():
            print(row(name, images, quality, restore, standins), flush=True)
        if set(images) == LIVE1:
            print("\n".join(published(quality, 2 if standins else 0)))


def read(folder: Path, limit: int | None = None) -> dict[str, Pixels]:
    """The clean images of a folder by name, without suffix. Exits where there is none."""
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)[:limit]
    if not paths:
        sys.exit(f"{folder}: no clean images ({', '.join(SUFFIXES)}); name a folder that holds some")
    return {path.stem: np.asarray(Image.open(path).convert("RGB")) for path in paths}


def as_decoded(data: bytes, name: str) -> Pixels:  # noqa: ARG001  one signature
    """What a viewer shows."""
    return decode(data).rgb8


def by(restorer: Restorer, sampling: Sampling) -> Callable[[bytes, str], Pixels]:
    """A JPEG file, and the image's name, which its noise belongs to -> restored pixels."""
    return lambda data, name: restorer.restore([open_picture(data)], [name], 0, sampling)[0].picture.rgb8


def row(
    name: str,
    images: dict[str, Pixels],
    quality: int,
    restore: Callable[[bytes, str], Pixels],
    standins: Standins | None,
) -> str:
    """A line of the table: means over the images."""
    scores: list[list[float]] = []
    restored: list[Pixels] = []
    seconds = 0.0
    for key, clean in images.items():
        data = encode_jpeg(clean, quality, "4:2:0")
        begun = time.process_time()
        restored.append(restore(data, key))
        seconds += time.process_time() - begun
        found = pair_scores(tensor(clean), tensor(restored[-1]), tuple(METRICS))
        scores.append([found[metric].item() for metric in METRICS])
    psnr, ssim, psnrb = np.mean(scores, axis=0)
    megapixels = sum(image.shape[0] * image.shape[1] for image in images.values()) / 1e6
    line = f"| {name} | {psnr:.2f} | {ssim:.3f} | {psnrb:.2f} | {seconds / megapixels:.2f} |"
    return line + (standins.cells(list(images.values()), restored) if standins else "")


def published(quality: int, empty: int) -> list[str]:
    """The rows of others at this quality."""
    lines: list[str] = []
    for row in PUBLISHED:
        if scores := row.scores.get(f"q{quality}-420"):
            cells = (form.format(scores[metric]) if metric in scores else "" for metric, form in METRICS.items())
            lines.append(f"| {row.name}, published | {' | '.join(cells)} | |" + " |" * empty)
    return lines


class Standins:
    """lpips-like and kid*, from weights that stand in for others (`python -m recipes.standins`)."""

    HEAD = " lpips-like | kid* |"

    def __init__(self, folder: Path) -> None:
        self.lpips = WEIGHTED_PAIR_METRICS["lpips_squeezenet"](folder / "squeezenet1_1.safetensors")
        self.features = load_features("mobilenet", folder / "mobilenet_v2.safetensors")

    @torch.inference_mode()
    def cells(self, clean: list[Pixels], restored: list[Pixels]) -> str:
        """Two cells of a row."""
        distances = [self.lpips(as_float(x), as_float(y)).item() for x, y in zip(clean, restored, strict=True)]
        theirs, ours = (torch.cat([self.features(as_float(image)) for image in images]) for images in (clean, restored))
        distance = kid(theirs, ours, subsets=1, subset_size=len(clean)) if len(clean) > 1 else float("nan")
        return f" {np.mean(distances):.3f} | {float(distance):.4f} |"


def tensor(pixels: Pixels) -> torch.Tensor:
    """(H, W, 3) -> (1, 3, H, W) uint8."""
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]


def as_float(pixels: Pixels) -> torch.Tensor:
    """(H, W, 3) -> (1, 3, H, W) in [0, 1]."""
    return tensor(pixels).float() / 255


if __name__ == "__main__":
    main()
