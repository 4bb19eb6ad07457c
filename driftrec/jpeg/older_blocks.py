"""Whether the blocks of an earlier compression show in decoded pixels: edges on a grid, too often for chance."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftrec.jpeg.codec import TO_YCC, middle

Array = NDArray[np.float32]

# Limits of `suspected`; what they let through and what not is in its docstring.
WINDOW, LEAST = 1024, 64  # pixels: side of the window that is looked at, and what a grid needs to show
LEAST_QUALITY = 50
PHASE_LIMIT = 9.0  # standard deviations
PERIOD_LIMIT = 8.0  # times the mean power of a frequency
OWN_LIMIT = 0.2  # share of rows, at quality 90 and more


def suspected(stored: NDArray[Any], quality: int) -> bool:
    """Whether blocks show that the file's own quality does not explain. A drawing on a raster shows them too: what is
    suspected is for `double_compression` to confirm.

    Looks at where the jump between two columns (rows) is larger than both beside it: too often on the file's own grid,
    on one of its phases, or at a period that is none of the grid's. Below quality 50 the intervals are so wide that
    nothing is lost, and nothing is suspected.

    Of 100 photographs of 256x256 pixels, compressed once at 95, 90, 75 or 50, it suspects 9, 0, 5 and 7. Compressed at
    10 before 90: 96 in place, 99 shifted, 100 enlarged by half, 38 reduced to 3/4; at 30 before 90: 85 in place, 91
    shifted.

    Args:
        stored: luma (H, W) or RGB (H, W, 3), as stored. Below 64 pixels a side nothing is suspected.
        quality: of the file.
    """
    if quality < LEAST_QUALITY or min(stored.shape[:2]) < LEAST:
        return False
    luma = middle_luma(stored)
    own, phase, period = np.mean([_grid(luma), _grid(luma.T)], axis=0)
    own -= 0.008 * max(0, 90 - quality)
    return bool(own > OWN_LIMIT or phase > PHASE_LIMIT or period > PERIOD_LIMIT)


def middle_luma(stored: NDArray[Any]) -> Array:
    """Luma of what `suspected` looks at: at most 1024 pixels a side, beginning at a corner of the grid."""
    window = stored[middle(stored.shape, WINDOW)].astype(np.float32)
    return window if window.ndim == 2 else window @ TO_YCC[0]


def _grid(plane: Array) -> tuple[float, float, float]:
    """How much vertical edges stand on the 8-pixel grid (share of rows), on one of its other phases (standard
    deviations), and at any other period of 4 to 20 pixels (times the mean power).
    """
    jumps = np.abs(np.diff(plane, axis=1))
    edges = (jumps[:, 1:-1] > np.maximum(jumps[:, :-2], jumps[:, 2:])).mean(axis=0)
    edges -= edges.mean()
    count, phase = len(edges), np.arange(2, len(edges) + 2) % 8  # the first jump with two beside it is left of column 2
    of_phase = np.array([edges[phase == k].mean() for k in range(8)])
    rest = edges - of_phase[phase]
    spread = max(float(rest.std()), 1e-6)
    other = (of_phase[1:].max() - np.median(of_phase)) / spread * (count / 8) ** 0.5
    frequency = np.fft.rfftfreq(4 * count)
    power = np.abs(np.fft.rfft(rest, 4 * count)) ** 2 / (count * spread**2)
    return float(of_phase[0]), float(other), float(power[(frequency > 1 / 20) & (frequency < 1 / 4)].max())
