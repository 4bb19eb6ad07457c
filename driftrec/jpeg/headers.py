"""What a JPEG file says of itself without being decoded: quantisation tables, quality, subsampling, segments."""

import struct
from dataclasses import dataclass

import numpy as np

from driftrec.errors import BadImage, Reason

Table = tuple[int, ...]  # 64 quantisation steps in row order (DC first), not in zigzag order
# Names of the (horizontal, vertical) ratio of luma to chroma samples.
RATIOS = {
    (1, 1): "4:4:4",
    (2, 1): "4:2:2",
    (2, 2): "4:2:0",
    (1, 2): "4:4:0",
    (4, 1): "4:1:1",
    (4, 2): "4:1:0",
}

# ITU-T T.81, tables K.1 and K.2: the tables of quality 50, from which libjpeg derives all others.
LUMA_50 = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55,
    14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62,
    18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
CHROMA_50 = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99,
    24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99, 99, 99, 99,
    *[99] * 32,
)  # fmt: skip

# Position in zigzag order -> position in row order: along each antidiagonal, upwards on the even ones.
ZIGZAG = sorted(range(64), key=lambda i: (i // 8 + i % 8, i % 8 if (i // 8 + i % 8) % 2 == 0 else i // 8))

FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF markers: a frame header
PROGRESSIVE_FRAMES = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xD9)})  # TEM, RSTn, SOI: no length follows


@dataclass(frozen=True)
class JpegInfo:
    """What the headers of a JPEG file say."""

    width: int  # pixels, as stored (EXIF orientation not applied)
    height: int  # pixels; 0 where the file tells it only after the first scan
    components: int  # 1 grey, 3 colour, 4 CMYK or YCCK
    precision: int  # bits a sample: 8, rarely 12
    progressive: bool
    subsampling: str  # "4:2:0" ...; "4:0:0" for grey; the factors ("2x1,1x2,1x1") where no such name exists
    tables: tuple[Table, ...]  # one quantisation table a component; empty for lossless JPEG
    quality: int | None  # libjpeg quality, 1 to 100, of these tables or the nearest luma table; None without
    exact: bool  # whether all the tables are those of `quality`


