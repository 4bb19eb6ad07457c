"""What a finished model recommends: the sample that looks most like a photograph among those near the mean.

Told by photographs held out, quality 10, 4:2:0: of the samples of two or three evaluations whose PSNR is at most 0.4 dB
below the mean's, the one whose flat places deviate most nearly as the clean ones do. No weights of other networks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from driftrec import Restorer
from driftrec.jpeg.codec import encode_jpeg
from driftrec.metrics import pair_scores
from driftrec.restoration.opening import open_picture
from driftrec.restoration.options import Sampling
from recipes.embedded.data import Pixels
from recipes.embedded.plan import RECOMMENDED

MEAN = Sampling(fidelity=1.0)
STARTS, STEPS = (0.1, 0.15, 0.2, 0.25, 0.3), (1, 2)  # the mean itself is one evaluation more
QUALITY, BELOW = 10, 0.4  # dB that a sample may cost
WINDOW, FLAT = 16, 3.0  # pixels; levels of 255: a window of the clean image that deviates less is flat


def recommend(
    model: Path, device: str, tiles: Mapping[str, Pixels]
) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """(settings, or None where no sample will do, all that was tried with its scores)."""
    restorer = Restorer.from_pretrained(str(model), device)
    tried = [{"fidelity": 1.0} | scores(restorer, MEAN, tiles)]
    for start, steps in product(STARTS, STEPS):
        varied = {"start": start, "steps": steps}
        tried.append(varied | scores(restorer, Sampling(**RECOMMENDED | varied), tiles))
    near = [row for row in tried[1:] if row["psnr"] >= tried[0]["psnr"] - BELOW and row["flat"] > 0]
    if not near:
        return None, tried
    best = min(near, key=lambda row: abs(math.log(row["flat"])))
    return RECOMMENDED | {name: best[name] for name in ("start", "steps")}, tried


def scores(restorer: Restorer, sampling: Sampling, tiles: Mapping[str, Pixels]) -> dict[str, float]:
    """psnr in dB; flat: the median deviation of flat windows, as a multiple of the clean ones' (0 where none is)."""
    found, ours, theirs = list[float](), list[float](), list[float]()
    for name, clean in tiles.items():
        picture = open_picture(encode_jpeg(clean, QUALITY, "4:2:0"))
        restored = restorer.restore([picture], [name], 0, sampling)[0].picture.rgb8
        both = (torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] for pixels in (clean, restored))
        found.append(pair_scores(*both, ["psnr"])["psnr"].item())
        spread, flat = deviations(restored), deviations(clean) < FLAT
        ours += spread[flat].tolist()
        theirs += deviations(clean)[flat].tolist()
    ratio = float(np.median(ours) / np.median(theirs)) if theirs and np.median(theirs) > 0 else 0.0
    return {"psnr": round(float(np.mean(found)), 3), "flat": round(ratio, 3)}


def deviations(pixels: Pixels) -> np.ndarray:
    """Standard deviation of every whole window, root mean square over the channels: (H / WINDOW, W / WINDOW)."""
    rows, columns = pixels.shape[0] // WINDOW, pixels.shape[1] // WINDOW
    whole = pixels[: rows * WINDOW, : columns * WINDOW].astype(np.float64)
    windows = whole.reshape(rows, WINDOW, columns, WINDOW, 3)
    return np.sqrt(windows.var(axis=(1, 3)).mean(axis=-1))
