"""How good is a restored image, beside its JPEG and beside what other tools make of it? Means over photographs.

python -m benchmarks.quality data/photos/devtest data/standins [--quality 5,10,20,30,40] [--subsampling 4:2:0,4:4:4]
                             [--model tiny] [--steps 8] [--start 0.1,0.2] [--coarse-fidelity 1] [--limit N]
                             [--no-rivals] [--no-average]

Prints a table a condition: the JPEG itself; ffmpeg's spp at the quantiser whose PSNR is best for that condition, and
jpegqs (`apt-get install ffmpeg jpegqs`); the model's mean, a sample, the average of four samples, and what the model's
file recommends; with --start that sample starts at each of these times. The model has never seen the images of devtest.
The inputs are JPEG files, so that the projection works as in `driftrec restore`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.other_tools import jpegqs, spp
from benchmarks.scores import Scores, Set, cells, clean_images, header
from driftrec import Restorer
from driftrec.image import decode
from driftrec.jpeg.codec import encode_jpeg
from driftrec.restoration.opening import open_picture
from driftrec.restoration.options import Sampling

AVERAGE = "average of 4 samples"
QUANTISERS = (2, 4, 6, 8, 10, 12, 16, 20, 24, 28, 32)  # of spp


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="clean PNG images of one size, or tars of tiles")
    parser.add_argument("standins", type=Path, help="folder of the stand-ins' weights")
    parser.add_argument("--quality", default="5,10,20,30,40", help="comma-separated JPEG qualities")
    parser.add_argument("--subsampling", default="4:2:0,4:4:4")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--start", default="", help="comma-separated times: a sample from each")
    parser.add_argument("--coarse-fidelity", type=float, help="of all samples; none given: as the model recommends")
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--no-rivals", action="store_true")
    parser.add_argument("--no-average", action="store_true", help="leave out the average of four samples, the slowest")
    args = parser.parse_args()
    names, clean = clean_images(args.folder, args.limit)
    score, restorer = Scores(clean, args.standins), Restorer.from_pretrained(args.model)
    print(f"{len(names)} images, model {args.model} ({restorer.fingerprint[:12]})")
    for subsampling in args.subsampling.split(","):
        for quality in map(int, args.quality.split(",")):
            jpegs = [encode_jpeg(image, quality, subsampling) for image in clean]
            print(f"\nquality {quality}, {subsampling}\n\n" + header("", "s/image"), flush=True)
            sampling = Sampling(steps=args.steps, coarse_fidelity=args.coarse_fidelity)
            arms = candidates(restorer, names, sampling, [float(start) for start in args.start.split(",") if start])
            if args.no_average:
                del arms[AVERAGE]
            if not args.no_rivals:
                arms |= {"jpegqs -q 6": jpegqs} | best_spp(jpegs, clean)
            for name, restore in ({"JPEG": decoded} | arms).items():
                begun = time.perf_counter()
                restored = restore(jpegs)
                seconds = (time.perf_counter() - begun) / len(names)
                print(f"| {name} | {seconds:.3f} | {cells(score(restored))} |", flush=True)


def decoded(jpegs: list[bytes]) -> Set:
    return np.stack([decode(data).rgb for data in jpegs])


def candidates(
    restorer: Restorer, names: list[str], sampling: Sampling, starts: Sequence[float]
) -> dict[str, Callable[[list[bytes]], Set]]:
    """What the model can be asked for: JPEG files -> restored pixels."""

    def by(sampling: Sampling) -> Callable[[list[bytes]], Set]:
        def restore(jpegs: list[bytes]) -> Set:
            pictures = [open_picture(data) for data in jpegs]
            return np.stack([done.picture.rgb for done in restorer.restore(pictures, names, 0, sampling)])

        return restore

    sample, steps = replace(sampling, fidelity=0.0), sampling.steps
    started = {f"from t = {start}, {steps} steps": by(replace(sample, start=start)) for start in starts}
    return {
        "mean": by(Sampling(fidelity=1.0)),
        **(started or {f"sample, {steps} steps": by(sample)}),
        AVERAGE: by(replace(sample, samples=4)),
        "as recommended": by(replace(sampling, steps=None)),
    }


def best_spp(jpegs: list[bytes], clean: Set) -> dict[str, Callable[[list[bytes]], Set]]:
    """spp at the quantiser that gives the best mean PSNR."""

    def psnr(qp: int) -> float:
        pairs = zip(clean, spp(jpegs, qp), strict=True)
        return float(np.mean([10 * np.log10(255**2 / np.mean((x - y.astype(float)) ** 2)) for x, y in pairs]))

    qp = max(QUANTISERS, key=psnr)
    return {f"spp=6:{qp}": lambda jpegs: spp(jpegs, qp)}


if __name__ == "__main__":
    main()
