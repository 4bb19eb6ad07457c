"""The evaluation of docs/results/comparison.md: JPEG, the embedded model and what one could install instead.

python -m benchmarks.report data/photos/devtest data/standins out/evaluation [--limit N] [--quality ...] [--no-average]

`driftrec degrade` writes the damaged images, ffmpeg's spp (at the quantiser with the best PSNR for each condition) and
jpegqs restore them (`apt-get install ffmpeg jpegqs`), `driftrec evaluate` does the rest and leaves
OUTPUT/report/report.html, and prints a table a condition: means over the images, BEF in squared levels of 255. The same
command again goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.other_tools import Set, jpegqs, spp

Pixels = NDArray[np.uint8]

COLUMNS = {  # metric: heading, factor, digits
    "psnr": ("PSNR", 1, 2),
    "ssim7": ("SSIM", 1, 4),
    "psnrb": ("PSNR-B", 1, 2),
    "bef": ("BEF", 255**2, 1),
    "lpips_squeezenet": ("lpips-like", 1, 3),
    "kid_mobilenet": ("kid*", 1, 4),
}
QUALITY = "5,10,20,30,40,30/10,10/30,30/30,50/30,30/50"
QUANTISERS = (2, 4, 6, 8, 10, 12, 16, 20, 24, 28, 32, 40, 48)  # of spp
AVERAGE = "average of 4"
MODELS = {"mean": "tiny?fidelity=1", "sample": "tiny", AVERAGE: "tiny?samples=4"}  # sample: as recommended
METRICS = "psnr,ssim,psnrb,bef,lpips_squeezenet,kid_mobilenet"
WEIGHTS = {"lpips_squeezenet": "squeezenet1_1.safetensors", "mobilenet": "mobilenet_v2.safetensors"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clean", type=Path, help="folder of clean PNG images")
    parser.add_argument("standins", type=Path, help="folder of the stand-ins' weights")
    parser.add_argument("output", type=Path)
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--quality", default=QUALITY)
    parser.add_argument("--subsampling", default="4:2:0,4:4:4")
    parser.add_argument("--no-average", action="store_true", help="leave out the average of four samples, the slowest")
    args = parser.parse_args()
    damage = ["--quality", args.quality, "--subsampling", args.subsampling]
    if args.limit:
        damage += ["--limit", str(args.limit)]
    job("degrade", args.clean, args.output / "jpegs", *damage)
    images = args.output / "jpegs/images"
    for condition in sorted(path for path in images.iterdir() if path.is_dir()):
        restore_by_rivals(condition, args.clean, args.output)
    asked = {name: spec for name, spec in MODELS.items() if name != AVERAGE or not args.no_average}
    models = [word for name, spec in asked.items() for word in ("--model", f"{name}={spec}")]
    rivals = [word for name in ("spp", "jpegqs") for word in ("--candidate", f"{name}={args.output / name}")]
    weights = [word for name, file in WEIGHTS.items() for word in ("--weights", f"{name}={args.standins / file}")]
    kid = ["--set", "kid_subsets=1", "--set", f"kid_subset_size={args.limit or len(list(args.clean.glob('*.png')))}"]
    shares = ["--metrics", METRICS, *weights, *kid]
    job("evaluate", args.clean, args.output / "report", *damage, *models, *rivals, *shares)
    tell(args.output / "report/summary.json")


def job(name: str, *arguments: object) -> None:
    """Run `driftrec NAME`; end as it ends if it fails."""
    command = [sys.executable, "-m", f"jobs.{name}", *map(str, arguments)]
    code = subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode
    if code:
        sys.exit(code)


def tell(summary: Path) -> None:
    """Print a table a condition."""
    for condition in json.loads(summary.read_text())["conditions"]:
        print(f"\n| {condition['label']} | {' | '.join(heading for heading, _, _ in COLUMNS.values())} | evaluations |")
        print("|---" * (len(COLUMNS) + 2) + "|")
        for candidate in condition["candidates"]:
            found = [(candidate["metrics"][name], *rest) for name, (_, *rest) in COLUMNS.items()]
            cells = [f"{one.get('mean', one.get('value')) * factor:.{digits}f}" for one, factor, digits in found]
            nfe = candidate["nfe_mean"]
            print(f"| {candidate['candidate']} | {' | '.join(cells)} | {'' if nfe is None else f'{nfe:.0f}'} |")


def restore_by_rivals(condition: Path, clean: Path, output: Path) -> None:
    """Write OUTPUT/<rival>/<condition>/*.png, unless they are there."""
    files = sorted(condition.glob("*.jpg"))
    by_size: dict[tuple[int, int], list[Path]] = {}  # a second compression crops; ffmpeg wants one size
    for file in files:
        by_size.setdefault(Image.open(file).size, []).append(file)
    groups = list(by_size.values())
    for name in ("spp", "jpegqs"):
        folder = output / name / condition.name
        if len(list(folder.glob("*.png"))) == len(files):
            continue
        restored = best_spp(groups, clean) if name == "spp" else [jpegqs(read(group)) for group in groups]
        folder.mkdir(parents=True, exist_ok=True)
        for group, images in zip(groups, restored, strict=True):
            for file, image in zip(group, images, strict=True):
                Image.fromarray(image).save(folder / f"{file.stem}.png")


def best_spp(groups: Sequence[Sequence[Path]], clean: Path) -> list[Set]:
    """By the quantiser that gives the best mean PSNR."""
    best, found = 0.0, list[Set]()
    for qp in QUANTISERS:
        restored = [spp(read(group), qp) for group in groups]
        files, images = [file for group in groups for file in group], [image for same in restored for image in same]
        pairs = zip(files, images, strict=True)
        mean = float(np.mean([psnr(reference(file, clean, image), image) for file, image in pairs]))
        if mean > best:
            best, found = mean, restored
    return found


def read(files: Sequence[Path]) -> list[bytes]:
    return [file.read_bytes() for file in files]


def reference(file: Path, clean: Path, like: Pixels) -> Pixels:
    """The clean image, cropped at the top and the left as its damaged one was."""
    pixels = np.asarray(Image.open(clean / f"{file.stem}.png").convert("RGB"))
    top, left = pixels.shape[0] - like.shape[0], pixels.shape[1] - like.shape[1]
    return pixels[top:, left:]


def psnr(x: Pixels, y: Pixels) -> float:
    """dB."""
    return float(10 * np.log10(255**2 / np.mean((x - y.astype(float)) ** 2)))


if __name__ == "__main__":
    main()
