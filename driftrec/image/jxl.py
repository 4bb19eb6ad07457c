"""JPEG XL files: how large and deep, whether whole, the JPEG that one may hold. Looks at boxes and the header (ISO/IEC
18181-1, annex D; 18181-2); the optional package pillow-jxl-plugin decodes.
"""

from __future__ import annotations

import importlib
import io
from dataclasses import dataclass
from typing import Any

from PIL import Image

from driftrec.errors import BadImage, Reason
from driftrec.image import exif, xmp
from driftrec.image.isobmff import end, has_box, outermost

SIGNATURE = b"\0\0\0\x0cJXL \r\n\x87\n"  # of a file of boxes
CODESTREAM = b"\xff\x0a"
HEADER = 64  # bytes that are more than a header takes
JPEG_BOX = b"jbrd"  # what it takes to write the JPEG again from which the file was made
RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))  # width to height
WITH_JPEG = "a JPEG within JPEG XL"

Kinds = tuple[tuple[int, int], ...]  # of a number: by two bits, how many more follow and what is added to them
SIDE = ((9, 1), (13, 1), (18, 1), (30, 1))
EIGHTS = ((5, 1),)
PREVIEW_EIGHTS = ((0, 16), (0, 32), (5, 1), (9, 33))
PREVIEW_SIDE = ((6, 1), (8, 65), (10, 321), (12, 1345))
DEPTH = ((0, 8), (0, 10), (0, 12), (6, 1))
FLOAT_DEPTH = ((0, 32), (0, 16), (0, 24), (6, 1))


@dataclass(frozen=True)
class Header:
    """What the beginning of a codestream says."""

    width: int  # of the picture upright
    height: int
    depth: int = 8  # bits a channel
    floating: bool = False
    moving: bool = False


class _Bits:
    """Numbers of a codestream, lowest bits first."""

    def __init__(self, data: bytes) -> None:
        self.number, self.left = int.from_bytes(data, "little"), 8 * len(data)

    def take(self, count: int) -> int:
        """The next bits. Raises BadImage where there are no more."""
        self.left -= count
        if self.left < 0:
            raise BadImage(Reason.truncated, "JPEG XL that ends inside its header")
        found = self.number & ((1 << count) - 1)
        self.number >>= count
        return found

    def one_of(self, kinds: Kinds) -> int:
        """A number of one of four lengths; of one kind only, that one without a choice."""
        bits, least = kinds[self.take(2) if len(kinds) > 1 else 0]
        return self.take(bits) + least

    def sides(self, in_eights: Kinds, plain: Kinds) -> tuple[int, int]:
        """(width, height)."""
        kinds, unit = (in_eights, 8) if self.take(1) else (plain, 1)
        height, ratio = unit * self.one_of(kinds), self.take(3)
        if ratio:
            across, down = RATIOS[ratio - 1]
            return height * across // down, height
        return unit * self.one_of(kinds), height


def header(data: bytes) -> Header:
    """From the beginning of a file. Raises BadImage `truncated` where that is too short to tell."""
    bits = _Bits(_codestream(data)[len(CODESTREAM) :])
    width, height = bits.sides(EIGHTS, SIDE)
    if bits.take(1):  # all as it mostly is
        return Header(width, height)
    moving = False
    if bits.take(1):
        if bits.take(3) >= 4:  # lies on its side; decoders turn it
            width, height = height, width
        if bits.take(1):  # a size on the screen
            bits.sides(EIGHTS, SIDE)
        if bits.take(1):
            bits.sides(PREVIEW_EIGHTS, PREVIEW_SIDE)
        moving = bool(bits.take(1))
        if moving:
            bits.one_of(((0, 100), (0, 1000), (10, 1), (30, 1)))
            bits.one_of(((0, 1), (0, 1001), (8, 1), (10, 1)))
            bits.one_of(((0, 0), (3, 0), (16, 0), (32, 0)))
            bits.take(1)
    floating = bool(bits.take(1))
    return Header(width, height, bits.one_of(FLOAT_DEPTH if floating else DEPTH), floating, moving)


def check(data: bytes) -> None:
    """Refuse what 8 bits would lose. Raises BadImage `unsupported`."""
    found = header(data)
    if found.floating or found.depth > 8:
        kind = "floating numbers" if found.floating else f"{found.depth} bits a channel"
        raise BadImage(Reason.unsupported, f"JPEG XL of {kind}: 8 bits would lose some; convert it to a 16-bit PNG")


def jpeg_within(data: bytes) -> bytes | None:
    """The JPEG file from which a JPEG XL file was made without loss, byte for byte; None where there is none.

    Raises BadImage `unsupported` without the decoder; `truncated` or `corrupt`.
    """
    if not data.startswith(SIGNATURE) or not has_box(data, JPEG_BOX):
        return None
    is_jpeg, _, found, *_ = _decoded(data)
    return bytes(found) if is_jpeg else None


def opened(file: io.BytesIO) -> Image.Image:
    """The picture, decoded and upright, with what lies in boxes beside it."""
    data = file.getvalue()
    _, about, pixels, icc, beside = _decoded(data)
    image = Image.frombytes(about.mode, (about.width, about.height), bytes(pixels))
    if icc:
        image.info["icc_profile"] = bytes(icc)
    for box in beside:
        kind, content = bytes(box.box_type), bytes(box.data)
        if kind == b"Exif" and (block := exif_block(content)):
            image.info["exif"] = exif.upright(block)[1]  # the codestream's orientation counts
        elif kind == b"xml ":
            image.info["xmp"] = xmp.upright(content)
    return image


def exif_block(body: bytes) -> bytes:
    """EXIF with its prefix, from the body of its box, where it stands behind an offset; b"" for none."""
    block = body[4 + int.from_bytes(body[:4], "big") :]
    return exif.PREFIX + block if block else b""


def is_cut(data: bytes) -> bool:
    """Whether the last box ends behind the end of the file. A bare codestream does not tell."""
    return data.startswith(SIGNATURE) and end(io.BytesIO(data), len(data)) > len(data)


def _codestream(data: bytes) -> bytes:
    """Its beginning, as much as a header may take; joined where the file has it in parts."""
    found = b"" if data.startswith(SIGNATURE) else data[:HEADER]
    if not found:
        for kind, start, stop in outermost(io.BytesIO(data), len(data)):
            if kind in (b"jxlc", b"jxlp") and len(found) < HEADER:
                found += data[start + 4 * (kind == b"jxlp") : min(stop, start + 2 * HEADER)]  # a part has a number
    if len(found) < len(CODESTREAM):
        raise BadImage(Reason.truncated, "JPEG XL without a picture")
    if not found.startswith(CODESTREAM):
        raise BadImage(Reason.corrupt, "JPEG XL whose picture does not begin as one")
    return found


def _decoded(data: bytes) -> Any:
    """(whether it is a JPEG, what is known of the picture, its bytes, its profile, boxes)."""
    try:
        decoder = importlib.import_module("pillow_jxl").Decoder(num_threads=0)
    except ImportError:
        detail = "JPEG XL needs a package (pip install pillow-jxl-plugin): install it, or convert to PNG"
        raise BadImage(Reason.unsupported, detail) from None
    try:
        return decoder(data)
    except RuntimeError:  # it does not say of what
        reason = Reason.truncated if is_cut(data) else Reason.corrupt
        raise BadImage(reason, "JPEG XL that is broken, or ends too early") from None
