"""AVIF and HEIC files: which of both, how deep, whether whole, and who decodes them. Looks at boxes (ISO 14496-12)."""

from __future__ import annotations

import importlib
import io
import struct
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from PIL import ImageFile, features

from driftrec.errors import BadImage, Reason

# Brands of a file, the first of which tells what it is; mif1 and msf1 leave it to the others (ISO 23008-12).
AVIF_BRANDS = {b"avif", b"avis"}
HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
NEUTRAL_BRANDS = {b"mif1", b"mif2", b"msf1", b"miaf"}
MOST_BOXES = 10_000  # of a file, that are looked at
Box = tuple[bytes, int, int]  # type, and where its content begins and ends


def identify(data: bytes) -> str | None:
    """AVIF, HEIC, or None for neither."""
    if data[4:8] != b"ftyp":
        return None
    size = min(int.from_bytes(data[:4], "big"), 1024)
    brands = [data[8:12], *(data[at : at + 4] for at in range(16, size, 4))]
    if brands[0] in NEUTRAL_BRANDS:
        brands = [brand for brand in brands if brand in AVIF_BRANDS | HEIC_BRANDS] or [b"heic"]
    return "AVIF" if brands[0] in AVIF_BRANDS else "HEIC" if brands[0] in HEIC_BRANDS else None


def avif(data: io.BytesIO) -> ImageFile.ImageFile:
    """Pillow's plugin, where it is built with one (from 11.3 on)."""
    if not features.check("avif"):
        raise BadImage(Reason.unsupported, "this Pillow reads no AVIF: update it, or convert the file to PNG")
    return importlib.import_module("PIL.AvifImagePlugin").AvifImageFile(data)


def heic(data: io.BytesIO) -> ImageFile.ImageFile:
    """The plugin of the optional package pillow-heif."""
    try:
        plugin: Callable[[Any], ImageFile.ImageFile] = importlib.import_module("pillow_heif").HeifImageFile
    except ImportError:
        detail = "HEIC needs a package (pip install pillow-heif): install it, or convert to PNG"
        raise BadImage(Reason.unsupported, detail) from None
    return plugin(data)


def has_box(data: bytes, kind: bytes) -> bool:
    """Whether the file itself has a box of this type (ISO 14496-12, 4.2)."""
    return any(found == kind for found, _, _ in outermost(io.BytesIO(data), len(data)))


def check_depth(data: bytes, name: str) -> None:
    """Refuse samples of more than 8 bits, of which the decoders would show 8."""
    found = depth(data)
    if found > 8:
        detail = f"{name} of {found} bits a channel: 8 would lose some of them; convert it to a 16-bit PNG"
        raise BadImage(Reason.unsupported, detail)


def size(data: bytes) -> tuple[int, int]:
    """(width, height) of the largest picture described, cropped to its clean aperture but not turned; (0, 0) for none.

    The beginning of a file is enough, as far as its descriptions reach (ISO 23008-12, 6.5.3; ISO 14496-12, 12.1.4).
    """
    whole, clean = list[tuple[int, int]](), list[tuple[int, int]]()
    for kind, start, end in _properties(data):
        if kind == b"ispe" and start + 12 <= end:
            whole.append(struct.unpack_from(">II", data, start + 4))
        elif kind == b"clap" and start + 16 <= end:
            width, of_width, height, of_height = struct.unpack_from(">4I", data, start)
            clean.append((width // max(1, of_width), height // max(1, of_height)))
    return max(clean or whole, key=lambda sides: sides[0] * sides[1], default=(0, 0))


def depth(data: bytes) -> int:
    """Bits a sample, the most of all pictures described; 8 where none is told."""
    return max((_bits(kind, data[start:end]) for kind, start, end in _properties(data)), default=0) or 8


def has_profile(data: bytes) -> bool:
    """Whether an ICC profile is described (ISO 14496-12, 12.1.5)."""
    colours = (data[start : start + 4] for kind, start, _ in _properties(data) if kind == b"colr")
    return any(colour in (b"prof", b"rICC") for colour in colours)


def is_cut(data: bytes) -> bool:
    """Whether the last box reaches beyond the end of the file."""
    return max((end for _, _, end in boxes(data, 0, len(data))), default=0) != len(data)


def end(file: BinaryIO, size: int) -> int:
    """Where the last box of a file of so many bytes is told to end."""
    return max((end for _, _, end in outermost(file, size)), default=0)


def outermost(file: BinaryIO, size: int) -> Iterator[Box]:
    """The boxes of a file of so many bytes; only their headers are read. The last may be told to end behind it."""
    position = 0
    for _ in range(MOST_BOXES):
        if position + 8 > size:
            return
        file.seek(position)
        head = file.read(16)
        length, kind = struct.unpack_from(">I4s", head)
        start = position + 8
        if length == 1 and len(head) == 16:
            (length,), start = struct.unpack_from(">Q", head, 8), position + 16
        elif length == 0:
            length = size - position
        if length < start - position:
            return
        yield kind, start, position + length
        position += length


def _bits(kind: bytes, body: bytes) -> int:
    """Bits a sample by a decoder's configuration (AV1-ISOBMFF 2.3.3, ISO 14496-15 8.3.2.1); 0 for other boxes."""
    if kind == b"av1C" and len(body) >= 3:
        return 8 + 2 * (body[2] >> 6 & 1) + 2 * (body[2] >> 5 & 1)
    if kind == b"hvcC" and len(body) >= 18:
        return 8 + (body[17] & 7)
    return 0


def _properties(data: bytes) -> Iterator[Box]:
    """The boxes in which the items of a file are described: meta / iprp / ipco."""
    for meta in _inside(data, 0, len(data), b"meta"):
        for iprp in _inside(data, meta[1] + 4, meta[2], b"iprp"):  # behind version and flags
            for ipco in _inside(data, *iprp[1:], b"ipco"):
                yield from _inside(data, *ipco[1:])


def _inside(data: bytes, start: int, end: int, wanted: bytes | None = None) -> Iterator[Box]:
    """The boxes (of one type) in a range of bytes, cut off where the range ends."""
    for kind, begin, close in boxes(data, start, end):
        if wanted in (None, kind):
            yield kind, begin, min(close, end)


def boxes(data: bytes, start: int, end: int) -> Iterator[Box]:
    """The boxes in a range of bytes. The last may be told to end behind it."""
    while start + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, start)
        head = 8
        if size == 1 and start + 16 <= end:
            (size,) = struct.unpack_from(">Q", data, start + 8)
            head = 16
        elif size == 0:
            size = end - start
        if size < head:
            return
        yield kind, start + head, start + size
        start += size
