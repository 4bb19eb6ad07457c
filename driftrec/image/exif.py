"""EXIF as bytes: the orientation read and reset in place, directories walked, descriptive TIFF tags carried.

An EXIF block is a small TIFF file behind the prefix `Exif\\0\\0`. It is kept byte for byte: writing it anew
loses what the writer does not know (maker notes). Only the orientation's bytes change, and the thumbnail goes, for it
shows the damaged picture, in its old direction. Broken EXIF is never an error: its orientation is 1.
"""

import io
import struct
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

PREFIX = b"Exif\0\0"
ORIENTATION, X_RESOLUTION, Y_RESOLUTION = 0x0112, 0x011A, 0x011B  # TIFF 6.0
SIDES = (0xA002, 0xA003)  # PixelXDimension, PixelYDimension: "the valid size of the image" (EXIF 2.32, 4.6.6)
# SubjectArea and SubjectLocation: "expressed in relation to the upper left as origin, prior to rotation" (4.6.5), a
# point, of the area perhaps with a diameter or with width and height; tag and how many numbers there may be.
SUBJECT = {0x9214: (2, 3, 4), 0xA214: (2,)}
EXIF_DIRECTORY, GPS_DIRECTORY, INTEROPERABILITY = 0x8769, 0x8825, 0xA005  # EXIF 2.32, table 3

# What describes the picture and not its storage: document and page name, description, make, model, software,
# date, artist, host, rating, copyright, and Windows' title, comment, author, keywords, subject.
DESCRIPTIVE = (
    0x010D, 0x010E, 0x010F, 0x0110, 0x011D, 0x0131, 0x0132, 0x013B, 0x013C,
    0x4746, 0x4749, 0x8298, *range(0x9C9B, 0x9CA0),
)  # fmt: skip

ORDERS = {b"II*\0": "<", b"MM\0*": ">"}  # struct's sign of the byte order, by the header of a classic TIFF

# Tags of where a thumbnail's data lie and of how many bytes they are: of a JPEG, of TIFF strips (EXIF 2.32, 4.6.5).
THUMBNAIL = ((0x0201, 0x0202), (0x0111, 0x0117))

# Bytes a value, by TIFF type.
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
INTEGERS = {1: "B", 3: "H", 4: "I"}  # struct codes of the unsigned integer types
SHORT = 3


class Entry(NamedTuple):
    """One entry of a TIFF directory."""

    tag: int
    kind: int  # TIFF type
    position: int  # of the four bytes that hold the value or its offset
    end: int  # where its data ends, from the start of the TIFF


def directory(tiff: bytes | bytearray, start: int | None = None) -> Iterator[Entry]:
    """The entries of the first directory of a classic TIFF, or of the one at `start`; none without its header.

    Raises:
        struct.error: the directory is cut.
    """
    order = ORDERS.get(bytes(tiff[:4]))
    if order is None:
        return
    first: int = struct.unpack_from(order + "I", tiff, 4)[0] if start is None else start
    (count,) = struct.unpack_from(order + "H", tiff, first)
    for position in range(first + 2, first + 2 + 12 * count, 12):
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
    """The orientation, 1 to 8 (1 if there is none or a senseless one), and the same EXIF with it set to 1; where the
    sides change places, so do its two resolutions and the sides that it tells.
    """
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
    if orientation >= 5:
        _exchange(tiff, order, (X_RESOLUTION, Y_RESOLUTION), None)
        _exchange(tiff, order, SIDES, EXIF_DIRECTORY)
    return orientation, exif[: len(exif) - len(tiff)] + bytes(tiff)


def with_subject_turned(exif: bytes, orientation: int, size: tuple[int, int]) -> bytes:
    """The same EXIF, in which the subject lies where it does once the pixels are turned upright. size: width and height
    before that.
    """
    tiff = bytearray(exif.removeprefix(PREFIX))
    order = ">" if tiff.startswith(b"MM") else "<"
    try:
        start = _below(tiff, order, EXIF_DIRECTORY)
        found = [e for e in directory(tiff, start) if e.tag in SUBJECT and e.kind == SHORT] if start else []
        for entry in found:
            (count,) = struct.unpack_from(order + "I", tiff, entry.position - 4)
            if count in SUBJECT[entry.tag]:
                place, end = _place(tiff, order, entry)
                values = struct.unpack_from(f"{order}{count}H", tiff, place) if end > place else ()
                if values:
                    struct.pack_into(f"{order}{count}H", tiff, place, *_turned(values, orientation, size))
    except struct.error:
        pass
    return exif[: len(exif) - len(tiff)] + bytes(tiff)


