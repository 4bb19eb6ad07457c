"""Whether what a network made of a picture can be a restoration of it. Needs no theory of the network and no clean
image: a JPEG states every coefficient to half a step of its table, and that much a restoration may change. Another
picture, a flat one, a shifted one, or noise goes beyond that by as much as the picture's own detail.

What is judged is the network's proposal, before a share of it is taken and before it is held to what the file says:
both would hide a broken model at high qualities.

The measure, by plane: the root mean square of what no half step explains, over that of the picture's detail (what
deviates from the mean of its window of 16x16 samples). At quality 5 to 100 the embedded model, means and samples of 38
pictures (photographs, text, line art, noise, flat ones), reaches 0.04 in luma and 0.08 in chroma; the clean images of
100 photographs and 17 of scikit-image 0.05 at quality 1 to 100. Files that were saved at 95 after quality 5 or 2 and
show nothing of it reach 0.25 and 0.40. Flat, grey, inverted, foreign and by 8 pixels shifted pictures in place of the
100 photographs start at 0.50, all but the shifted at 0.58.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn

from driftrec.image.picture import Pixels
from driftrec.jpeg.codec import TO_YCC
from driftrec.jpeg.headers import standard_tables

Array = NDArray[np.float64]

LIMITS = np.array([0.42, 0.6, 0.6])  # of the measure of luma, Cb, Cr: 4:2:0 may lose much of thin colours
# Of the same: beyond it a picture is left as it is, for the model does not know its kind. Photographs stay below 0.04
# and 0.08; drawings on a raster (pixel art, codes of squares), of which it makes smears, reach 0.05 to 0.9 in luma.
STRANGE = np.array([0.06, 0.12, 0.12])
LEAST = 0.03  # what counts as detail even in a flat picture, pixels in [0, 1]: no model leaves one exactly as it is
UNKNOWN, BEST = 5, 10  # qualities: of a file that tells none; whose steps are the smallest, for older damage may hide
BLOCK, WINDOW = 8, 16  # pixels of a plane; ROWS is a multiple of twice the second, for chroma has half the resolution
PLANES = ("luma", "Cb", "Cr")


@dataclass
class Change:
    """How far a proposal is from its picture, gathered by bands of rows: no second copy of a large one is made.

    quality: the lowest that the picture has gone through as a JPEG, 1 to 100; None where that is not known.
    """

    quality: int | None = None
    finite: bool = True  # whether all that the network said were numbers
    unexplained: Array = field(default_factory=lambda: np.zeros(3))  # by plane: sums of squares, samples in [0, 1]
    detail: Array = field(default_factory=lambda: np.zeros(3))  # likewise
    count: Array = field(default_factory=lambda: np.zeros(3))  # of samples

    def add(self, before: Pixels, after: NDArray[np.floating[Any]]) -> None:
        """The next rows, ROWS or the last: (h, W, 3) as stored, and as proposed, in [0, 1]."""
        self.finite = self.finite and bool(np.isfinite(after).all())
        if not self.finite:
            return
        tables = standard_tables(min(self.quality or UNKNOWN, BEST))
        old, new = _planes(before.astype(np.float32) / np.iinfo(before.dtype).max), _planes(after)
        for i, (was, now) in enumerate(zip(old, new, strict=True)):
            moved = np.abs(np.asarray(dctn(_tiles(now - was, BLOCK), axes=(2, 3), norm="ortho"), np.float32))
            half_steps = np.array(tables[min(i, 1)], np.float32).reshape(BLOCK, BLOCK) / np.float32(510)
            windows = _tiles(was, WINDOW)
            self.unexplained[i] += _energy(np.maximum(moved - half_steps, 0))
            self.detail[i] += _energy(windows - windows.mean(axis=(2, 3), keepdims=True))
            self.count[i] += windows.size

    @property
    def measures(self) -> Array:
        """What is not explained over the detail, by plane."""
        beyond, detail = (np.sqrt(sums / np.maximum(1, self.count)) for sums in (self.unexplained, self.detail))
        return beyond / np.maximum(LEAST, detail)

    @property
    def strange(self) -> bool:
        """Whether it goes further than a model goes with pictures of the kinds that it knows."""
        return bool((self.measures > STRANGE).any())

    @property
    def fault(self) -> str | None:
        """Why this is no restoration, with the numbers; None if it may be one."""
        if not self.finite:
            return "the model's output holds values that are no numbers (nan or inf)"
        worst = int((self.measures / LIMITS).argmax())
        if self.measures[worst] <= LIMITS[worst]:
            return None
        of = f"a JPEG of quality {self.quality}" if self.quality else "a damaged picture"
        what = f"by {self.measures[worst]:.2f} of its detail more than {of} explains"
        return f"the model changes the {PLANES[worst]} {what}; a restoration, by at most {LIMITS[worst]}"


def _planes(rgb: NDArray[np.floating[Any]]) -> list[NDArray[np.float32]]:
    """Luma (h, w), and Cb and Cr at half the resolution, filled up from the edge to whole windows."""
    rest = [(0, -side % (2 * WINDOW)) for side in rgb.shape[:2]]
    filled = np.pad(rgb.astype(np.float32, copy=False), [*rest, (0, 0)], mode="edge")
    half = (filled[::2, ::2] + filled[1::2, ::2] + filled[::2, 1::2] + filled[1::2, 1::2]) / 4
    return [filled @ TO_YCC[0], half @ TO_YCC[1], half @ TO_YCC[2]]


def _tiles(plane: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """(H, W) -> (rows, columns, side, side)."""
    return plane.reshape(len(plane) // side, side, -1, side).swapaxes(1, 2)


def _energy(values: NDArray[np.floating[Any]]) -> float:
    """The sum of their squares."""
    return float(np.square(values).sum(dtype=np.float64))
