"""Bytes to Picture and back: pixels, and all that must survive (alpha, mode, depth, profile, EXIF, XMP, resolution).

What becomes of every kind of file stands in docs/formats.md, one line each.
"""

from driftrec.image.decode import MAX_PIXELS, Frames, decode, from_pil
from driftrec.image.encode import Format, encode, format_of, not_kept, to_pil
from driftrec.image.picture import Mode, Picture, Pixels

__all__ = [
    "MAX_PIXELS",
    "Format",
    "Frames",
    "Mode",
    "Picture",
    "Pixels",
    "decode",
    "encode",
    "format_of",
    "from_pil",
    "not_kept",
    "to_pil",
]
