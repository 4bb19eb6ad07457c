"""Quantisation projection: a restoration may not contradict the JPEG file that it was made from.

Such a file says of each DCT coefficient in which interval its encoder saw it: (level +- 1/2) step. `project` moves
those that left their interval to its edge and nothing else: the nearest image that agrees with the file. A guard rail:
little to gain on a good restoration, much where colours drifted.

Levels are taken from the file, not from its RGB pixels: libjpeg shows its Y, Cb and Cr, of 4:2:0 the chroma at half
scale, for which it applies the whole inverse DCT and no upsampling. The file is decoded as it is, whatever its scans
hold. Blocks that the edge cuts are left free: how an encoder filled them beyond the edge (the last column again, black,
a mean, a mirror image) is in no file, and so it says nothing of their visible part.

Of 100 photographs, at quality 5 to 75, 90, 95 and 100, more than 99.999, 99.97, 99.3 and 95.8 % of the levels so found
are those in the file (4:2:0, 251x243 pixels), the others one or two steps off. From RGB pixels, of whole blocks alone:
99.9 % at 60, 99.4 at 90, 96.8 at 95.

Only the last compression is known. A file that was compressed hard, perhaps resized, and saved again at high quality
says that the damage is the picture: projected on it, a restoration keeps most of that damage. `constraint` trusts none
where an older compression is certain; one before the image was resized goes unseen.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL.JpegImagePlugin import JpegImageFile
from scipy.fft import dctn, idctn

from driftrec.errors import BadImage
from driftrec.jpeg.codec import TO_RGB, TO_YCC
from driftrec.jpeg.double_compression import older_compression
from driftrec.jpeg.headers import JpegInfo, info_of, segments

Array = NDArray[np.float32]
Samples = NDArray[np.uint8]
Pixels = TypeVar("Pixels", NDArray[np.uint8], NDArray[np.float32], NDArray[np.float64])

REDUCTION = {"4:0:0": (1, 1), "4:4:4": (1, 1), "4:2:2": (1, 2), "4:2:0": (2, 2)}  # luma samples a chroma sample: y, x
ROUNDS = 20  # of filling in what libjpeg clipped
# Root mean square between decoded samples and what their levels decode to: at most 0.55 where the steps are the file's
# own (900 files of the tests' encoder), for roundings and the upsampling of 4:2:2.
ROUNDING = 1.0
CHECKED = 16  # rows of blocks of each plane whose levels are decoded again
BAND = 64  # rows projected at a time: small arrays stay in the cache


class Unconstrained(StrEnum):
    """Why a file says nothing that a restoration must keep to."""

    other_kind = "not an 8-bit JPEG of Y, Cb, Cr or grey at 4:4:4, 4:2:2 or 4:2:0"
    broken = "libjpeg gives no planes of it: not whole, without its tables, or of other colours"
    unclear = "its coefficients cannot be told for sure"


@dataclass(frozen=True)
class Older:
    """A file that says nothing of the clean image, for the picture was compressed before, at a lower quality."""

    quality: int
    last: Constraint  # what it says of the picture that was compressed last

    def __str__(self) -> str:
        return "an older compression shows"


@dataclass(frozen=True, eq=False)
class Constraint:
    """What a JPEG file says of the image that it was made from, as stored: the grid starts at the corner. 1.5 to 3
    bytes per pixel: levels are found again from decoded samples where they are needed.
    """

    height: int  # pixels, as stored
    width: int
    reduction: tuple[int, int]  # luma samples for one of chroma, down and across
    steps: tuple[Array, ...]  # (8, 8) for luma, and for Cb and Cr unless the file is grey
    planes: tuple[Samples, ...]  # decoded samples, as libjpeg shows them; chroma of 4:2:2 as wide as luma

    def whole(self, plane: int) -> tuple[int, int]:
        """Rows and columns of a plane's blocks that lie wholly in the picture."""
        ry, rx = self.reduction if plane else (1, 1)
        return self.height // (8 * ry), self.width // (8 * rx)

    def levels(self, plane: int, top: int, bottom: int) -> Array:
        """(rows, columns, 8, 8) of a plane's whole blocks, rows from top to bottom; times steps: as decoded."""
        return _levels(self._samples(plane, top, bottom), self.steps[plane])

    def coefficients(self, plane: int) -> Array:
        """The decoded coefficients of a plane, (H, W) with each block in the place of its samples: levels times steps,
        both sides filled up to what the file codes together. In blocks that the edge cuts, which are not in the samples
        as a whole, those of the visible samples, the last row and column repeated.
        """
        ry, rx = self.reduction
        sy, sx = (1, 1) if plane else (ry, rx)  # blocks of this plane that are coded together
        height, width = 8 * sy * -(-self.height // (8 * ry)), 8 * sx * -(-self.width // (8 * rx))
        samples = self._all_samples(plane)
        beyond = [(0, height - samples.shape[0]), (0, width - samples.shape[1])]
        blocks = _dct(_blocks(np.pad(samples, beyond, mode="edge") - 128))
        rows, columns = self.whole(plane)
        blocks[:rows, :columns] = self.levels(plane, 0, rows) * self.steps[plane]
        return blocks.swapaxes(1, 2).reshape(height, width)

    def agrees(self) -> bool:
        """Whether the levels decode to what libjpeg shows, looked at in the middle rows of each plane."""
        return all(self._error(plane) <= ROUNDING for plane in range(len(self.steps)))

    def _error(self, plane: int) -> float:
        rows, columns = self.whole(plane)
        if not rows * columns:
            return 0.0
        top = max(0, rows - CHECKED) // 2
        samples, steps = self._samples(plane, top, top + CHECKED), self.steps[plane]
        again = _inverse_dct(_levels(samples, steps) * steps) + 128
        return float(np.sqrt(np.mean((again.clip(0, 255) - _blocks(samples)) ** 2)))

    def _samples(self, plane: int, top: int, bottom: int) -> Array:
        rows, columns = self.whole(plane)
        return self._all_samples(plane, 8 * top, 8 * min(bottom, rows))[:, : 8 * columns]

    def _all_samples(self, plane: int, top: int = 0, bottom: int | None = None) -> Array:
        samples = self.planes[plane][top:bottom].astype(np.float32)
        return _narrowed(samples) if plane > 0 and self.reduction == (1, 2) else samples


def project(restored: Pixels, constraint: Constraint) -> Pixels:
    """The nearest image whose coefficients lie within 1/2 + 1/step of the file's levels (the 1 is for roundings).

    Luma and both chroma planes; these are averaged over their reduction, as libjpeg's encoder does, and a change of an
    average goes to each of its pixels. Blocks that the edge cuts are free.

    Args:
        restored: (H, W, 3), as stored: uint8, or float with 1 for white.
        constraint: of the file that it was made from.

    Returns:
        The same shape and kind; pixels of blocks that agree are untouched; floats are not clipped.

    Raises:
        ValueError: the restored image has another size than the file's.
    """
    height, width = constraint.height, constraint.width
    if restored.shape != (height, width, 3):
        raise ValueError(f"pixels {restored.shape} for a file of {height}x{width}")
    result = np.empty_like(restored, order="C")
    for top in range(0, height, BAND):
        result[top : top + BAND] = project_band(restored[top : top + BAND], constraint, top)
    return result


def project_band(stored: NDArray[Any], constraint: Constraint, top: int) -> NDArray[Any]:
    """`project` for the rows from `top` on, a multiple of 16, as many as there are."""
    peak = 255 if stored.dtype == np.uint8 else 1
    planes = stored.astype(np.float32) * np.float32(255 / peak) @ TO_YCC.T
    change = np.zeros_like(planes)
    for i, steps in enumerate(constraint.steps):
        ry, rx = constraint.reduction if i else (1, 1)
        rows, columns = len(stored) // (8 * ry), constraint.whole(i)[1]
        if not rows * columns:
            continue
        height, width, row = 8 * ry * rows, 8 * rx * columns, top // (8 * ry)
        plane = planes[:height, :width, i].reshape(8 * rows, ry, -1, rx).mean(axis=(1, 3)) - (0 if i else 128)
        correction = _correction(plane, steps, constraint.levels(i, row, row + rows))
        change[:height, :width, i] = correction.repeat(ry, axis=0).repeat(rx, axis=1)
    result = stored + change @ TO_RGB.T * (peak / 255)
    return result.clip(0, 255).round() if peak == 255 else result


def constraint(data: bytes) -> Constraint | Older | Unconstrained:
    """What a file says, or why nothing that could be trusted."""
    try:
        found, _ = segments(data)
        info = info_of(found)
        if not _is_usual(info):
            return Unconstrained.other_kind
        if not info.tables or min(map(min, info.tables)) == 0:
            return Unconstrained.broken
        planes = _planes(data, info)
    except (BadImage, OSError, SyntaxError, ValueError):
        return Unconstrained.broken
    steps = tuple(np.array(table, np.float32).reshape(8, 8) for table in info.tables)
    known = Constraint(info.height, info.width, REDUCTION[info.subsampling], steps, planes)
    if planes[0].shape != (info.height, info.width) or not known.agrees():
        return Unconstrained.unclear
    older = older_compression(planes[0], info.tables[0], info.quality or 1)
    return Older(older.certain, known) if older and older.certain else known


def _is_usual(info: JpegInfo) -> bool:
    return info.precision == 8 and info.components in (1, 3) and info.subsampling in REDUCTION and info.height > 0


def _planes(data: bytes, info: JpegInfo) -> tuple[Samples, ...]:
    """Y, and Cb and Cr at half scale where both sides are halved, as libjpeg decodes the file."""
    chroma = _chroma(data, REDUCTION[info.subsampling][0]) if info.components == 3 else []
    return (_luma(data), *chroma)


def _luma(data: bytes) -> NDArray[np.uint8]:
    """Y (H, W); no chroma is decoded."""
    image = JpegImageFile(io.BytesIO(data))
    image.draft("L", image.size)
    return np.asarray(image)


def _chroma(data: bytes, scale: int) -> list[Samples]:
    """Cb and Cr (H, W), 1 / scale of the resolution, rounded up."""
    image = JpegImageFile(io.BytesIO(data))
    image.draft("YCbCr", (max(1, image.width // scale), max(1, image.height // scale)))
    return [np.asarray(image.getchannel(i)) for i in (1, 2)]


def _narrowed(plane: Array) -> Array:
    """Undo libjpeg's upsampling across (H, 2 W or 2 W - 1), where a pair on either side of a border is 3/4 of the
    nearer sample and 1/4 of the other: each pair gives both samples; those got from two pairs are averaged.
    """
    padded = np.pad(plane, ((0, 0), (1, 1 + plane.shape[1] % 2)), mode="edge")
    left, right = padded[:, :-1:2], padded[:, 1::2]  # the pairs, one before the first sample to one after the last
    return np.asarray(((1.5 * right - 0.5 * left)[:, :-1] + (1.5 * left - 0.5 * right)[:, 1:]) / 2, np.float32)


def _levels(plane: Array, steps: Array) -> Array:
    """(rows, columns, 8, 8): the multiples of the steps that decode to a plane. Where samples were clipped at 0 or 255,
    the levels' own samples beyond take their place until nothing changes.
    """
    samples = _blocks(plane)
    levels = np.round(_dct(samples - 128) / steps)
    low, high = samples == 0, samples == 255
    open_ = (low | high).any(axis=(2, 3))
    samples, low, high = samples[open_], low[open_], high[open_]
    for _ in range(ROUNDS if len(samples) else 0):
        full = _inverse_dct(levels[open_] * steps) + 128
        filled = np.where((low & (full < 0)) | (high & (full > 255)), full, samples)
        better = np.round(_dct(filled - 128) / steps)
        if np.array_equal(better, levels[open_]):
            break
        levels[open_] = better
    return levels


def _correction(plane: Array, steps: Array, levels: Array) -> Array:
    """What must be added to a plane (H, W), samples around 0, so that its coefficients lie in their intervals."""
    coefficients, middle, reach = _dct(_blocks(plane)), levels * steps, steps / 2 + 1
    change = _inverse_dct(coefficients.clip(middle - reach, middle + reach) - coefficients)
    return change.swapaxes(1, 2).reshape(plane.shape)


def _blocks(plane: Array) -> Array:
    """(H, W) -> (rows, columns, 8, 8)."""
    height, width = plane.shape
    return plane.reshape(height // 8, 8, width // 8, 8).swapaxes(1, 2)


def _dct(blocks: Array) -> Array:
    return np.asarray(dctn(blocks, axes=(-2, -1), norm="ortho"), np.float32)  # JPEG's scaling


def _inverse_dct(blocks: Array) -> Array:
    return np.asarray(idctn(blocks, axes=(-2, -1), norm="ortho"), np.float32)
