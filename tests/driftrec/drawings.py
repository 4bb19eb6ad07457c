"""Drawings on rasters, which show the rhythms of a JPEG's blocks and are none: (H, W, 3) uint8, by name."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from skimage.data import astronaut

SIDE = 192
Pixels = NDArray[np.uint8]


def enlarged(pixels: NDArray[np.generic], times: int) -> NDArray[np.generic]:
    return pixels.repeat(times, axis=0).repeat(times, axis=1)


def grey(levels: NDArray[np.generic]) -> Pixels:
    return np.repeat(np.clip(levels, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def squares(side: int, off: int = 0) -> Pixels:
    """A code of black and white squares, whose grid begins `off` pixels outside."""
    count = -(-(SIDE + off) // side)
    drawn = enlarged(np.random.default_rng(side).integers(0, 2, (count, count)) * 255, side)
    return grey(drawn[off : off + SIDE, off : off + SIDE])


def pixel_art(side: int) -> Pixels:
    """Few colours, each pixel a square."""
    small = Image.fromarray(astronaut()[:SIDE, 128 : 128 + SIDE]).resize((SIDE // side, SIDE // side))
    return np.asarray(enlarged(np.asarray(small.quantize(16).convert("RGB")), side), np.uint8)


def terminal() -> Pixels:
    """Letters in cells of 8x16."""
    image, draw = Image.new("RGB", (SIDE, SIDE)), np.random.default_rng(1)
    for top in range(0, SIDE, 16):
        for left in range(0, SIDE, 8):
            letter = chr(int(draw.integers(33, 127)))
            ImageDraw.Draw(image).text((left, top + 2), letter, fill=(200, 200, 200), font=ImageFont.load_default(10))
    return np.asarray(image)


def ruled(rows: int, columns: int) -> Pixels:
    """Dark lines on white, a table's."""
    down, across = np.mgrid[:SIDE, :SIDE]
    return grey(255 - 160 * ((down % rows == 0) | (across % columns == 0)))


def bricks() -> Pixels:
    down, across = np.mgrid[:SIDE, :SIDE]
    joints = (down % 8 == 0) | ((across + 8 * (down // 8 % 2)) % 16 == 0)
    return grey(150 - 60 * joints + np.random.default_rng(2).normal(0, 4, (SIDE, SIDE)))


def dithered() -> Pixels:
    image = Image.fromarray(astronaut()[:SIDE, 128 : 128 + SIDE]).convert("1")
    return grey(np.asarray(image) * 255)


DRAWINGS: dict[str, Pixels] = {
    **{f"squares of {side}": squares(side) for side in (4, 6, 8, 16)},
    "squares of 8, cropped": squares(8, off=3),
    **{f"pixel art of {side}": pixel_art(side) for side in (4, 8, 12, 16)},
    "terminal": terminal(),
    "table of 16": ruled(16, 64),
    "table of 20": ruled(20, 64),
    "lines of 8": ruled(8, SIDE),
    "bricks": bricks(),
    "checkerboard": grey(np.indices((SIDE, SIDE)).sum(axis=0) % 2 * 255),
    "dithered": dithered(),
}
