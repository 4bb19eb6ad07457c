"""A JPEG encoder that writes what others do: any sampling, scans of one component or of many, spectral selection,
restart markers, tables of 16 bits, edges filled in another way. Plain and slow; codes are not optimal.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from scipy.fft import dctn

from driftrec.jpeg.headers import ZIGZAG, standard_tables

YCC = np.array([[0.299, 0.587, 0.114], [-0.168735892, -0.331264108, 0.5], [0.5, -0.418687589, -0.081312411]])
Scan = tuple[tuple[int, ...], int, int]  # components, first and last coefficient

BASELINE: list[Scan] = [((0, 1, 2), 0, 63)]
SCRIPTS: dict[str, list[Scan]] = {
    "baseline": BASELINE,
    "baseline, one a scan": [((0,), 0, 63), ((1,), 0, 63), ((2,), 0, 63)],
    "baseline, luma alone": [((0,), 0, 63), ((1, 2), 0, 63)],
    "progressive": [((0, 1, 2), 0, 0), ((0,), 1, 63), ((1,), 1, 63), ((2,), 1, 63)],
    "progressive, by bands": [((0, 1, 2), 0, 0), ((0,), 1, 5), ((2,), 1, 63), ((1,), 1, 63), ((0,), 6, 63)],
    "progressive, one a scan": [((c,), *band) for c in range(3) for band in ((0, 0), (1, 9), (10, 63))],
}


@dataclass(frozen=True)
class Made:
    """A file, and the quantised levels in it: of each component (rows, columns, 8, 8), whole MCUs."""

    data: bytes
    levels: list[np.ndarray]


def encode(
    image: np.ndarray,
    quality: int,
    factors: tuple[int, int] = (1, 1),
    script: Sequence[Scan] = BASELINE,
    restart: int = 0,
    wide_tables: bool = False,
    edge: str = "edge",
) -> Made:
    """A JPEG file.

    Args:
        image: (H, W, 3) or, for grey, (H, W) uint8.
        quality: of libjpeg's tables.
        factors: luma samples a chroma sample, down and across.
        script: the scans; grey has those of component 0 alone.
        restart: MCUs between two restart markers; 0 for none.
        wide_tables: steps in 16 bits, and more than 255 where the quality asks for it.
        edge: how samples beyond the picture are filled: a mode of np.pad.
    """
    grey = image.ndim == 2
    (dy, dx) = (1, 1) if grey else factors
    height, width = image.shape[:2]
    rest = ((0, -height % (8 * dy)), (0, -width % (8 * dx)))
    planes = [image.astype(float)] if grey else list(np.moveaxis(image @ YCC.T, 2, 0))
    planes = [np.pad(plane, rest, mode=edge) for plane in planes]
    tables = [np.reshape(table, (8, 8)) for table in standard_tables(quality, 32_767 if wide_tables else 255)]
    levels = []
    for i, plane in enumerate(planes):
        if i:
            plane = plane.reshape(len(plane) // dy, dy, -1, dx).mean(axis=(1, 3))
        blocks = (plane - (0 if i else 128)).reshape(len(plane) // 8, 8, -1, 8).swapaxes(1, 2)
        levels.append(np.round(dctn(blocks, axes=(2, 3), norm="ortho") / tables[i > 0]).astype(int))
    sampling = [(dx, dy)] + [(1, 1)] * (len(planes) - 1)
    if grey:
        script = [((0,), first, last) for components, first, last in script if 0 in components]
    return Made(_file(levels, (height, width), sampling, tables, script, restart, wide_tables), levels)


def _file(
    levels: list[np.ndarray],
    size: tuple[int, int],
    sampling: list[tuple[int, int]],
    tables: list[np.ndarray],
    script: Sequence[Scan],
    restart: int,
    wide: bool,
) -> bytes:
    baseline = all((first, last) == (0, 63) for _, first, last in script)
    kind = (0xC1 if wide else 0xC0) if baseline else 0xC2
    out = b"\xff\xd8"
    for number, table in enumerate(tables[: 1 if len(levels) == 1 else 2]):
        steps = table.ravel()[ZIGZAG]
        body = struct.pack(">64H" if wide else "64B", *steps)
        out += _segment(0xDB, bytes([(16 if wide else 0) | number]) + body)
    layers = b"".join(bytes([i + 1, h << 4 | v, int(i > 0)]) for i, (h, v) in enumerate(sampling))
    out += _segment(kind, struct.pack(">BHHB", 8, *size, len(levels)) + layers)
    out += _segment(0xC4, b"\x00" + bytes([0, 0, 0, 12, *[0] * 12]) + bytes(range(12)))  # 12 codes of 4 bits
    out += _segment(0xC4, b"\x10" + bytes([*[0] * 7, 254, 2, *[0] * 7]) + bytes(range(256)))  # 8 bits; two of 9
    if restart:
        out += _segment(0xDD, struct.pack(">H", restart))
    for components, first, last in script:
        header = b"".join(bytes([i + 1, 0]) for i in components)
        out += _segment(0xDA, bytes([len(components)]) + header + bytes([first, last, 0]))
        out += _scan(levels, size, sampling, components, first, last, restart)
    return out + b"\xff\xd9"


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def _mcus(
    size: tuple[int, int], sampling: list[tuple[int, int]], components: Sequence[int]
) -> Iterator[list[tuple[int, int, int]]]:
    """The blocks of each MCU: (component, row, column). Of one component, only those that hold a part of it."""
    most_h, most_v = map(max, zip(*sampling, strict=True))
    height, width = size
    if len(components) == 1:
        i = components[0]
        h, v = sampling[i]
        rows, columns = ceil(ceil(height * v / most_v) / 8), ceil(ceil(width * h / most_h) / 8)
        yield from ([(i, row, column)] for row in range(rows) for column in range(columns))
        return
    for y in range(ceil(height / (8 * most_v))):
        for x in range(ceil(width / (8 * most_h))):
            yield [
                (i, y * sampling[i][1] + v, x * sampling[i][0] + h)
                for i in components
                for v in range(sampling[i][1])
                for h in range(sampling[i][0])
            ]


def _scan(
    levels: list[np.ndarray],
    size: tuple[int, int],
    sampling: list[tuple[int, int]],
    components: Sequence[int],
    first: int,
    last: int,
    restart: int,
) -> bytes:
    out, bits, before = b"", "", dict.fromkeys(components, 0)
    for number, mcu in enumerate(_mcus(size, sampling, components)):
        if restart and number and number % restart == 0:
            out += _packed(bits) + bytes([0xFF, 0xD0 + (number // restart - 1) % 8])
            bits, before = "", dict.fromkeys(components, 0)
        for i, row, column in mcu:
            zigzag = levels[i][row, column].ravel()[ZIGZAG]
            if first == 0:
                difference = int(zigzag[0]) - before[i]
                before[i] = int(zigzag[0])
                length = abs(difference).bit_length()
                bits += f"{length:04b}" + _signed(difference, length)
            bits += _ac(zigzag[max(1, first) : last + 1]) if last else ""
    return out + _packed(bits)


def _ac(values: np.ndarray) -> str:
    bits, zeros = "", 0
    for value in map(int, values):
        if not value:
            zeros += 1
            continue
        bits += _code(0xF0) * (zeros // 16)
        length = abs(value).bit_length()
        bits += _code(zeros % 16 << 4 | length) + _signed(value, length)
        zeros = 0
    return bits + (_code(0) if zeros else "")


def _code(symbol: int) -> str:
    return f"{symbol:08b}" if symbol < 254 else f"{symbol - 254 + 508:09b}"


def _signed(value: int, length: int) -> str:
    return f"{value if value > 0 else value + (1 << length) - 1:0{length}b}" if length else ""


def _packed(bits: str) -> bytes:
    bits += "1" * (-len(bits) % 8)
    return bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)).replace(b"\xff", b"\xff\x00")
