"""A small ICC profile of a made-up press: CMYK to Lab through a table of its sixteen pure overprints."""

import itertools
import struct

import numpy as np

WHITE = np.array([0.9642, 1.0, 0.8249])  # D50, XYZ (ICC.1:2022, 7.2.16)
TO_XYZ = np.array(  # of linear sRGB, adapted to D50 (Bradford)
    [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]]
)
INK = np.array([0.95, 0.85, 0.9])  # how much red, green, blue light a full cyan, magenta, yellow takes away
BLACK = 0.96  # and how much of all a full black


def light(cmyk: np.ndarray) -> np.ndarray:
    """Linear RGB of inks in [0, 1], (..., 4) -> (..., 3)."""
    return (1 - INK * cmyk[..., :3]) * (1 - BLACK * cmyk[..., 3:])


def srgb(cmyk: np.ndarray) -> np.ndarray:
    """The same as sRGB of 0 to 255 (IEC 61966-2-1), for pure overprints."""
    linear = light(cmyk)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def lab(cmyk: np.ndarray) -> np.ndarray:
    """CIELAB under D50."""
    ratio = light(cmyk) @ TO_XYZ.T / WHITE
    f = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)


def cmyk_profile() -> bytes:
    """The profile (ICC.1:2001-04, version 2)."""
    nodes = lab(np.array(list(itertools.product((0.0, 1.0), repeat=4))))
    table = np.rint(nodes * (2.55, 1, 1) + (0, 128, 128)).clip(0, 255).astype(np.uint8)
    straight = bytes(range(256))
    lut = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + struct.pack(">9i", *(np.eye(3).ravel() * 65536).astype(int))
    lut += straight * 4 + table.tobytes() + straight * 3
    words = b"A press"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(words) + 1) + words + b"\0" + bytes(78),
        b"cprt": b"text\0\0\0\0none\0",
        b"wtpt": b"XYZ \0\0\0\0" + struct.pack(">3i", *(WHITE * 65536).astype(int)),
        b"A2B0": lut,
    }
    at, directory, body = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        directory += struct.pack(">4sII", name, at + len(body), len(data))
        body += data
    header = struct.pack(">I4sI4s4s4s6H4s", at + len(body), b"none", 0x02400000, b"prtr", b"CMYK", b"Lab ",
                         2000, 1, 1, 0, 0, 0, b"acsp")  # fmt: skip
    header += bytes(28) + struct.pack(">3i", *(WHITE * 65536).astype(int)) + bytes(48)
    return header + directory + body
