"""The JPEG degradation: compress and decode again, shift, encode.

Compression goes through Pillow's encoder (libjpeg-turbo). The `imagecodecs` encoder gives the same bytes in
half the time, but training degrades some 100 patches of 64x64 a second, 0.17 ms each: not worth a dependency.

Double compression is composition: `degrade(shift(degrade(image, 30), 4, 4), 10)` compresses twice, the second
8x8 grid 4 pixels off the first (compare the result with `shift(image, 4, 4)`).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from driftrec.errors import InvalidInput

LUMA = (0.299, 0.587, 0.114)  # JFIF 1.02, as ITU-R BT.601, full range
TO_YCC = np.array(  # JFIF 1.02: Y, Cb and Cr, the latter two without their offset of 128
    [LUMA, [-0.168735892, -0.331264108, 0.5], [0.5, -0.418687589, -0.081312411]], np.float32
)
TO_RGB = np.linalg.inv(TO_YCC).astype(np.float32)
ImageOrArray = TypeVar("ImageOrArray", Image.Image, NDArray[np.uint8])

SUBSAMPLINGS = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}  # those Pillow can write


def middle(shape: tuple[int, ...], side: int, grid: int = 8) -> tuple[slice, slice]:
    """The middle (rows, columns) of an image (H, W, ...) as a file stores it: no longer than `side` pixels, and
    beginning at a corner of its JPEG grid.
    """
    top, left = (max(0, length - side) // (2 * grid) * grid for length in shape[:2])
    return slice(top, top + side), slice(left, left + side)


def degrade(image: ImageOrArray, quality: int, subsampling: str = "4:2:0") -> ImageOrArray:
    """Compress to JPEG and decode again.

    Args:
        image: PIL image of mode RGB or L, or uint8 array (H, W, 3) or (H, W).
        quality: 0 to 100 on libjpeg's scale; 0 equals 1.
        subsampling: "4:4:4", "4:2:2" or "4:2:0"; without effect on grey.

    Returns:
        The same kind, shape and mode, without metadata.

    Raises:
        InvalidInput: quality or subsampling out of range.
    """
    pixels = np.array(JpegImageFile(io.BytesIO(encode_jpeg(image, quality, subsampling))))
    if isinstance(image, Image.Image):
        return Image.fromarray(pixels)
    return pixels


def degrade_by(image: NDArray[np.uint8], tables: Sequence[Sequence[int]], subsampling: str) -> NDArray[np.uint8]:
    """As `degrade`, by the quantisation tables of luma and chroma: 64 steps each, row by row. (H, W, 3) -> the same."""
    out = io.BytesIO()
    steps, code = [list(table) for table in tables], subsampling_code(subsampling)
    Image.fromarray(image).save(out, "JPEG", qtables=steps, subsampling=code)
    return np.array(JpegImageFile(io.BytesIO(out.getvalue())))


def shift(image: ImageOrArray, dy: int, dx: int) -> ImageOrArray:
    """Cut dy rows off the top and dx columns off the left: the next JPEG's 8x8 grid lies that far off."""
    if isinstance(image, Image.Image):
        return image.crop((dx, dy, image.width, image.height))
    return image[dy:, dx:]


def encode_jpeg(
    image: Image.Image | NDArray[np.uint8],
    quality: int = 95,
    subsampling: str = "4:4:4",
    progressive: bool = False,
) -> bytes:
    """JPEG bytes of the pixels alone, no metadata. Arguments and errors as in `degrade`."""
    if not 0 <= quality <= 100:
        raise InvalidInput(f"JPEG quality {quality} is out of range: give 0 to 100")
    pixels = image if isinstance(image, Image.Image) else Image.fromarray(image)
    out = io.BytesIO()
    pixels.save(
        out,
        "JPEG",
        quality=int(quality),
        subsampling=subsampling_code(subsampling),
        progressive=progressive,
        comment=None,  # Pillow would take it from the image
    )
    return out.getvalue()


def subsampling_code(name: str) -> int:
    """Pillow's number of a chroma subsampling (given the name 4:1:1, it would write 4:2:0 without a word)."""
    if name not in SUBSAMPLINGS:
        raise InvalidInput(f"unknown chroma subsampling {name!r}: give one of {', '.join(SUBSAMPLINGS)}")
    return SUBSAMPLINGS[name]
