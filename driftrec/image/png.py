"""PNG: its chunks checked and kept, 16 bits a channel read and written (Pillow shows of 16-bit colour only 8 bits).

Decoding stays Pillow's: from 16-bit samples its decoder gives the high bytes or, asked so, the low ones. Of 16-bit
grey with alpha it gives all four bytes of a pixel, taken for an 8-bit RGBA of the same width.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from driftrec.errors import BadImage, Reason
from driftrec.image import exif
from driftrec.image.picture import Chunk, Picture

SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEADER_END = 33  # bytes: signature and IHDR
PIXELS = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"acTL", b"fcTL", b"fdAT")  # what the pixels need
TEXTS = (b"tEXt", b"zTXt", b"iTXt")
COLOURS = (b"cICP", b"mDCV", b"cLLI", b"gAMA", b"cHRM", b"sRGB")  # what the colours mean, beside an ICC profile
XMP = b"XML:com.adobe.xmp\0"  # begins the iTXt chunk that holds XMP
TEXT_BYTES = 1 << 20  # of all text chunks of a file; what comes after is left out
RECORD = b"driftrec"  # keyword of the text chunk that says what was done
INCH = 0.0254  # metres
GREY_ALPHA = 4  # colour type (PNG, 3rd edition, table 9), by which also:
COLOUR_TYPES = {1: 0, 2: GREY_ALPHA, 3: 2, 4: 6}  # by number of channels
PAETH = 4  # filter type: of 16-bit photographs 5 % smaller than any other, and no larger than the best of each row
BAND = 1 << 18  # bytes that are filtered together


def size(data: bytes) -> tuple[int, int]:
    """(width, height) from the header."""
    if len(data) < HEADER_END:
        raise BadImage(Reason.truncated, "PNG ends inside its header")
    length, kind, width, height = struct.unpack_from(">I4sII", data, 8)
    if kind != b"IHDR" or length != 13 or width == 0 or height == 0:
        raise BadImage(Reason.corrupt, "PNG with a broken header")
    return width, height


def depth(data: bytes) -> int:
    """Bits a sample, of a file with a header."""
    return data[24]


def chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Type of each chunk, and where its body begins and ends: all whole, and the end chunk there, or BadImage."""
    position = len(SIGNATURE)
    while True:
        if position + 12 > len(data):
            raise BadImage(Reason.truncated, "PNG without its end chunk")
        length, kind = struct.unpack_from(">I4s", data, position)
        if not kind.isalpha() or length > 0x7FFFFFFF:
            raise BadImage(Reason.corrupt, f"PNG with a broken chunk at byte {position}")
        end = position + 8 + length
        if end + 4 > len(data):
            raise BadImage(Reason.truncated, f"PNG ends inside a chunk ({kind.decode()})")
        yield kind, position + 8, end
        if kind == b"IEND":
            return
        position = end + 4


def kept(data: bytes) -> tuple[bytes, tuple[Chunk, ...], str]:
    """(the file, the chunks of it that are kept as found, a note of what is not): colours, and texts but XMP. A chunk
    whose checksum is wrong is taken out of the file, as other decoders leave it out; if the pixels need it, the file is
    refused as `corrupt`.
    """
    view, begin = memoryview(data), 0
    sound: list[memoryview] = []
    broken: list[str] = []
    colours: dict[bytes, Chunk] = {}
    texts: list[Chunk] = []
    taken, dropped = 0, 0
    for kind, start, end in chunks(data):
        (checksum,) = struct.unpack_from(">I", data, end)
        if zlib.crc32(view[start - 4 : end]) != checksum:
            if kind in PIXELS or kind[:1].isupper():
                raise BadImage(Reason.corrupt, f"PNG with a wrong checksum ({kind.decode()} at byte {start - 8})")
            broken.append(kind.decode())
            sound.append(view[begin : start - 8])
            begin = end + 4
        elif kind in COLOURS:
            colours.setdefault(kind, (kind, data[start:end]))  # a second one is an error of the file
        elif kind not in TEXTS or data.startswith(XMP, start):
            continue
        elif taken + end - start > TEXT_BYTES:
            dropped += 1
        else:
            texts.append((kind, data[start:end]))
            taken += end - start
    notes = [f"{dropped} PNG texts beyond {TEXT_BYTES} bytes left out"] if dropped else []
    notes += [f"PNG chunks with a wrong checksum left out: {', '.join(broken)}"] if broken else []
    return b"".join([*sound, view[begin:]]) if broken else data, (*colours.values(), *texts), "; ".join(notes)


