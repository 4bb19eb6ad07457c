"""Odd files with something beside their pixels: orientation, profile, EXIF, XMP, texts; lying names; extreme sizes."""

import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from tests.corpus.made import (
    ALPHA,
    ANY,
    DEEP,
    DEEP_ALPHA,
    GREY,
    GREY_ICC,
    ICC,
    LA,
    PALETTE,
    PALETTE_RGB,
    PHOTO,
    RGB,
    RGBA,
    XMP,
    Odd,
    exif_with_thumbnail,
    png,
    tiff,
)
from tests.driftrec.pictures import exif_bytes, png_chunk, png_with, profile, saved, stored


def turned() -> Iterator[Odd]:
    """Every orientation, as JPEG, PNG, WEBP and TIFF, with XMP that tells it too."""
    for orientation in range(1, 9):
        lying = Image.fromarray(np.ascontiguousarray(stored(PHOTO, orientation)))
        exif, upright, _ = exif_with_thumbnail(orientation)
        data = saved(lying, "JPEG", exif=exif, xmp=XMP % orientation, quality=100, subsampling=0, dpi=(100, 200))
        dpi = (200, 100) if orientation >= 5 else (100, 200)
        common = {"exif": upright, "xmp": XMP % 1, "dpi": dpi, "rgb": PHOTO}
        yield Odd(f"turned-{orientation}.jpg", "orientation", data, within=6, **common)
        exif = exif_bytes(orientation)
        common |= {"exif": exif_bytes(1)}
        packet = png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP % orientation)
        data = png_with(saved(lying, "PNG", exif=exif, dpi=(100, 200)), packet)
        yield Odd(f"turned-{orientation}.png", "orientation", data, **common)
        data = saved(lying, "WEBP", exif=exif, xmp=XMP % orientation, lossless=True)
        yield Odd(f"turned-{orientation}.webp", "orientation", data, **common | {"dpi": None})
        tags = {274: orientation, 282: 100.0, 283: 200.0, 296: 2, 700: XMP % orientation, 271: "maker"}
        data = tiff(np.array(lying), tags)
        yield Odd(f"turned-{orientation}.tif", "orientation", data, **common | {"exif": ANY})
    deep = np.ascontiguousarray(stored(DEEP, 6))
    data = tiff(deep, {274: 6})
    yield Odd("turned-6-deep.tif", "orientation", data, rgb=DEEP)
    exif = png_chunk(b"eXIf", exif_bytes(7)[6:])
    data = png(np.ascontiguousarray(stored(np.dstack([DEEP, DEEP_ALPHA]), 7)), 6, 16, exif)
    yield Odd("turned-7-deep.png", "orientation", data, mode="RGBA", rgb=DEEP, alpha=DEEP_ALPHA, exif=exif_bytes(1))


