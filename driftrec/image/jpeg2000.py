"""JPEG 2000 files: how large and deep, whether whole, what they say of their colours. Looks at boxes and the first
marker (ISO/IEC 15444-1, annexes A and I); Pillow decodes.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import features
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile

from driftrec.errors import BadImage, Reason
from driftrec.image.isobmff import Box, boxes, outermost

SIGNATURE = b"\0\0\0\x0cjP  \r\n\x87\n"  # of a file of boxes
CODESTREAM, END = b"\xff\x4f\xff\x51", b"\xff\xd9"
COLOURS = {12, 16, 17, 18}  # CMYK, sRGB, grey, sYCC: what Pillow shows rightly
EXIF_UUID = b"JpgTiffExif->JP2"
XMP_UUID = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")


@dataclass(frozen=True)
class Size:
    """What the first marker says."""

    width: int
    height: int
    depth: int  # bits of the deepest component
    components: int
    signed: bool  # whether one of them is


def size(data: bytes) -> Size:
    """From the beginning of a file. Raises BadImage `truncated` where that is too short to tell."""
    start = data.find(CODESTREAM)
    if start < 0 or len(data) < start + 42:
        raise BadImage(Reason.truncated, "JPEG 2000 that ends inside its header")
    right, bottom, left, top = struct.unpack_from(">4I", data, start + 8)
    (components,) = struct.unpack_from(">H", data, start + 40)
    depths = data[start + 42 : start + 42 + 3 * components : 3]
    if not depths or right <= left or bottom <= top:
        raise BadImage(Reason.corrupt, "JPEG 2000 without pixels")
    signed = any(depth & 0x80 for depth in depths)
    return Size(right - left, bottom - top, max(depth & 0x7F for depth in depths) + 1, components, signed)


def check(data: bytes) -> None:
    """Refuse what the decoder would show wrongly. Raises BadImage `unsupported`."""
    found = size(data)
    if found.depth > 8 or found.signed:
        kind = "signed samples" if found.signed else f"{found.depth} bits a channel: 8 would lose some of them"
        raise BadImage(Reason.unsupported, f"JPEG 2000 of {kind}; convert it to a 16-bit PNG")
    if found.depth < 8 and b"pclr" not in data[: data.find(CODESTREAM)]:  # the entries of a palette have 8
        raise BadImage(Reason.unsupported, f"JPEG 2000 of {found.depth} bits a channel; convert it to PNG")
    for start, end in _colours(data):
        space = int.from_bytes(data[start + 3 : start + 7], "big")
        if data[start] == 1 and end - start >= 7 and space not in COLOURS:
            raise BadImage(Reason.unsupported, f"JPEG 2000 of colour space {space}: convert it to sRGB")


def profile(data: bytes) -> bytes | None:
    """An ICC profile, restricted or any, that tells of its colours."""
    return next((data[start + 3 : end] for start, end in _colours(data) if data[start] in (2, 3)), None)


def opened(file: io.BytesIO) -> Jpeg2KImageFile:
    """Pillow's plugin, with the profile, EXIF and XMP that it passes over."""
    if not features.check("jpg_2000"):
        raise BadImage(Reason.unsupported, "this Pillow reads no JPEG 2000: update it, or convert the file to PNG")
    data, image = file.getvalue(), Jpeg2KImageFile(file)
    image.info.pop("comment", None)  # the name of its encoder
    if icc := profile(data):
        image.info["icc_profile"] = icc
    for kind, start, end in _boxes(data):
        if kind == b"uuid" and data[start : start + 16] == EXIF_UUID:
            image.info["exif"] = data[start + 16 : end]
        elif kind == b"uuid" and data[start : start + 16] == XMP_UUID:
            image.info["xmp"] = data[start + 16 : end]
    return image


def is_cut(data: bytes) -> bool:
    """Whether the end of the codestream, or of the last box, is missing."""
    if not data.startswith(SIGNATURE):
        return not data.rstrip(b"\0").endswith(END)
    whole = False
    for kind, start, end in _boxes(data):
        if end > len(data):
            return True
        whole = whole or (kind == b"jp2c" and data.endswith(END, start, end))
    return not whole


def _colours(data: bytes) -> Iterator[tuple[int, int]]:
    """Where the boxes begin and end that tell of colours: the first counts (annex I.5.3.3)."""
    for kind, start, end in _boxes(data):
        if kind == b"jp2h":
            found = [(at, to) for inner, at, to in boxes(data, start, min(end, len(data))) if inner == b"colr"]
            yield from [(at, min(to, len(data))) for at, to in found[:1] if at < len(data)]


def _boxes(data: bytes) -> Iterator[Box]:
    """The outermost ones; none of a bare codestream."""
    return outermost(io.BytesIO(data), len(data)) if data.startswith(SIGNATURE) else iter(())
