"""Bytes to Picture and back: pixels, and all that must survive (alpha, mode, depth, profile, EXIF, XMP, resolution).

`sniff` knows a format by its content, `probe` reads a header, `decoding` and `encoding` do the rest; the other modules
are one format or one kind of metadata each. Must know nothing of tensors, processes or archives. Start with
`decoding.decode`. What becomes of every kind of file stands in docs/explanation/formats.md, one line each.
"""

from driftrec.image.decoding import MAX_PIXELS, Frames, decode, from_pil
from driftrec.image.encoding import ENCODERS, Encoder, encode, format_of, not_kept, to_pil
from driftrec.image.picture import Mode, Picture, Pixels

__all__ = [
    "ENCODERS",
    "MAX_PIXELS",
    "Encoder",
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