def metadata() -> Iterator[Odd]:
    """What lies beside the pixels."""
    long_icc, exif = profile(b"RGB ", bytes(range(256)) * 300), exif_bytes()  # more than one JPEG segment
    packet, comment = XMP % 1, "Straße".encode()
    lossless = {"lossless": True}
    for name, options in {"icc.jpg": {}, "icc.png": {}, "icc.webp": lossless, "icc.tif": {}}.items():
        kind = {"jpg": "JPEG", "tif": "TIFF"}.get(name[4:], name[4:].upper())
        within = 90 if kind == "JPEG" else 0
        data = saved(RGB, kind, icc_profile=long_icc, **options)
        yield Odd(name, "profile", data, rgb=PHOTO, within=within, icc=long_icc)
    avif = saved(RGB, "AVIF", quality=100, subsampling="4:4:4", icc_profile=ICC, exif=exif, xmp=packet)
    yield Odd("everything.avif", "metadata", avif, rgb=PHOTO, within=8, icc=ICC, exif=ANY, xmp=packet)
    everything = {"icc_profile": ICC, "exif": exif, "xmp": packet}
    data = saved(RGB, "JPEG", comment=comment, dpi=(300, 300), quality=100, subsampling=0, **everything)
    found = {"icc": ICC, "exif": exif, "xmp": packet, "rgb": PHOTO}
    yield Odd("everything.jpg", "metadata", data, within=6, comment=comment, dpi=(300, 300), **found)
    data = saved(RGBA, "WEBP", lossless=True, exact=True, **everything)
    yield Odd("everything.webp", "metadata", data, mode="RGBA", alpha=ALPHA, **found)
    texts = [png_chunk(b"tEXt", b"Author\0A name"), png_chunk(b"zTXt", b"Long\0\0" + zlib.compress(b"word " * 999))]
    texts += [png_chunk(b"iTXt", b"Title\0\0\0de\0Titel\0" + comment), png_chunk(b"gAMA", struct.pack(">I", 45455))]
    texts += [png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(packet))]
    data = png_with(saved(LA, "PNG", icc_profile=GREY_ICC, exif=exif, dpi=(72, 72)), *texts)
    found |= {"rgb": GREY, "mode": "LA", "alpha": ALPHA, "icc": GREY_ICC}
    yield Odd("everything.png", "metadata", data, dpi=(72, 72), texts=3, **found)
    data = png_with(saved(RGB, "PNG"), *[png_chunk(b"tEXt", b"A\0" + bytes([65 + i]) * 400_000) for i in range(4)])
    yield Odd("much-text.png", "metadata", data, rgb=PHOTO, words="2 PNG texts beyond 1048576 bytes left out", texts=2)
    colours = [png_chunk(b"gAMA", struct.pack(">I", 100_000)), png_chunk(b"cHRM", struct.pack(">8I", *range(1, 9)))]
    yield Odd("linear.png", "metadata", png_with(saved(RGB, "PNG"), *colours), rgb=PHOTO)
    tags = {34675: ICC, 700: packet, 282: 118.0, 283: 118.0, 296: 3, 271: "maker", 33723: b"iptc"}
    data, inch = tiff(PHOTO, tags), (118 * 2.54, 118 * 2.54)
    found = {"icc": ICC, "exif": ANY, "xmp": packet, "dpi": inch}
    yield Odd("everything.tif", "metadata", data, rgb=PHOTO, **found)
    block, without, _ = exif_with_thumbnail(1)
    yield Odd("thumbnail.png", "metadata", saved(RGB, "PNG", exif=block), rgb=PHOTO, exif=without)
    broken = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12\0\x03" * 5
    yield Odd("broken-exif.jpg", "metadata", saved(RGB, "JPEG", exif=broken), rgb=PHOTO, within=90, exif=broken)
    data = saved(PALETTE, "GIF", comment=b"drawn by hand")
    yield Odd("comment.gif", "metadata", data, rgb=PALETTE_RGB, words="palette", comment=b"drawn by hand")


def lies() -> Iterator[Odd]:
    """Extensions that lie, and files without any."""
    for name, kind in (("a.png", "JPEG"), ("b.jpg", "PNG"), ("c.gif", "WEBP"), ("d.tif", "BMP"), ("e.jpeg", "AVIF")):
        words = f"named .{name.rpartition('.')[2]}, holds {kind}"
        dpi = (96.012, 96.012) if kind == "BMP" else None
        within = 0 if kind in ("PNG", "BMP") else 150
        yield Odd(name, "lie", saved(RGB, kind), words=words, rgb=PHOTO, within=within, dpi=dpi)
    yield Odd("f.PNG", "lie", saved(RGB, "TIFF"), words="named .png, holds TIFF", rgb=PHOTO)
    yield Odd("no-extension", "lie", saved(RGB, "PNG"), rgb=PHOTO)


def sizes() -> Iterator[Odd]:
    """Very small and very long."""
    for height, width in ((1, 1), (1, 10_000), (10_000, 1), (2, 3)):
        pixels = np.resize(PHOTO, (height, width, 3))
        name = f"{width}x{height}"
        yield Odd(f"{name}.png", "size", saved(Image.fromarray(pixels), "PNG"), rgb=pixels)
        deep = np.resize(DEEP, (height, width, 3))
        yield Odd(f"{name}-deep.tif", "size", tiff(deep), rgb=deep)
    yield Odd("17x31.jpg", "size", saved(RGB.crop((0, 0, 17, 31)), "JPEG", quality=95), rgb=PHOTO[:31, :17], within=90)
