"""Files that are refused: no images, damaged ones, bombs."""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from tests.corpus.made import DEEP, PALETTE, PHOTO, RGB, Odd, png, tiff
from tests.driftrec.pictures import png_chunk, png_with, saved

FIXTURES = Path(__file__).parent / "fixtures"  # HEIC files of pillow-heif 1.8.1, since tests may run without it
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def no_images() -> Iterator[Odd]:
    """Files of another kind, whatever their names say."""
    for name, data in {
        "page.jpg": b"<!DOCTYPE html><html><title>404 Not Found</title></html>",
        "text.png": b"Dear reader, this is no image.\n" * 9,
        "answer.webp": b'{"error": "no such key"}',
        "error.tif": b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>',
        "drawing.jpg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        "archive.gif": b"PK\3\4" + bytes(40),
        "paper.png": b"%PDF-1.7\n",
        "zeros.jpg": bytes(3000),
        "noise.bmp": bytes(i * i % 251 for i in range(500)),
    }.items():
        yield Odd(name, "no-image", data, reason="not_an_image")
    yield Odd("empty.jpg", "empty", b"", reason="empty")
    for name, data in {
        "layers.psd": b"8BPS\0\1" + bytes(40),
        "icon.ico": b"\0\0\1\0\1\0" + bytes(40),
        "small.qoi": b"qoif" + bytes(40),
        "raw.raf": b"FUJIFILMCCD-RAW " + bytes(40),
    }.items():
        yield Odd(name, "other-image", data, reason="unsupported", words="convert it to PNG or TIFF")
    data = saved(RGB, "JPEG").replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc1\x00\x11\x0c")
    yield Odd("12-bit.jpg", "other-image", data, reason="unsupported", words="12-bit")


def damaged() -> Iterator[Odd]:
    """Cut, broken, and made to burst."""
    jpeg, plain = saved(RGB, "JPEG"), saved(RGB, "PNG")
    avif = saved(RGB, "AVIF")
    for name, data in {
        "cut.jpg": jpeg[: len(jpeg) // 2],
        "zero-filled.jpg": jpeg[: len(jpeg) // 2] + bytes(len(jpeg) // 2),
        "cut.png": plain[: len(plain) // 2],
        "cut-end.png": plain[:-12],
        "cut-deep.png": png(DEEP, 2, 16)[:-400],
        "cut.webp": saved(RGB, "WEBP")[:-100],
        "cut.tif": saved(RGB, "TIFF")[:-500],
        "cut-deep.tif": tiff(DEEP)[:-500],
        "cut.gif": saved(PALETTE, "GIF")[:400],
        "cut.bmp": saved(RGB, "BMP")[:-500],
        "cut.avif": avif[:-50],
        "cut.jp2": saved(RGB, "JPEG2000")[:-50],
        "cut.j2k": saved(RGB, "JPEG2000", no_jp2=True)[:-50],
        "head.jp2": saved(RGB, "JPEG2000")[:60],
        "cut.jxl": (FIXTURES / "alpha.jxl").read_bytes()[:-50],
        "cut.heic": (FIXTURES / "plain.heic").read_bytes()[:-50],
        "two-bytes.jpg": b"\xff\xd8",
    }.items():
        yield Odd(name, "truncated", data, reason="truncated")
    flipped = bytearray(plain)
    flipped[len(plain) // 2] ^= 1
    good, short = png(DEEP, 2, 16), png_chunk(b"IDAT", zlib.compress(bytes(100)))
    hollow = good[: good.index(b"IDAT") - 4] + short + png_chunk(b"IEND", b"")
    webp = saved(RGB, "WEBP", lossless=True)
    for name, data in {
        "bit-flip.png": bytes(flipped),
        "no-tables.jpg": jpeg.replace(b"\xff\xdb", b"\xff\xee"),
        "hollow-deep.png": hollow,
        "wiped.webp": webp[:60] + bytes(len(webp) - 60),
        "half-covered.tif": tiff(PHOTO, {257: 9000}),
        "no-header.png": SIGNATURE + bytes(100),
    }.items():
        yield Odd(name, "corrupt", data, reason="corrupt")
    wide = bytearray(jpeg)
    at = wide.index(b"\xff\xc0") + 5
    wide[at : at + 4] = struct.pack(">HH", 12_000, 12_000)
    text = zlib.compress(bytes(30_000_000), 9)
    canvas = (10_000).to_bytes(3, "little")
    for name, data in {
        "144-megapixels.jpg": bytes(wide),
        "144-megapixels.png": _png_of(12_000, 8, 2),
        "deep-bomb.png": _png_of(90_000, 16, 6),
        "text-bomb.png": png_with(plain, png_chunk(b"zTXt", b"Comment\0\0" + text)),
        "profile-bomb.png": png_with(plain, png_chunk(b"iCCP", b"x\0\0" + text)),
        "canvas-bomb.webp": b"RIFF\x1a\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0" + canvas * 2 + b"ANIM" + bytes(20),
        "bomb.tif": tiff(PHOTO, {256: 1 << 30}),
    }.items():
        yield Odd(name, "too-large", data, reason="too_large")


def _png_of(side: int, bits: int, colour: int) -> bytes:
    """A square PNG without its pixels, whole but for them."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, bits, colour, 0, 0, 0))
    return SIGNATURE + header + png_chunk(b"IDAT", zlib.compress(bytes(1000))) + png_chunk(b"IEND", b"")
