"""What the benchmarks on photographs share: the images and their JPEGs, and the scores of a restored set.

lpips-like and kid* come from stand-in weights (`python -m recipes.standins`): good for comparing rows of one table, not
comparable with anything called LPIPS or KID.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from driftrec.metrics import PAIR_METRICS, WEIGHTED_PAIR_METRICS
from driftrec.metrics.features import load_features
from driftrec.metrics.kid import kid
from recipes.embedded.data import Pixels, read_tiles

Set = NDArray[np.uint8]  # (N, H, W, 3)

SIDE = 256  # pixels: of a window of a tile
COLUMNS = ("PSNR", "SSIM", "PSNR-B", "BEF", "lpips-like", "kid*", "flat")
FORMATS = ("{:.2f}", "{:.4f}", "{:.2f}", "{:.1f}", "{:.4f}", "{:.5f}", "{:.2f}")
HIGHER_IS_BETTER = (True, True, True, False, False, False, False)
WINDOW, FLAT = 16, 3.0  # pixels; a window of the clean image is flat below this standard deviation, in levels of 255


def clean_images(folder: Path, limit: int | None) -> tuple[list[str], Set]:
    """Names and pixels of the PNG images of one size in a folder, or of the windows that the tiles in its tars hold."""
    found = [(file.name, np.asarray(Image.open(file).convert("RGB"))) for file in sorted(folder.glob("*.png"))[:limit]]
    found = found or list(islice(windows(folder), limit))
    if not found:
        sys.exit(f"{folder}: no PNG images; make them with: python -m recipes.photos")
    names, images = zip(*found, strict=True)
    return list(names), np.stack(images)


def windows(folder: Path) -> Iterator[tuple[str, Pixels]]:
    """Whole windows of SIDE x SIDE, side by side, of the tiles that `recipes.photos` leaves."""
    for name, tile in read_tiles(folder):
        rows, columns = (range(0, side - SIDE + 1, SIDE) for side in tile.shape[:2])
        for top, left in product(rows, columns):
            yield f"{name}-{top}-{left}", tile[top : top + SIDE, left : left + SIDE]


class Scores:
    """COLUMNS of a restored set against the clean one; BEF in squared levels of 255.

    flat: the median standard deviation in windows where the clean image is flat, as a multiple of the clean one's.
    """

    def __init__(self, clean: Set, standins: Path) -> None:
        self.clean = clean
        self.lpips = WEIGHTED_PAIR_METRICS["lpips_squeezenet"](standins / "squeezenet1_1.safetensors")
        self.features = load_features("mobilenet", standins / "mobilenet_v2.safetensors")
        self.clean_features = self._features(clean)
        spread = deviations(clean)
        self.flat = spread < FLAT
        self.clean_spread = float(np.median(spread[self.flat]))

    @torch.inference_mode()
    def __call__(self, images: Set) -> list[float]:
        metrics = [PAIR_METRICS["psnr"], PAIR_METRICS["ssim"], PAIR_METRICS["psnrb"], PAIR_METRICS["bef"], self.lpips]
        pairs = [(batch(x), batch(y)) for x, y in zip(self.clean, images, strict=True)]
        means = [float(np.mean([metric(x, y).item() for x, y in pairs])) for metric in metrics]
        means[3] *= 255**2
        distance = kid(self.clean_features, self._features(images), subsets=1, subset_size=len(images))
        return [*means, float(distance), float(np.median(deviations(images)[self.flat])) / self.clean_spread]

    @torch.inference_mode()
    def _features(self, images: Set) -> Tensor:
        return torch.cat([self.features(batch(image)) for image in images])


def deviations(images: Set) -> NDArray[np.float64]:
    """Standard deviation in every window, root mean square over the channels: (N, H / WINDOW, W / WINDOW)."""
    count, height, width, _ = images.shape
    windows = images.reshape(count, height // WINDOW, WINDOW, width // WINDOW, WINDOW, 3).astype(np.float64)
    return np.sqrt(windows.var(axis=(2, 4)).mean(axis=-1))


def batch(pixels: NDArray[np.uint8]) -> Tensor:
    """(H, W, 3) -> (1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255


def header(*first: str) -> str:
    """The head of a Markdown table of scores."""
    return "| " + " | ".join([*first, *COLUMNS]) + " |\n" + "|---" * (len(first) + len(COLUMNS)) + "|"


def cells(scores: list[float]) -> str:
    """Scores as cells of a Markdown row."""
    return " | ".join(form.format(score) for form, score in zip(FORMATS, scores, strict=True))
