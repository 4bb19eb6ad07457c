"""What odd files are made of, and what is known of each: an `Odd` with the truth that it was made from."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from tests.driftrec.pictures import exif_bytes, photo, png_chunk, profile, saved

ICC = profile(b"RGB ", b"".join(bytes([7 * i % 256]) * (i % 5) for i in range(1500)))  # 3 kB
GREY_ICC = profile(b"GRAY", ICC[128:])
XMP = (
    b'<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    b'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/" '
    b'tiff:Orientation="%d" dc:title="A title"/></rdf:RDF></x:xmpmeta>\n<?xpacket end="w"?>'
)

PHOTO = photo()
GREY = PHOTO[..., 0].copy()
ALPHA = PHOTO[..., 1].copy()
DEEP = PHOTO.astype(np.uint16) * 200 + np.arange(53, dtype=np.uint16)[:, None] * 97  # its low bytes matter
DEEP_ALPHA = DEEP[..., 2].copy()

RGB = Image.fromarray(PHOTO)
GREY_IMAGE = Image.fromarray(GREY)
RGBA = Image.fromarray(np.dstack([PHOTO, ALPHA]))
LA = Image.fromarray(np.dstack([GREY, ALPHA]))
PALETTE = RGB.quantize(9)
PALETTE_RGB = np.array(PALETTE.convert("RGB"))


ANY = b"any"  # EXIF that its writer arranges as it likes: a maker, and upright


@dataclass(frozen=True)
class Odd:
    """One file, and its documented outcome."""

    name: str
    row: str  # of the table in docs/explanation/formats.md
    data: bytes
    reason: str = ""  # why it is refused; empty if it is read
    words: str = ""  # in the refusal's detail, or the note; none means no note
    mode: str = "RGB"
    rgb: np.ndarray | None = None  # (H, W, 3) or (H, W), upright: the truth
    within: int = 0  # levels by which the pixels may differ from the truth
    alpha: np.ndarray | None = None
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    comment: bytes | None = None
    texts: int = 0  # PNG texts that are kept


def png(pixels: np.ndarray, colour: int, bits: int = 8, *chunks: bytes, laced: bool = False) -> bytes:
    """A PNG by the book: all five filters in turn, interlaced if asked so, chunks between header and data."""
    height, width = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, laced)
    passes = [(0, 0, 1, 1)]
    if laced:  # PNG, 3rd edition, 8.1
        passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    parts = [pixels[top::down, left::across] for top, left, down, across in passes]
    rows = b"".join(_filtered(part, bits) for part in parts if part.size)
    half = len(rows) // 2
    packer = zlib.compressobj(6)
    packed = [packer.compress(rows[:half]), packer.compress(rows[half:]) + packer.flush()]
    data = b"".join(png_chunk(b"IDAT", part) for part in packed)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + b"".join(chunks) + data + png_chunk(b"IEND", b"")


def _filtered(pixels: np.ndarray, bits: int) -> bytes:
    """Rows with their filter types: 0 to 4 in turn."""
    samples = pixels.reshape(*pixels.shape[:2], -1)
    if bits < 8:
        spread = np.unpackbits(samples.astype(np.uint8)[..., None], axis=3)[..., 8 - bits :]
        rows = np.packbits(spread.reshape(len(samples), -1), axis=1)
    else:
        rows = np.ascontiguousarray(samples.astype(">u2" if bits == 16 else np.uint8)).view(np.uint8)
        rows = rows.reshape(len(samples), -1)
    step = max(1, samples.shape[2] * bits // 8)
    above, out = [0] * rows.shape[1], bytearray()
    for number, row in enumerate(rows.tolist()):
        kind = number % 5
        out.append(kind)
        for i, value in enumerate(row):
            a, b = row[i - step] if i >= step else 0, above[i]
            c = above[i - step] if i >= step else 0
            guess = min((abs(b - c), 0, a), (abs(a - c), 1, b), (abs(a + b - 2 * c), 2, c))[2]
            out.append((value - (0, a, b, (a + b) // 2, guess)[kind]) % 256)
        above = row
    return bytes(out)


def tiff(pixels: np.ndarray, tags: dict[int, Any] | None = None, order: str = "<", strips: int = 1) -> bytes:
    """An uncompressed TIFF, its pixels in so many strips; with further tags, or other values of those it needs. None
    leaves one out.
    """
    height, width = pixels.shape[:2]
    rows = -(-height // strips)
    raw = pixels.astype(pixels.dtype.newbyteorder(order))
    parts = [raw[top : top + rows].tobytes() for top in range(0, height, rows)]
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    found = {256: width, 257: height, 258: (8 * pixels.itemsize,) * channels, 259: 1, 262: 1 if channels < 3 else 2}
    sizes = tuple(len(part) for part in parts)
    found |= {277: channels, 278: rows, 279: sizes, 273: tuple(sum(sizes[:i]) for i in range(len(sizes)))}
    return directory(found | (tags or {}), order) + b"".join(parts)


def directory(tags: dict[int, Any], order: str = "<") -> bytes:
    """A TIFF's header and directory; strips are to follow, and their offsets count from its end."""
    made = ImageFileDirectory_v2(b"II*\0\x08\0\0\0" if order == "<" else b"MM\0*\0\0\0\x08")
    for tag, value in tags.items():
        if value is not None:
            made[tag] = value
    out = io.BytesIO()
    made.save(out)
    return out.getvalue()


def lzw(data: bytes) -> bytes:
    """TIFF's LZW without its point: a table that is cleared before it is used."""
    codes = [256]
    for i, value in enumerate(data, 1):
        codes += [value, 256] if i % 250 == 0 else [value]
    bits = "".join(f"{code:09b}" for code in [*codes, 257])
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def cmyk_jpeg(cmyk: np.ndarray, transform: int = 0, **options: Any) -> bytes:
    """A JPEG of four components as Photoshop writes it: inverted; transform 2: YCCK."""
    values = cmyk.astype(float)
    if transform == 2:  # of C, M, Y taken for red, green, blue
        ycc = values[..., :3] @ np.array(
            [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
        ).T + (0, 128, 128)
        values[..., :3] = 255 - ycc  # Pillow writes the inverse of what it is given
    image = Image.fromarray(values.round().clip(0, 255).astype(np.uint8), "CMYK")
    data = saved(image, "JPEG", quality=100, **options)
    at = data.index(b"Adobe\0d\0\0\0\0") + 11
    assert data[at] == 0
    return data[:at] + bytes([transform]) + data[at + 1 :]


def exif_with_thumbnail(orientation: int) -> tuple[bytes, bytes, bytes]:
    """EXIF with a thumbnail at its end, the same without, and the thumbnail."""
    thumbnail = saved(Image.fromarray(PHOTO[:8, :12]), "JPEG")
    results = []
    for turn, second in ((orientation, True), (1, False)):
        block = bytearray(exif_bytes(turn))
        block += bytes(len(block) % 2)
        order = "<" if block[6:8] == b"II" else ">"
        (count,) = struct.unpack_from(order + "H", block, 6 + 8)
        link = 6 + 8 + 2 + 12 * count
        at = len(block) - 6
        struct.pack_into(order + "I", block, link, at if second else 0)
        block += struct.pack(order + "H", 3) + struct.pack(order + "HHIHH", 0x0103, 3, 1, 6, 0)
        block += struct.pack(order + "HHII", 0x0201, 4, 1, at + 2 + 36 + 4)
        block += struct.pack(order + "HHII", 0x0202, 4, 1, len(thumbnail)) + bytes(4)
        results.append(bytes(block) + (thumbnail if second else b""))
    return results[0], results[1], thumbnail
