"""Sample images as bytes, one of each kind, and what it takes to make and to break them."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from driftrec.errors import BadImage
from driftrec.image import decode

HEIGHT, WIDTH = 37, 53
GPS, CAMERA = 0x8825, 0x8769


def profile(space: bytes, body: bytes) -> bytes:
    """An ICC profile as far as its header tells: nobody looks further inside."""
    header = bytearray(128)
    header[:4], header[16:20], header[36:40] = struct.pack(">I", 128 + len(body)), space, b"acsp"
    return bytes(header) + body


ICC = profile(b"RGB ", bytes(range(256)) * 300)  # more than one JPEG segment
GREY_ICC = profile(b"GRAY", ICC[128:])


def photo() -> np.ndarray:
    """(H, W, 3) uint8 with smooth colours and grain, and no symmetry."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    smooth = np.stack([x * 4.0, y * 6.0, 128 + 100 * np.sin(x * y / 90)], axis=2)
    return (smooth + np.random.default_rng(1).normal(0, 3, smooth.shape)).clip(0, 255).astype(np.uint8)


RGB = Image.fromarray(photo())
GREY = RGB.convert("L")
RGBA = Image.fromarray(np.dstack([photo(), photo()[..., 0]]))
LA = RGBA.convert("LA")


def saved(image: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    image.copy().save(out, kind, **options)  # Pillow keeps settings of one save for the next
    return out.getvalue()


def exif_bytes(orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif.update({0x010F: "maker", 0x0112: orientation, 0x011A: 300.0, 0x011B: 300.0, 0x0128: 2})
    exif.get_ifd(CAMERA).update({0x9003: "2001:02:03 04:05:06", 0x927C: b"maker note \xff\x00" * 9})
    exif.get_ifd(GPS).update({1: "N", 2: (51.0, 30.0, 12.5)})
    return exif.tobytes()


def refused(data: bytes, **options) -> BadImage:
    with pytest.raises(BadImage) as caught:
        decode(data, **options)
    assert caught.value.detail.isprintable()
    assert len(caught.value.detail) < 300
    return caught.value


def replaced(data: bytes, old: bytes, new: bytes) -> bytes:
    assert data.count(old) == 1
    return data.replace(old, new)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_with(data: bytes, *chunks: bytes) -> bytes:
    """A PNG with further chunks behind its header."""
    return data[:33] + b"".join(chunks) + data[33:]


SIDES = {  # where the stored row 0 and column 0 lie in the upright picture (EXIF 2.32, 4.6.4 A)
    1: ("top", "left"), 2: ("top", "right"), 3: ("bottom", "right"), 4: ("bottom", "left"),
    5: ("left", "top"), 6: ("right", "top"), 7: ("right", "bottom"), 8: ("left", "bottom"),
}  # fmt: skip


def stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """The array that a camera stores for an upright picture."""
    row_side, column_side = SIDES[orientation]
    pixels = upright if row_side in ("top", "bottom") else upright.swapaxes(0, 1)
    pixels = pixels[::-1] if row_side in ("bottom", "right") else pixels
    return pixels[:, ::-1] if column_side in ("right", "bottom") else pixels


ONE_BIT = GREY.convert("1")
KINDS = [  # name, bytes, expected PIL image, note
    ("jpeg", saved(RGB, "JPEG"), None, ""),
    ("jpeg-progressive", saved(RGB, "JPEG", progressive=True, subsampling=0), None, ""),
    ("jpeg-grey", saved(GREY, "JPEG"), None, ""),
    ("mpo", saved(RGB, "MPO", save_all=True, append_images=[GREY.convert("RGB")]), None, "further pictures"),
    ("png", saved(RGB, "PNG"), RGB, ""),
    ("png-grey", saved(GREY, "PNG"), GREY, ""),
    ("png-la", saved(LA, "PNG"), LA, ""),
    ("png-rgba", saved(RGBA, "PNG"), RGBA, ""),
    ("png-1-bit", saved(ONE_BIT, "PNG"), ONE_BIT.convert("L"), "1 bit"),
    ("png-palette", saved(RGB.quantize(9), "PNG"), RGB.quantize(9).convert("RGB"), "palette"),
    ("png-animated", saved(RGB, "PNG", save_all=True, append_images=[GREY.convert("RGB")]), RGB, "further pictures"),
    ("gif", saved(RGB.quantize(64), "GIF"), RGB.quantize(64).convert("RGB"), "palette"),
    ("webp", saved(RGB, "WEBP", lossless=True), RGB, ""),
    ("webp-rgba", saved(RGBA, "WEBP", lossless=True, exact=True), RGBA, ""),
    ("tiff", saved(RGB, "TIFF"), RGB, ""),
    ("tiff-lzw", saved(RGB, "TIFF", compression="tiff_lzw"), RGB, ""),
    ("tiff-grey", saved(GREY, "TIFF"), GREY, ""),
    ("tiff-la", saved(LA, "TIFF"), LA, ""),
    ("tiff-rgba", saved(RGBA, "TIFF"), RGBA, ""),
    ("tiff-1-bit", saved(ONE_BIT, "TIFF", compression="group4"), ONE_BIT.convert("L"), "1 bit"),
    ("tiff-pages", saved(RGB, "TIFF", save_all=True, append_images=[GREY]), RGB, "further pictures"),
    ("bmp", saved(RGB, "BMP"), RGB, ""),
    ("bmp-grey", saved(GREY, "BMP"), GREY, ""),
    ("bmp-palette", saved(RGB.quantize(9), "BMP"), RGB.quantize(9).convert("RGB"), "palette"),
]
WHOLE = {name: data for name, data, _, _ in KINDS}

UNSUPPORTED = {
    "lab tiff": saved(RGB.convert("LAB"), "TIFF"),
    "float tiff": saved(GREY.convert("F"), "TIFF"),
    "32-bit tiff": saved(GREY.convert("I"), "TIFF"),
    "12-bit jpeg": replaced(saved(RGB, "JPEG"), b"\xff\xc0\x00\x11\x08", b"\xff\xc1\x00\x11\x0c"),
    "camera raw": saved(RGB, "TIFF", tiffinfo={0x00FE: 1}),
}
