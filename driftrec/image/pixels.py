"""From PIL images to upright arrays, band by band: no second copy of a whole image, in whatever mode, is made.

Pillow holds 16 bits of grey, but only 8 of colour. Its decoders pick either half of a 16-bit sample, though, so deep
colour is decoded twice: one layer for the high bytes, one for the low ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from driftrec.errors import BadImage, Reason
from driftrec.image import cmyk
from driftrec.image.picture import ROWS, Mode, Pixels

UPRIGHT = {  # by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
BAND = 1 << 16  # pixels that are converted together: they stay in the cache
Place = tuple[slice, slice]
Read = Callable[[Image.Image], NDArray[Any]]  # of a band: (h, w) or (h, w, 1 to 4)


class Layer(NamedTuple):
    """What is decoded in one go. Layers are added up."""

    image: Callable[[], Image.Image]
    read: Read


class Reading(NamedTuple):
    """How the pixels of an image are read."""

    read: Read
    note: str = ""  # what its mode was, if that is not kept
    icc: bytes | None = None  # the profile of what is read


def reading(image: Image.Image, icc: bytes | None) -> Reading:
    """How an image of any mode becomes 8-bit L, LA, RGB or RGBA, or 16-bit grey.

    Raises:
        BadImage: `unsupported` for modes that would lose something (float, Lab, ...).
    """
    match image.mode:
        case "P" | "PA":
            opaque = image.mode == "P" and image.info.get("transparency") is None
            colours = np.reshape(image.getpalette("RGB") or [], (-1, 3))
            grey = bool((colours == colours[:, :1]).all())
            return Reading(_converted(("L" if grey else "RGB") + ("" if opaque else "A")), "palette", icc)
        case "1":
            return Reading(_converted("L"), "1 bit", icc)
        case "La":
            return Reading(_converted("LA"), "", icc)
        case "CMYK":
            srgb = cmyk.to_srgb(icc)
            return Reading(partial(_read_through, srgb.convert), srgb.note, srgb.icc)
        case "I;16" | "I;16B" | "I;16L":
            return Reading(deep_grey, "", icc)
        case mode if mode in get_args(Mode):
            return Reading(np.asarray, "", icc)
        case mode:
            raise BadImage(Reason.unsupported, f"{mode} pixels would lose something in RGB: convert it to PNG or TIFF")


def deep_grey(band: Image.Image) -> NDArray[np.uint16]:
    """16-bit grey, whatever its byte order."""
    return np.asarray(band).astype(np.uint16)


def negative(band: Image.Image) -> NDArray[np.uint16]:
    """16-bit grey of which 0 is white."""
    return np.uint16(65535) - deep_grey(band)


def high_bytes(band: Image.Image) -> NDArray[np.uint16]:
    """16-bit samples without their lower halves, of a band that was decoded as the upper ones."""
    return np.asarray(band).astype(np.uint16) * np.uint16(256)


def big_endian(band: Image.Image) -> NDArray[np.uint16]:
    """The two 16-bit samples of a pixel whose four bytes a band was decoded to."""
    return np.asarray(band).view(">u2").astype(np.uint16)


def gather(layers: Sequence[Layer], orientation: int = 1) -> tuple[Pixels, Pixels | None, bool]:
    """(rgb, alpha, grey) of the sum of the layers, turned upright: (H, W, 3); (H, W), None without alpha; whether the
    three are one. Without any pixels rgb is empty.
    """
    rgb: NDArray[Any] = np.empty((0, 0, 3), np.uint8)
    alpha: NDArray[Any] | None = None
    grey = False
    for number, layer in enumerate(layers):
        image = layer.image()
        size = (image.width, image.height) if orientation >= 5 else (image.height, image.width)
        for place, values in _bands(image, orientation, layer.read):
            if rgb.size == 0:
                rgb = np.empty((*size, 3), values.dtype)
                alpha = np.empty(size, values.dtype) if values.shape[2] in (2, 4) else None
                grey = values.shape[2] <= 2
            _put(rgb, place, values if alpha is None else values[..., :-1], add=number > 0)
            if alpha is not None:
                _put(alpha, place, values[..., -1], add=number > 0)
    return rgb, alpha, grey


def keyed(rgb: Pixels, key: Any) -> Pixels:
    """(H, W) alpha of a picture in which one colour (a number for grey, else three) stands for transparent."""
    alpha: NDArray[Any] = np.full(rgb.shape[:2], np.iinfo(rgb.dtype).max, rgb.dtype)
    for top in range(0, len(rgb), ROWS):
        alpha[top : top + ROWS][(rgb[top : top + ROWS] == np.array(key)).all(axis=2)] = 0
    return alpha


def _converted(mode: str) -> Read:
    return partial(_read_through, lambda band: band.convert(mode))


def _read_through(convert: Callable[[Image.Image], Image.Image], band: Image.Image) -> NDArray[Any]:
    return np.asarray(convert(band))


def _bands(image: Image.Image, orientation: int, read: Read) -> Iterator[tuple[Place, NDArray[Any]]]:
    """Where each band of an image lies when it is upright, and its values (h, w, 1 to 4)."""
    everything, step = slice(None), max(1, BAND // max(1, image.width))
    for top in range(0, image.height, step):
        bottom = min(top + step, image.height)
        band = image if step >= image.height else image.crop((0, top, image.width, bottom))
        band = band.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else band
        backwards = orientation in (3, 4, 6, 7)
        span = slice(image.height - bottom, image.height - top) if backwards else slice(top, bottom)
        yield (everything, span) if orientation >= 5 else (span, everything), np.atleast_3d(read(band))


def _put(target: NDArray[Any], place: Place, values: NDArray[Any], add: bool) -> None:
    if add:
        target[place] += values
    else:
        target[place] = values
