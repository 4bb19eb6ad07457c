"""A TIFF writer for what a Picture holds. (Pillow's loses the camera's EXIF or fails on it as soon as it compresses.)

Layout: header, one directory with the EXIF directories behind it, strips. Lossless: deflate over the horizontal
differences of the pixels (predictor 2), which makes photographs a third smaller than deflate alone.
"""

import io
import zlib
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.TiffImagePlugin import ImageFileDirectory_v2

# 1024x768 crops of two photographs, one core: level 1 gives 0.88 MB in 0.02 s, 4 0.82 MB in 0.03 s,
# 6 0.77 MB in 0.10 s.
LEVEL = 4
STRIP = 1 << 20  # bytes of pixels a strip, about
DEFLATE, PREDICTOR, BLACK_IS_ZERO, RGB, STRAIGHT_ALPHA, INCH = 8, 2, 1, 2, 2, 2  # TIFF 6.0 and its supplement 2


def encode(
    pixels: NDArray[np.uint8],
    icc: bytes | None,
    dpi: tuple[float, float] | None,
    tags: Mapping[int, Any],
    level: int = LEVEL,
) -> bytes:
    """TIFF bytes.

    Args:
        pixels: (H, W, C) uint8; C = 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha.
        icc: ICC profile.
        dpi: horizontal and vertical resolution.
        tags: further ones of the first directory by number; a dict is a directory of its own.
        level: zlib level, 1 (fast) to 9 (smallest).
    """
    height, width, channels = pixels.shape
    rows = max(1, STRIP // (width * channels))
    strips = [_strip(pixels[top : top + rows], level) for top in range(0, height, rows)]
    directory = ImageFileDirectory_v2()
    for tag, value in tags.items():
        directory[tag] = value
    directory[0x0100], directory[0x0101] = width, height
    directory[0x0102] = (8,) * channels
    directory[0x0103] = DEFLATE
    directory[0x0106] = RGB if channels > 2 else BLACK_IS_ZERO
    directory[0x0115] = channels
    directory[0x0116] = rows
    lengths = [len(strip) for strip in strips]
    directory[0x0111] = tuple(accumulate(lengths[:-1], initial=0))  # Pillow adds where the strips begin
    directory[0x0117] = tuple(lengths)
    directory[0x013D] = PREDICTOR
    if channels in (2, 4):
        directory[0x0152] = STRAIGHT_ALPHA
    if dpi:
        directory[0x011A], directory[0x011B], directory[0x0128] = *dpi, INCH
    if icc:
        directory[0x8773] = icc
    out = io.BytesIO()
    directory.save(out)
    return out.getvalue() + b"".join(strips)


def _strip(rows: NDArray[np.uint8], level: int) -> bytes:
    differences = rows.copy()
    differences[:, 1:] -= rows[:, :-1]  # modulo 256
    return zlib.compress(differences.tobytes(), level)