def standard_tables(quality: int, limit: int = 255) -> tuple[Table, Table]:
    """Luma and chroma table of a libjpeg quality, 1 to 100 (jcparam.c: jpeg_quality_scaling, jpeg_add_quant_table).

    The largest step is 255, or 32767 in files that are not baseline JPEG (cjpeg at low quality).
    """
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    luma, chroma = (
        tuple(min(max((step * scale + 50) // 100, 1), limit) for step in base) for base in (LUMA_50, CHROMA_50)
    )
    return luma, chroma


# Root mean square of x0 - y, pixels in [0, 1]: means over the training photographs, 4:2:0.
QUALITIES = (5, 10, 20, 30, 50, 70, 80, 90, 95, 100)
DAMAGE = (0.056, 0.039, 0.029, 0.025, 0.021, 0.017, 0.0147, 0.0109, 0.0083, 0.0057)

# Luma table -> (quality, chroma table). All luma tables differ.
STANDARD = {
    luma: (quality, chroma)
    for limit in (32_767, 255)
    for quality in range(1, 101)
    for luma, chroma in [standard_tables(quality, limit)]
}
LOG_LUMA = np.log([standard_tables(quality)[0] for quality in range(1, 101)])  # (100, 64)


def damage(quality: float) -> float:
    """Expected root mean square of clean - JPEG, pixels in [0, 1], of a libjpeg quality, 1 to 100."""
    return float(np.interp(quality, QUALITIES, DAMAGE))


def estimate_quality(tables: tuple[Table, ...]) -> tuple[int | None, bool]:
    """The libjpeg quality of quantisation tables, one a component, and whether all of them are its tables.

    Foreign tables get the quality whose luma table is nearest in mean absolute log ratio: a table twice as
    coarse is as far away as one half as coarse.
    """
    if not tables:
        return None, False
    luma = tables[0]
    if luma not in STANDARD:
        distance = np.abs(LOG_LUMA - np.log(np.maximum(luma, 1))).mean(axis=1)
        return int(distance.argmin()) + 1, False
    quality, chroma = STANDARD[luma]
    usual = (luma, chroma, chroma, luma)[: len(tables)]  # Y, Cb, Cr, K
    return quality, tables in (usual, (luma,) * len(tables))  # one table for all: RGB and CMYK


def inspect(data: bytes) -> JpegInfo:
    """Read the headers of a JPEG up to its first scan; nothing is decoded.

    Args:
        data: the file, or enough of its beginning to hold the headers.

    Raises:
        BadImage: `not_an_image` if it does not begin as a JPEG, `truncated` if it ends before the first scan,
            `corrupt` if a scan or the end of the image comes before any frame header.
    """
    return info_of(segments(data)[0])


def info_of(found: list[tuple[int, bytes]]) -> JpegInfo:
    """What these segments say. Raises BadImage `corrupt`, as `inspect`."""
    tables: dict[int, Table] = {}
    frame_marker, frame = 0, b""
    for marker, body in found:
        if marker == 0xDB:
            tables |= _quantisation_tables(body)
        elif marker in FRAMES:
            frame_marker, frame = marker, body
    if len(frame) < 6 or len(frame) < 6 + 3 * frame[5] or frame[5] == 0:
        raise BadImage(Reason.corrupt, "JPEG without a whole frame header before its first scan")
    precision, height, width, components = struct.unpack(">BHHB", frame[:6])
    layers = [frame[6 + 3 * i : 9 + 3 * i] for i in range(components)]
    used = tuple(tables[layer[2]] for layer in layers if layer[2] in tables)
    used = used if len(used) == components else ()  # one missing: nothing can be said of the whole
    quality, exact = estimate_quality(used)
    return JpegInfo(
        width=width,
        height=height,
        components=components,
        precision=precision,
        progressive=frame_marker in PROGRESSIVE_FRAMES,
        subsampling=_subsampling([(layer[1] >> 4, layer[1] & 15) for layer in layers]),
        tables=used,
        quality=quality,
        exact=exact,
    )


def segments(data: bytes) -> tuple[list[tuple[int, bytes]], int]:
    """(marker, body) of the segments before the first scan, and at which byte that begins; like libjpeg, skips junk
    between two segments. Raises BadImage `not_an_image`, `truncated`, as `inspect`.
    """
    if not data.startswith(b"\xff\xd8\xff"):
        raise BadImage(Reason.not_an_image, "does not begin with a JPEG marker")
    found: list[tuple[int, bytes]] = []
    position = 2
    while True:
        position = data.find(b"\xff", position)
        if position < 0 or position + 2 > len(data):
            raise BadImage(Reason.truncated, "JPEG ends inside its headers")
        marker = data[position + 1]
        if marker in (0xDA, 0xD9):  # start of scan, end of image
            return found, position
        if marker == 0xFF:  # fill byte
            position += 1
        elif marker == 0 or marker in BARE_MARKERS:
            position += 2
        else:
            end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
            if end > len(data) or position + 4 > len(data):
                raise BadImage(Reason.truncated, "JPEG ends inside its headers")
            found.append((marker, data[position + 4 : end]))
            position = max(end, position + 4)


def _quantisation_tables(body: bytes) -> dict[int, Table]:
    """The tables of one DQT segment, by their number."""
    tables: dict[int, Table] = {}
    while body:
        width = 2 if body[0] >> 4 else 1  # bytes per step
        if len(body) < 1 + 64 * width:
            raise BadImage(Reason.corrupt, "JPEG with an incomplete quantisation table")
        steps = struct.unpack(f">64{'H' if width == 2 else 'B'}", body[1 : 1 + 64 * width])
        table = [0] * 64
        for step, place in zip(steps, ZIGZAG, strict=True):
            table[place] = step
        tables[body[0] & 15] = tuple(table)
        body = body[1 + 64 * width :]
    return tables


def _subsampling(factors: list[tuple[int, int]]) -> str:
    """The usual name of (horizontal, vertical) sampling factors, one pair a component."""
    if len(factors) == 1:
        return "4:0:0"
    (h, v), chroma = factors[0], set(factors[1:3])
    if len(factors) >= 3 and len(chroma) == 1 and all(f == (h, v) for f in factors[3:]):
        ((ch, cv),) = chroma
        for ratio, name in RATIOS.items():
            if (h, v) == (ratio[0] * ch, ratio[1] * cv):
                return name
    return ",".join(f"{h}x{v}" for h, v in factors)
