"""What do tiles change? Restored in tiles against restored whole, on photographs of quality 10 (4:2:0).

python -m benchmarks.tiles data/photos/devtest [--side 768] [--limit 10] [--tiles 128,256,512] [--fidelity 1]
                           [--model tiny]

Each photograph is mirrored at its edges to --side pixels. The table gives the largest and the mean difference from the
image restored whole, in levels of 255; and the step across the tile grid: the mean squared difference of the two pixels
on either side of a line where a tile begins or ends to count, over that of the lines 8 and 16 pixels beside it (which
lie alike on the JPEG's grid), in the tiled and in the whole image. A seam would show as a step that only the tiled
image has.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from driftrec import Restorer
from driftrec.image import Picture
from driftrec.jpeg.codec import encode_jpeg
from driftrec.restoration.opening import open_picture
from driftrec.restoration.options import Sampling
from driftrec.restoration.tiling import spans

QUALITY = 10
BESIDE = (-16, -8, 8, 16)  # pixels from a line to those that it is compared with


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="PNG images")
    parser.add_argument("--side", type=int, default=768)
    parser.add_argument("--limit", type=int, default=10)
    parser.add_argument("--tiles", default="128,256,512")
    parser.add_argument("--fidelity", type=float, default=None, help="default: what the model's file recommends")
    parser.add_argument("--model", default="tiny")
    args = parser.parse_args()
    restorer = Restorer.from_pretrained(args.model, "cpu")
    sampling = Sampling(fidelity=args.fidelity, tile=None).resolve(restorer.recommended)
    paths = sorted(args.folder.glob("*.png"))[: args.limit]
    pictures = [opened(mirrored(np.asarray(Image.open(path).convert("RGB")), args.side)) for path in paths]

    def restored(tile: int | None) -> list[np.ndarray]:
        settings = replace(sampling, tile=tile)
        pairs = zip(pictures, paths, strict=True)
        done = [restorer.restore([picture], [path.name], 0, settings)[0] for picture, path in pairs]
        return [one.picture.rgb.astype(np.float32) for one in done]

    whole = restored(None)
    print(f"{len(paths)} images, side {args.side}, fidelity {sampling.fidelity}, model {restorer.fingerprint[:12]}\n")
    print("| tile | largest difference | mean difference | step, tiled | step, whole |\n|---|---|---|---|---|")
    for side in map(int, args.tiles.split(",")):
        tiled = restored(side)
        differences = [np.abs(one - other) for one, other in zip(tiled, whole, strict=True)]
        largest, mean = max(each.max() for each in differences), np.mean([each.mean() for each in differences])
        seams = [np.mean([step(image, side) for image in images]) for images in (tiled, whole)]
        print(f"| {side} | {largest:.0f} | {mean:.3f} | {seams[0]:.3f} | {seams[1]:.3f} |", flush=True)


def mirrored(image: np.ndarray, side: int) -> np.ndarray:
    """(side, side, 3), the image in its middle."""
    rest = [side - length for length in image.shape[:2]]
    return np.pad(image, [(r // 2, r - r // 2) for r in rest] + [(0, 0)], mode="symmetric")


def opened(image: np.ndarray) -> Picture:
    data = encode_jpeg(image, QUALITY, "4:2:0")
    return open_picture(data)


def step(image: np.ndarray, side: int) -> float:
    """Mean squared difference across the lines of the tile grid, over that across the lines beside them."""
    ratios: list[float] = []
    for pixels in (image, image.swapaxes(0, 1)):
        squares = (np.diff(pixels, axis=0) ** 2).mean(axis=(1, 2))  # of rows i and i + 1
        on = lines(len(pixels), side)
        beside = sorted({line + off for line in on for off in BESIDE} - on)
        ratios.append(float(squares[sorted(on)].mean() / squares[beside].mean()))
    return float(np.mean(ratios))


def lines(length: int, side: int) -> set[int]:
    """The rows after which a tile's weight begins, stops to change, or ends."""
    found: set[int] = set()
    for span in spans(length, side):
        change = np.flatnonzero(np.diff(span.weights, prepend=0 if span.start else 1))
        groups = np.split(change, np.flatnonzero(np.diff(change) > 1) + 1) if len(change) else []
        found |= {span.start + int(edge) - 1 for group in groups for edge in (group[0], group[-1])}
    return {line for line in found if 16 <= line < length - 17}


if __name__ == "__main__":
    main()
