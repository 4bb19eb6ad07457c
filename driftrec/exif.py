"""EXIF as bytes: the orientation read and reset in place, directories walked, descriptive TIFF tags carried.

An EXIF block is a small TIFF file behind the prefix `Exif\\0\\0`. It is kept byte for byte: writing it anew
loses what the writer does not know (maker notes, the thumbnail): only the orientation's bytes change.
Broken EXIF is never an error: its orientation is 1.
"""

import io
import struct
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

PREFIX = b"Exif\0\0"
ORIENTATION, X_RESOLUTION = 0x0112, 0x011A  # TIFF 6.0
EXIF_DIRECTORY, GPS_DIRECTORY, INTEROPERABILITY = 0x8769, 0x8825, 0xA005  # EXIF 2.32, table 3

# What describes the picture and not its storage: document and page name, description, make, model, software,
# date, artist, host, rating, copyright, and Windows' title, comment, author, keywords, subject.
DESCRIPTIVE = (
    0x010D, 0x010E, 0x010F, 0x0110, 0x011D, 0x0131, 0x0132, 0x013B, 0x013C,
    0x4746, 0x4749, 0x8298, *range(0x9C9B, 0x9CA0),
)  # fmt: skip

# Bytes a value, by TIFF type.
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
INTEGERS = {1: "B", 3: "H", 4: "I"}  # struct codes of the unsigned integer types


class Entry(NamedTuple):
    """One entry of a TIFF directory."""

    tag: int
    kind: int  # TIFF type
    position: int  # of the four bytes that hold the value or its offset
    end: int  # where its data ends, from the start of the TIFF


def directory(tiff: bytes) -> Iterator[Entry]:
    """The entries of the first directory of a classic TIFF; none without its header.

    Raises:
        struct.error: the directory is cut.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return
    (start,) = struct.unpack_from(order + "I", tiff, 4)
    (count,) = struct.unpack_from(order + "H", tiff, start)
    for position in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, values, offset = struct.unpack_from(order + "HHII", tiff, position)
        size = SIZES.get(kind, 1) * values
        yield Entry(tag, kind, position + 8, position + 12 if size <= 4 else offset + size)


def has_tag(exif: bytes | None, tag: int) -> bool:
    """Whether the first directory of an EXIF block holds the tag."""
    try:
        return any(entry.tag == tag for entry in directory((exif or b"").removeprefix(PREFIX)))
    except struct.error:
        return False


def upright(exif: bytes) -> tuple[int, bytes]:
    """The orientation, 1 to 8 (1 if there is none or a senseless one), and the same EXIF with it set to 1."""
    tiff = bytearray(exif.removeprefix(PREFIX))
    order = ">" if tiff.startswith(b"MM") else "<"
    try:
        entries = [e for e in directory(bytes(tiff)) if e.tag == ORIENTATION and e.kind in INTEGERS]
    except struct.error:
        entries = []
    if not entries:
        return 1, exif
    entry = entries[0]
    code = order + INTEGERS[entry.kind]
    (orientation,) = struct.unpack_from(code, tiff, entry.position)
    if not 2 <= orientation <= 8:
        return 1, exif
    struct.pack_into(code, tiff, entry.position, 1)
    return orientation, exif[: len(exif) - len(tiff)] + bytes(tiff)


def parse(exif: bytes) -> dict[int, Any]:
    """The descriptive tags of an EXIF block. Raises whatever Pillow raises on broken ones."""
    found = Image.Exif()
    found.load(exif)
    return descriptive(found)


def descriptive(found: Image.Exif) -> dict[int, Any]:
    """The tags that describe the picture (text, camera settings, position) and not its storage.

    Text stays bytes: Pillow reads it as Latin-1, and would write question marks for what is not ASCII.
    """
    kept: dict[int, Any] = {tag: found[tag] for tag in DESCRIPTIVE if tag in found}
    kept = {tag: v.encode("latin-1", "replace") if isinstance(v, str) else v for tag, v in kept.items()}
    for tag in (EXIF_DIRECTORY, GPS_DIRECTORY):
        nested = dict(found.get_ifd(tag))
        nested.pop(INTEROPERABILITY, None)  # an offset into the old file
        if nested:
            kept[tag] = nested
    return kept


def block(tags: Mapping[int, Any]) -> bytes | None:
    """An EXIF block of such tags; None if there are none."""
    if not tags:
        return None
    written = ImageFileDirectory_v2()
    for tag, value in tags.items():
        written[tag] = value
    out = io.BytesIO()
    written.save(out)
    return PREFIX + out.getvalue()