def with_all_bytes(image: PngImageFile, data: bytes) -> bool:
    """Make a 16-bit grey image with alpha decode to RGBA of its four bytes; False for every other kind."""
    if data[25] != GREY_ALPHA:
        return False
    image.tile = [tile._replace(args="RGBA") for tile in image.tile]
    return True


def low_bytes(data: bytes) -> Image.Image:
    """The lower halves of the samples of a 16-bit RGB or RGBA image, as 8-bit one."""
    image = PngImageFile(io.BytesIO(data))
    image.tile = [tile._replace(args=f"{image.mode};16L") for tile in image.tile]
    return image


def encode_16(picture: Picture, level: int) -> bytes:
    """A PNG of 16-bit samples, without metadata. level: zlib's, 0 to 9."""
    channels = picture.channels
    header = struct.pack(">IIBBBBB", picture.width, picture.height, 16, COLOUR_TYPES[channels], 0, 0, 0)
    parts = [SIGNATURE, chunk(b"IHDR", header)]
    packer = zlib.compressobj(level)
    above = np.zeros((1, 2 * picture.width * channels), np.uint8)
    step = max(1, BAND // above.size)
    for top in range(0, picture.height, step):
        rows = picture.rows(top, top + step).astype(">u2").view(np.uint8).reshape(-1, above.size)
        filtered = _filtered(np.concatenate([above, rows]), 2 * channels)
        above = rows[-1:]
        if packed := packer.compress(filtered.tobytes()):
            parts.append(chunk(b"IDAT", packed))
    return b"".join([*parts, chunk(b"IDAT", packer.flush()), chunk(b"IEND", b"")])


def _filtered(rows: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    """All rows but the first, each behind its filter type. step: bytes per pixel. (PNG, 3rd edition, 9.4)"""
    left, corner = np.zeros_like(rows[1:]), np.zeros_like(rows[1:])
    left[:, step:], corner[:, step:] = rows[1:, :-step], rows[:-1, :-step]
    a, b, c = (each.astype(np.int16) for each in (left, rows[:-1], corner))
    to_a, to_b, to_c = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
    predicted = np.where((to_a <= to_b) & (to_a <= to_c), left, np.where(to_b <= to_c, rows[:-1], corner))
    return np.concatenate([np.full((len(left), 1), PAETH, np.uint8), rows[1:] - predicted], axis=1)


def chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk with its length and checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))


def with_metadata(data: bytes, picture: Picture, record: str | None) -> bytes:
    """The same PNG (without metadata of its own) with all of the picture's, and with a record of what was done."""
    found = b"".join(chunk(*each) for each in _metadata(picture, record))
    return b"".join([data[:HEADER_END], found, memoryview(data)[HEADER_END:]])


def _metadata(picture: Picture, record: str | None) -> Iterator[Chunk]:
    for kind, body in picture.chunks:
        if kind in COLOURS and not (kind == b"sRGB" and picture.icc):  # a PNG may have one of both
            yield kind, body
    if picture.icc:
        yield b"iCCP", b"ICC profile\0\0" + zlib.compress(picture.icc)
    if picture.dpi:
        yield b"pHYs", struct.pack(">IIB", *(round(value / INCH) for value in picture.dpi), 1)
    yield from (each for each in picture.chunks if each[0] in TEXTS)
    if picture.comment:
        yield _comment(picture.comment)
    if picture.xmp:
        yield b"iTXt", XMP + b"\0\0\0\0" + picture.xmp
    if record:
        yield b"tEXt", RECORD + b"\0" + record.encode("ascii")
    if picture.exif:
        yield b"eXIf", picture.exif.removeprefix(exif.PREFIX)


def _comment(text: bytes) -> Chunk:
    """A comment whose encoding nobody told: ASCII, UTF-8, or else Latin-1."""
    text = text.rstrip(b"\0").replace(b"\0", b" ")
    try:
        international = not text.isascii() and bool(text.decode("utf-8"))
    except UnicodeDecodeError:
        international = False
    return (b"iTXt", b"Comment\0\0\0\0\0" + text) if international else (b"tEXt", b"Comment\0" + text)