def _turned(values: tuple[int, ...], orientation: int, size: tuple[int, int]) -> tuple[int, ...]:
    """A point, and perhaps a width and a height, in the upright picture. What lies outside comes to the edge."""
    (x, y), sides = values[:2], values[2:]
    if orientation in (2, 3, 7, 8):  # the stored right is the upright left, or top
        x = max(0, size[0] - 1 - x)
    if orientation in (3, 4, 6, 7):
        y = max(0, size[1] - 1 - y)
    moved = (y, x, *sides[::-1]) if orientation >= 5 else (x, y, *sides)
    return tuple(min(value, 0xFFFF) for value in moved)


def _below(tiff: bytearray, order: str, tag: int) -> int | None:
    """Where the directory begins that a tag of the first one leads to; None without the tag."""
    link = next((entry.position for entry in directory(tiff) if entry.tag == tag), None)
    return None if link is None else int(struct.unpack_from(order + "I", tiff, link)[0])


def _exchange(tiff: bytearray, order: str, tags: tuple[int, int], below: int | None) -> None:
    """Give each of two tags the other's value, in the first directory or in that which a tag of it leads to. Left alone
    where they are not both there and of one kind.
    """
    try:
        start = None if below is None else _below(tiff, order, below)
        if below is not None and start is None:
            return
        one, other = ({e.tag: e for e in directory(tiff, start)}.get(tag) for tag in tags)
        if one is None or other is None or one.kind != other.kind:
            return
        places = [_place(tiff, order, entry) for entry in (one, other)]
        values = [bytes(tiff[a:b]) for a, b in places]
        if len(values[0]) == len(values[1]) > 0:
            for (a, b), value in zip(places, reversed(values), strict=True):
                tiff[a:b] = value
    except struct.error:
        return


def _place(tiff: bytearray, order: str, entry: Entry) -> tuple[int, int]:
    """Where the value of an entry lies; of no bytes where that is beyond the end."""
    if entry.end == entry.position + 4:
        return entry.position, entry.end
    (start,) = struct.unpack_from(order + "I", tiff, entry.position)
    return (start, entry.end) if entry.end <= len(tiff) else (0, 0)


def without_thumbnail(exif: bytes) -> bytes:
    """The same EXIF, whose first directory has no successor: in that the thumbnail is. No other byte moves: the
    thumbnail's own are cut off where they are the last, or else set to 0.
    """
    tiff = bytearray(exif.removeprefix(PREFIX))
    order = ORDERS.get(bytes(tiff[:4]))
    if order is None:
        return exif
    try:
        (start,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, start)
        link = start + 2 + 12 * count
        (second,) = struct.unpack_from(order + "I", tiff, link)
        begin, end = _thumbnail(tiff, order, second) if second else (0, 0)
        used = [(start, link + 4), *_used(tiff, order, start, set())]
    except struct.error:
        return exif
    struct.pack_into(order + "I", tiff, link, 0)
    if begin < end and all(b <= begin or end <= a for a, b in used):
        tiff[begin:end] = b"" if end == len(tiff) else bytes(end - begin)
    return exif[: len(exif) - len(exif.removeprefix(PREFIX))] + bytes(tiff)


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


def _thumbnail(tiff: bytearray, order: str, start: int) -> tuple[int, int]:
    """Where the data of the thumbnail in this directory begin and end."""
    values = {
        entry.tag: struct.unpack_from(order + INTEGERS[entry.kind], tiff, entry.position)[0]
        for entry in directory(tiff, start)
        if entry.kind in INTEGERS and entry.end == entry.position + 4
    }
    for place, length in THUMBNAIL:
        if place in values and length in values:
            return values[place], min(values[place] + values[length], len(tiff))
    return 0, 0


def _used(tiff: bytearray, order: str, start: int, followed: set[int]) -> Iterator[tuple[int, int]]:
    """Begin and end of all that a directory and those below it hold: entries, and data outside them. Each kind of
    directory is followed once, so that a block of many cannot take long.
    """
    for entry in directory(tiff, start):
        yield entry.position - 8, entry.position + 4
        (value,) = struct.unpack_from(order + "I", tiff, entry.position)
        if entry.end != entry.position + 4:
            yield value, entry.end
        if entry.tag in (EXIF_DIRECTORY, GPS_DIRECTORY, INTEROPERABILITY) and entry.tag not in followed:
            followed.add(entry.tag)
            yield from _used(tiff, order, value, followed)
