"""Picture: the pixels of one image, and all that is written back with them. Knows no file format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from driftrec.jpeg.constraint import Constraint

Pixels = NDArray[np.unsignedinteger[Any]]  # uint8 or uint16
Mode = Literal["L", "LA", "RGB", "RGBA"]
Chunk = tuple[bytes, bytes]  # of a PNG: type and body

ROWS = 64  # of an image that are worked on together: they stay in the cache, and no whole copy is made

# From the pixels as stored to the upright ones, by EXIF orientation; all are views.
UPRIGHT: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}
STORED = UPRIGHT | {6: UPRIGHT[8], 8: UPRIGHT[6]}  # and back: the others are their own inverse


class Video(NamedTuple):
    """What makes a JPEG a motion photo. Its place is told from the end of the file."""

    data: bytes  # all that stands behind the picture's end
    xmp: bytes | None  # the picture's packet, with what it says of the video


@dataclass(frozen=True, eq=False)
class Picture:
    """An upright picture of 8 or 16 bits a channel, and what is written back with it."""

    rgb: Pixels  # (H, W, 3), uint8 or uint16; three equal channels if the mode is grey
    mode: Mode = "RGB"  # what is written back
    alpha: Pixels | None = None  # (H, W) of the same type, for LA and RGBA, never touched
    icc: bytes | None = None  # ICC profile, as found; sRGB if CMYK was converted by its profile
    exif: bytes | None = None  # from the prefix "Exif\0\0" on, as found but for its orientation and thumbnail
    dpi: tuple[float, float] | None = None  # horizontal, vertical
    source_format: str = ""  # JPEG, PNG, WEBP, TIFF, BMP, GIF, AVIF, HEIC, JP2, JXL; empty if it came from no file
    note: str = ""  # what a reader of the ledger should know: "named .png, holds JPEG; palette"
    constraint: Constraint | None = None  # what the JPEG file says of the image that it was made from, if that is known
    coefficients: Constraint | None = None  # of the JPEG file, as `constraint`, whatever was before it
    older: int | None = None  # the lower quality at which it was compressed before the JPEG file, if that is certain
    xmp: bytes | None = None  # XMP packet, as found but for its orientation
    video: Video | None = None  # behind the end of a JPEG, as found
    comment: bytes | None = None  # of a JPEG or GIF, as found
    iptc: bytes | None = None  # IPTC-IIM records of a JPEG or TIFF, as found
    chunks: tuple[Chunk, ...] = ()  # text and colour chunks of a PNG, as found
    quality: int | None = None  # of the JPEG file, 1 to 100, estimated from its tables
    steps: tuple[int, ...] | None = None  # of the JPEG file's luma, 64 in row order
    orientation: int = 1  # EXIF's, 1 to 8, from which it was turned upright: a JPEG's grid begins at the stored corner

    def __post_init__(self) -> None:
        """Raises ValueError where the parts do not belong together."""
        kind = self.rgb.dtype
        if kind.name not in ("uint8", "uint16") or self.rgb.ndim != 3 or self.rgb.shape[2] != 3:
            raise ValueError(f"rgb must be uint8 or uint16 (H, W, 3), not {kind} {self.rgb.shape}")
        if (self.alpha is not None) != self.mode.endswith("A"):
            raise ValueError(f"mode {self.mode} {'with' if self.alpha is not None else 'without'} alpha")
        if self.alpha is not None and (self.alpha.dtype != kind or self.alpha.shape != self.rgb.shape[:2]):
            raise ValueError(f"alpha must be {kind} {self.rgb.shape[:2]}, not {self.alpha.dtype} {self.alpha.shape}")

    @property
    def height(self) -> int:
        """Pixels."""
        return self.rgb.shape[0]

    @property
    def width(self) -> int:
        """Pixels."""
        return self.rgb.shape[1]

    @property
    def stored(self) -> Pixels:
        """`rgb` as its file stores it, not turned upright: a view."""
        return STORED[self.orientation](self.rgb)

    @property
    def depth(self) -> int:
        """Bits a channel: 8 or 16."""
        return 8 * self.rgb.itemsize

    @property
    def peak(self) -> int:
        """The value of white: 255 or 65535."""
        return 2**self.depth - 1

    @property
    def grey(self) -> bool:
        """Whether one channel of colour is written."""
        return self.mode in ("L", "LA")

    @property
    def channels(self) -> int:
        """How many are written: 1 to 4."""
        return (1 if self.grey else 3) + (self.alpha is not None)

    def rows(self, top: int, bottom: int) -> NDArray[Any]:
        """Rows as they are written: (bottom - top, W, channels)."""
        colour = self.rgb[top:bottom, :, : 1 if self.grey else 3]
        return colour if self.alpha is None else np.dstack([colour, self.alpha[top:bottom]])

    @property
    def rgb8(self) -> NDArray[np.uint8]:
        """(H, W, 3) in 8 bits: `rgb` itself, or rounded."""
        return to_8_bits(self.rgb)

    def with_rgb(self, rgb: Pixels) -> Picture:
        """The same picture with other pixels of the same shape and type; if grey, the mean of their channels."""
        if rgb.shape != self.rgb.shape or rgb.dtype != self.rgb.dtype:
            had, given = (f"{pixels.dtype} {pixels.shape}" for pixels in (self.rgb, rgb))
            raise ValueError(f"pixels of type and shape {given} for a picture of {had}")
        return replace(self, rgb=_mean_of_channels(rgb) if self.grey else rgb)

    def in_8_bits(self) -> Picture:
        """The same picture with 8 bits a channel, rounded."""
        if self.depth == 8:
            return self
        return replace(self, rgb=self.rgb8, alpha=None if self.alpha is None else to_8_bits(self.alpha))


def to_8_bits(pixels: Pixels) -> NDArray[np.uint8]:
    """uint16 of any shape rounded to 8 bits (65535 becomes 255); uint8 is given back."""
    if pixels.dtype == np.uint8:
        return pixels.astype(np.uint8, copy=False)
    rounded = np.empty(pixels.shape, np.uint8)
    for top in range(0, len(pixels), ROWS):
        rounded[top : top + ROWS] = (pixels[top : top + ROWS].astype(np.uint32) + 128) // 257
    return rounded


def _mean_of_channels(rgb: Pixels) -> Pixels:
    """(H, W, 3) of one type with three equal channels: their mean, rounded."""
    grey: NDArray[Any] = np.empty_like(rgb)
    for top in range(0, len(rgb), ROWS):
        total = rgb[top : top + ROWS].sum(axis=2, dtype=np.uint32, keepdims=True)
        grey[top : top + ROWS] = (total + 1) // 3
    return grey
