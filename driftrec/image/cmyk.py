"""CMYK to sRGB: through the file's own ICC profile, or by formula where it has none."""

import io
import struct
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from PIL import Image, ImageCms

# As in Photoshop: colours that sRGB holds are kept as measured, and the press's black becomes the screen's.
INTENT, FLAGS = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
DATE_AT = 24  # of an ICC profile: twelve bytes, when it was made (ICC.1:2022, 7.2.1)


class ToSrgb(NamedTuple):
    """How CMYK becomes RGB."""

    convert: Callable[[Image.Image], Image.Image]
    note: str
    icc: bytes | None  # the profile of the result


def to_srgb(icc: bytes | None) -> ToSrgb:
    """The way from CMYK to RGB for a file with this ICC profile."""
    if icc is None:
        return ToSrgb(_by_formula, "CMYK without an ICC profile, converted by formula", None)
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        transform = ImageCms.buildTransform(profile, _srgb(), "CMYK", "RGB", INTENT, FLAGS)
    except (ImageCms.PyCMSError, OSError):  # broken, or of another colour space
        return ToSrgb(_by_formula, "CMYK whose ICC profile cannot be used, converted by formula", None)
    note = "CMYK converted to sRGB by its ICC profile, relative colorimetric"
    return ToSrgb(transform.apply, note, srgb_profile())


@cache
def srgb_profile() -> bytes:
    """An ICC profile of sRGB, the same bytes whenever it is made."""
    made = bytearray(_srgb().tobytes())
    struct.pack_into(">6H", made, DATE_AT, 2000, 1, 1, 0, 0, 0)
    return bytes(made)


def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _by_formula(image: Image.Image) -> Image.Image:
    """R = (1 - C) (1 - K), likewise G and B: Pillow's plain conversion."""
    return image.convert("RGB")
