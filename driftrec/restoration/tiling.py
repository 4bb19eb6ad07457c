"""Large images in tiles, without seams and in bounded memory. Knows pixels and positions, no model.

Every tile is restored alone, from its own first noise to its own last step. Noise belongs to a pixel's position, so
where two tiles overlap both draw the same sample, but for what the network sees beyond their edges; near its edges a
tile is therefore not used at all, and further in two tiles fade into each other. Corners of tiles lie on multiples of
16, the largest block of a JPEG's grid, counted from the image's corner: each tile sees the grid that the network was
trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

GRID = 16  # pixels; of 4:2:0 a block of chroma
OVERLAP = 96  # pixels that neighbours share; of these a third at either tile's own edge is not used, the rest fades
SMALLEST = 128  # side of a tile, pixels
SCALE = {8: 2**13, 16: 2**24}  # of the canvas, by a picture's depth: -4 to 4 fit in 16 bits, to a 32nd of a level of 8

Pixels = NDArray[np.float32]


@dataclass(frozen=True)
class Span:
    """A tile's rows, or its columns: [start, stop) of the image, and how much of each one counts."""

    start: int
    stop: int
    weights: tuple[float, ...]  # in [0, 1]; over all spans of a side they sum to 1 at every place


@dataclass(frozen=True)
class Tile:
    """A part of an image that is restored alone."""

    rows: Span
    columns: Span

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, pixels."""
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start

    @property
    def place(self) -> tuple[slice, slice]:
        """Where it lies."""
        return slice(self.rows.start, self.rows.stop), slice(self.columns.start, self.columns.stop)


def tiles(height: int, width: int, side: int | None) -> list[Tile]:
    """The tiles of an image, row by row: none with a side above `side` pixels; None: one tile, the whole."""
    return [Tile(rows, columns) for rows in spans(height, side) for columns in spans(width, side)]


def spans(length: int, side: int | None) -> list[Span]:
    """Cut a length into spans of at most `side`, as equal as the grid permits. Raises ValueError below SMALLEST."""
    if side is None or length <= side:
        return [Span(0, length, (1.0,) * length)]
    check_side(side)
    side -= side % GRID
    shared = overlap(side)
    count = -(-(length - shared) // (side - shared))
    step = -(-(length - shared) // (count * GRID)) * GRID  # from one start to the next
    starts = range(0, length - shared, step)
    stops = [min(start + step + shared, length) for start in starts]
    found: list[Span] = []
    for i, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        weights = np.ones(stop - start)
        if i > 0:
            weights[:shared] = fade(shared)
        if i < len(starts) - 1:
            weights[-shared:] = 1 - fade(shared)
        found.append(Span(start, stop, tuple(weights.tolist())))
    return found


def overlap(side: int) -> int:
    """Pixels that tiles of this side share: at most half of it, so that a pixel belongs to two tiles down at most."""
    return min(OVERLAP, side // 2 // GRID * GRID)


def check_side(side: int) -> None:
    """Raises ValueError for a tile that is too small to be cut."""
    if side < SMALLEST:
        raise ValueError(f"a tile needs a side of at least {SMALLEST} pixels, got {side}")


def fade(shared: int) -> NDArray[np.float64]:
    """From 0 to 1 over the pixels that two tiles share, with a third on either side left out: half a cosine."""
    edge = shared // 3
    place = (np.arange(shared) + 0.5 - edge) / (shared - 2 * edge)
    return (1 - np.cos(np.pi * place.clip(0, 1))) / 2


class Canvas:
    """Where the tiles of one image come together: 6 bytes per pixel, 12 for 16-bit images.

    Args:
        height, width: of the image.
        depth: bits a channel, 8 or 16.
    """

    def __init__(self, height: int, width: int, depth: int = 8) -> None:
        self.finite = True  # whether all that was added were numbers
        self._scale = SCALE[depth]
        self._sum: NDArray[Any] = np.zeros((height, width, 3), np.int16 if depth == 8 else np.int32)

    def add(self, tile: Tile, pixels: Pixels) -> None:
        """Take in a restored tile (h, w, 3), about in [0, 1]."""
        self.finite = self.finite and bool(np.isfinite(pixels).all())
        weights = np.outer(tile.rows.weights, tile.columns.weights).astype(np.float32)[..., None]
        known = pixels if self.finite else np.nan_to_num(pixels)
        self._sum[tile.place] += np.rint(known.clip(-1, 2) * weights * self._scale).astype(self._sum.dtype)

    def mean(self) -> NDArray[np.float64]:
        """Of each channel: (3,)."""
        return self._sum.mean(axis=(0, 1), dtype=np.float64) / self._scale

    def round_to_8_bits(self) -> None:
        """To whole levels of 255, 0 at least and 255 at most; exact to half of what the canvas resolves."""
        for row in self._sum:
            levels = np.floor(row.astype(np.float64) * (255 / self._scale) + 0.5).clip(0, 255)
            row[:] = np.rint(levels * (self._scale / 255))

    def without(self, rows: int, columns: int) -> Canvas:
        """The same without so many rows and columns at its beginning."""
        self._sum = self._sum[rows:, columns:]
        return self

    def rows(self, top: int, bottom: int) -> Pixels:
        """(bottom - top, width, 3)."""
        return np.multiply(self._sum[top:bottom], 1 / self._scale, dtype=np.float32)
