"""Odd files of every kind of pixels."""

import io
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from driftrec.image import cmyk
from tests.corpus.made import (
    ALPHA,
    ANY,
    DEEP,
    DEEP_ALPHA,
    GREY,
    GREY_IMAGE,
    ICC,
    LA,
    PALETTE,
    PALETTE_RGB,
    PHOTO,
    RGB,
    RGBA,
    XMP,
    Odd,
    cmyk_jpeg,
    lzw,
    png,
    tiff,
)
from tests.corpus.profiles import cmyk_profile, srgb
from tests.driftrec.pictures import exif_bytes, png_chunk, profile, saved

# HEIC files of pillow-heif 1.8.1, JPEG XL files of cjxl 0.7, since tests may run without them.
FIXTURES = Path(__file__).parent / "fixtures"
SMALL = PHOTO[:24, :32]  # what the HEIC files hold
BITS = Image.fromarray(np.where(GREY > 100, 255, 0).astype(np.uint8)).convert("1", dither=Image.Dither.NONE)
BITS_GREY = np.array(BITS.convert("L"))
BMP_DPI = (96.012, 96.012)  # what Pillow writes, in whole pixels a metre
CMYK = np.dstack([PHOTO, ALPHA // 3])


def jpegs() -> Iterator[Odd]:
    """JPEG: colour, grey, of two pictures."""
    for name, options in {
        "baseline": {"quality": 90, "subsampling": 2},
        "progressive": {"quality": 90, "progressive": True, "subsampling": 0},
        "422": {"quality": 90, "subsampling": 1},
        "restarts": {"quality": 90, "restart_marker_blocks": 3},
        "coarse": {"quality": 10},
        "optimised": {"quality": 100, "optimize": True, "subsampling": 0},
        "rgb": {"quality": 95, "keep_rgb": True},
    }.items():
        within = 200 if name == "coarse" else 90  # the picture has grain, and chroma may be halved
        yield Odd(f"{name}.jpg", "jpeg", saved(RGB, "JPEG", **options), rgb=PHOTO, within=within)
    yield Odd("grey.jpg", "jpeg-grey", saved(GREY_IMAGE, "JPEG", quality=95), mode="L", rgb=GREY, within=20)
    grey = saved(GREY_IMAGE, "JPEG", quality=95, progressive=True)
    yield Odd("grey-progressive.jpeg", "jpeg-grey", grey, mode="L", rgb=GREY, within=20)
    two = saved(RGB, "MPO", save_all=True, append_images=[GREY_IMAGE.convert("RGB")], quality=95)
    for name in ("stereo.mpo", "stereo.jpg"):
        yield Odd(name, "mpo", two, words="further pictures in it left out", rgb=PHOTO, within=90)


def cmyks() -> Iterator[Odd]:
    """CMYK: JPEG and TIFF, with a profile that can be used, one that cannot, and none."""
    profile, inks = cmyk_profile(), Image.fromarray(CMYK, "CMYK")
    plain = np.array(inks.convert("RGB"))
    flat = np.broadcast_to(np.array((255, 0, 255, 0), np.uint8), (16, 24, 4))
    press = np.broadcast_to(srgb(np.array((1.0, 0.0, 1.0, 0.0))).round().astype(np.uint8), (16, 24, 3))
    icc = cmyk.srgb_profile()
    formula, used, broken = "converted by formula", "converted to sRGB by its ICC profile", "cannot be used"
    for name, transform in (("cmyk", 0), ("ycck", 2)):
        yield Odd(f"{name}.jpg", "cmyk", cmyk_jpeg(CMYK, transform), words=formula, rgb=plain, within=9)
        data = cmyk_jpeg(flat, transform, icc_profile=profile)
        yield Odd(f"{name}-profile.jpg", "cmyk-profile", data, words=used, rgb=press, within=8, icc=icc)
    for name, wrong in (("broken", b"not a profile"), ("grey", profile.replace(b"CMYK", b"GRAY", 1))):
        data = cmyk_jpeg(CMYK, icc_profile=wrong)
        yield Odd(f"cmyk-{name}-profile.jpg", "cmyk", data, words=broken, rgb=plain, within=9)
    yield Odd("cmyk.tif", "cmyk", saved(inks, "TIFF"), words=formula, rgb=plain)
    yield Odd("cmyk-lzw.tif", "cmyk", saved(inks, "TIFF", compression="tiff_lzw"), words=formula, rgb=plain)
    data = saved(Image.fromarray(np.ascontiguousarray(flat), "CMYK"), "TIFF", icc_profile=profile)
    yield Odd("cmyk-profile.tif", "cmyk-profile", data, words=used, rgb=press, within=4, icc=icc)


def pngs() -> Iterator[Odd]:
    """PNG of 8 bits and fewer."""
    both, soft = np.dstack([PHOTO, ALPHA]), np.dstack([GREY, ALPHA])
    for laced in (False, True):
        way = "-interlaced" if laced else ""
        yield Odd(f"grey{way}.png", "png", png(GREY, 0, laced=laced), mode="L", rgb=GREY)
        yield Odd(f"la{way}.png", "png", png(soft, 4, laced=laced), mode="LA", rgb=GREY, alpha=ALPHA)
        yield Odd(f"rgb{way}.png", "png", png(PHOTO, 2, laced=laced), rgb=PHOTO)
        yield Odd(f"rgba{way}.png", "png", png(both, 6, laced=laced), mode="RGBA", rgb=PHOTO, alpha=ALPHA)
    clear = np.zeros_like(ALPHA)
    data = png(np.dstack([PHOTO, clear]), 6)
    yield Odd("invisible.png", "png", data, mode="RGBA", rgb=PHOTO, alpha=clear)
    for bits in (1, 2, 4):
        levels = GREY >> (8 - bits)
        words = "1 bit" if bits == 1 else ""
        wide = (levels.astype(int) * 255 // (2**bits - 1)).astype(np.uint8)
        yield Odd(f"grey-{bits}.png", "png-few-bits", png(levels, 0, bits), words=words, mode="L", rgb=wide)
        key = png_chunk(b"tRNS", struct.pack(">H", 1))
        alpha = np.where(levels == 1, 0, 255).astype(np.uint8)
        data = png(levels, 0, bits, key)
        yield Odd(f"grey-{bits}-key.png", "png-key", data, words=words, mode="LA", rgb=wide, alpha=alpha)
    marked = PHOTO.copy()
    marked[3:9, 5:20] = (1, 2, 3)
    alpha = np.where((marked == (1, 2, 3)).all(axis=2), 0, 255).astype(np.uint8)
    data = saved(Image.fromarray(marked), "PNG", transparency=(1, 2, 3))
    yield Odd("rgb-key.png", "png-key", data, mode="RGBA", rgb=marked, alpha=alpha)


def palettes() -> Iterator[Odd]:
    """Palettes: PNG, GIF, TIFF, BMP."""
    index = np.array(PALETTE)
    for bits in (4, 8):
        data = saved(PALETTE, "PNG", bits=bits)
        yield Odd(f"palette-{bits}.png", "palette", data, words="palette", rgb=PALETTE_RGB)
    alpha = np.where(index == 4, 0, 255).astype(np.uint8)
    for kind in ("png", "gif"):
        data = saved(PALETTE, kind.upper(), transparency=4)
        colours = np.array(Image.open(io.BytesIO(data)).convert("RGBA"))[..., :3]
        name = f"palette-transparent.{kind}"
        yield Odd(name, "palette", data, words="palette", mode="RGBA", rgb=colours, alpha=alpha)
    levels = bytes(range(0, 250, 25))
    data = saved(PALETTE, "PNG", transparency=levels)
    soft = np.frombuffer(levels, np.uint8)[index]
    yield Odd("palette-soft.png", "palette", data, words="palette", mode="RGBA", rgb=PALETTE_RGB, alpha=soft)
    for kind in ("GIF", "TIFF", "BMP"):
        name = f"palette.{kind.lower()}"
        dpi = BMP_DPI if kind == "BMP" else None
        yield Odd(name, "palette", saved(PALETTE, kind), words="palette", rgb=PALETTE_RGB, dpi=dpi)
    for kind in ("GIF", "PNG"):
        grey = GREY_IMAGE.quantize(9)
        levels = np.array(grey.convert("L"))
        name = f"palette-grey.{kind.lower()}"
        yield Odd(name, "palette", saved(grey, kind), words="palette", mode="L", rgb=levels)
        data, alpha = saved(grey, kind, transparency=3), np.where(np.array(grey) == 3, 0, 255).astype(np.uint8)
        name = f"palette-grey-transparent.{kind.lower()}"
        yield Odd(name, "palette", data, words="palette", mode="LA", rgb=levels, alpha=alpha)


def deep() -> Iterator[Odd]:
    """16 bits a channel."""
    grey, both, soft = DEEP[..., 0], np.dstack([DEEP, DEEP_ALPHA]), np.dstack([DEEP[..., 0], DEEP_ALPHA])
    for laced in (False, True):
        way = "-interlaced" if laced else ""
        yield Odd(f"deep-grey{way}.png", "png-16", png(grey, 0, 16, laced=laced), mode="L", rgb=grey)
        yield Odd(f"deep-la{way}.png", "png-16", png(soft, 4, 16, laced=laced), mode="LA", rgb=grey, alpha=DEEP_ALPHA)
        yield Odd(f"deep-rgb{way}.png", "png-16", png(DEEP, 2, 16, laced=laced), rgb=DEEP)
        data = png(both, 6, 16, laced=laced)
        yield Odd(f"deep-rgba{way}.png", "png-16", data, mode="RGBA", rgb=DEEP, alpha=DEEP_ALPHA)
    widened = PHOTO.astype(np.uint16) * 257
    yield Odd("deep-of-8-bits.png", "png-16", png(widened, 2, 16), rgb=widened)
    keyed = DEEP.copy()
    keyed[2, 3], keyed[2, 4] = (258, 514, 770), (258, 514, 771)  # the second differs in a low byte only
    alpha = np.full(GREY.shape, 65535, np.uint16)
    alpha[2, 3] = 0
    data = png(keyed, 2, 16, png_chunk(b"tRNS", struct.pack(">HHH", 258, 514, 770)))
    yield Odd("deep-key.png", "png-16", data, mode="RGBA", rgb=keyed, alpha=alpha)
    for order, end in (("<", "little"), (">", "big")):
        yield Odd(f"deep-grey-{end}.tif", "tiff-16", tiff(grey, order=order), mode="L", rgb=grey)
        yield Odd(f"deep-rgb-{end}.tif", "tiff-16", tiff(DEEP, order=order, strips=3), rgb=DEEP)
        data = tiff(both, {338: 2}, order)
        yield Odd(f"deep-rgba-{end}.tif", "tiff-16", data, mode="RGBA", rgb=DEEP, alpha=DEEP_ALPHA)
        for kind, options in {"zip": {"compression": "zlib", "predictor": True}, "tiles": {"tile": (16, 16)}}.items():
            out = io.BytesIO()
            tifffile.imwrite(out, DEEP, photometric="rgb", byteorder=order, metadata=None, software=False, **options)
            yield Odd(f"deep-{kind}-{end}.tif", "tiff-16", out.getvalue(), rgb=DEEP)
    yield Odd("deep-negative.tif", "tiff-16", tiff(65535 - grey, {262: 0}), mode="L", rgb=grey)
    packed = lzw(DEEP.tobytes())
    tags = {256: 53, 257: 37, 258: (16,) * 3, 259: 5, 262: 2, 277: 3, 278: 37}
    data = tiff(np.frombuffer(packed, np.uint8)[None], tags)
    yield Odd("deep-lzw.tif", "tiff-16", data, rgb=DEEP)


def tiffs() -> Iterator[Odd]:
    """TIFF of 8 bits and fewer."""
    for way in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd", "lzma"):
        yield Odd(f"rgb-{way}.tif", "tiff", saved(RGB, "TIFF", compression=way), rgb=PHOTO)
    data = saved(RGB, "TIFF", compression="jpeg", quality=95)
    yield Odd("rgb-jpeg.tif", "tiff", data, rgb=PHOTO, within=90)
    for order, end in (("<", "little"), (">", "big")):
        yield Odd(f"rgb-{end}.tif", "tiff", tiff(PHOTO, order=order, strips=5), rgb=PHOTO)
    for name, options in {
        "tiles": {"tile": (16, 32)}, "planes": {"planarconfig": "separate"}, "bigtiff": {"bigtiff": True},
    }.items():  # fmt: skip
        out, pixels = io.BytesIO(), np.moveaxis(PHOTO, 2, 0) if name == "planes" else PHOTO
        tifffile.imwrite(out, pixels, photometric="rgb", metadata=None, software=False, **options)
        yield Odd(f"rgb-{name}.tif", "tiff", out.getvalue(), rgb=PHOTO)
    yield Odd("grey.tif", "tiff", tiff(GREY), mode="L", rgb=GREY)
    yield Odd("grey-negative.tif", "tiff", tiff(255 - GREY, {262: 0}), mode="L", rgb=GREY)
    yield Odd("rgba.tif", "tiff", saved(RGBA, "TIFF"), mode="RGBA", rgb=PHOTO, alpha=ALPHA)
    yield Odd("la.tif", "tiff", saved(LA, "TIFF"), mode="LA", rgb=GREY, alpha=ALPHA)
    fax = saved(BITS, "TIFF", compression="group4")
    yield Odd("fax.tif", "tiff", fax, words="1 bit", mode="L", rgb=BITS_GREY)
    fifth = np.full_like(ALPHA, 51)  # of 255: fifths multiply and divide without a rest
    data = tiff(np.dstack([PHOTO // 5, fifth]), {338: 1})
    words = "premultiplied alpha made straight"
    yield Odd("premultiplied.tif", "tiff-alpha", data, words=words, mode="RGBA", rgb=PHOTO // 5 * 5, alpha=fifth)
    halved = np.dstack([GREY // 2, np.full_like(GREY, 128)])
    data = tiff(halved, {338: 1})
    yield Odd(
        "premultiplied-grey.tif", "tiff-alpha", data, words=words, mode="LA", rgb=GREY, within=2, alpha=halved[..., 1]
    )
    data = tiff(np.dstack([PHOTO, ALPHA]), {338: 0})
    yield Odd("extra-channel.tif", "tiff-alpha", data, words="a channel without a meaning left out", rgb=PHOTO)
    thumbnail = saved(RGB, "TIFF", save_all=True, append_images=[GREY_IMAGE], tiffinfo={})
    yield Odd("pages.tif", "pages", thumbnail, words="further pictures in it left out", rgb=PHOTO)


def refused_tiffs() -> Iterator[Odd]:
    """TIFF that 8 or 16 bits of RGB cannot hold, or that Pillow would bend."""
    out = io.BytesIO()
    planes = np.moveaxis(DEEP, 2, 0)
    tifffile.imwrite(out, planes, photometric="rgb", planarconfig="separate", metadata=None, software=False)
    both = np.dstack([DEEP, DEEP_ALPHA])
    for name, data in {
        "float": saved(GREY_IMAGE.convert("F"), "TIFF"),
        "32-bit": saved(GREY_IMAGE.convert("I"), "TIFF"),
        "signed": tiff(DEEP[..., 0], {339: 2}),
        "lab": tiff(PHOTO, {262: 8}),
        "deep-planes": out.getvalue(),
        "deep-premultiplied": tiff(both, {338: 1}),
        "deep-cmyk": tiff(both, {262: 5}),
        "deep-la": tiff(np.dstack([DEEP[..., 0], DEEP_ALPHA]), {338: 2}),
        "camera-raw": saved(RGB, "TIFF", tiffinfo={0x00FE: 1}),
        "dng": tiff(PHOTO, {0xC612: b"\1\4\0\0"}),
    }.items():
        yield Odd(f"{name}.tif", "tiff-refused", data, reason="unsupported")


def animations() -> Iterator[Odd]:
    """Several frames."""
    frames = [Image.new("RGB", (16, 12), fill) for fill in ("red", "blue", "lime")]
    red = np.array(frames[0])
    for kind, options in {"gif": {}, "png": {}, "webp": {"lossless": True}, "avif": {"quality": 100}}.items():
        data = saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=90, **options)
        words, within = "further pictures in it left out", 4 if kind == "avif" else 0
        data = _timeless(data) if kind == "avif" else data
        words = f"palette; {words}" if kind == "gif" else words
        yield Odd(f"animated.{kind}", "animation", data, words=words, rgb=red, within=within)
    hidden = saved(frames[1], "PNG", save_all=True, append_images=frames[:1], default_image=True)
    still = np.array(frames[1])
    yield Odd("animated-with-still.png", "animation", hidden, words="further pictures in it left out", rgb=still)


def _timeless(data: bytes) -> bytes:
    """The same film, made at no time (ISO 14496-12, 8.2.2, 8.3.2, 8.4.2; boxes of version 1)."""
    for box in (b"mvhd", b"tkhd", b"mdhd"):
        at = data.index(box) + 4
        assert data[at] == 1
        data = data[: at + 4] + bytes(16) + data[at + 20 :]
    return data


def others() -> Iterator[Odd]:
    """WEBP, BMP, AVIF, HEIC, GIF."""
    lossless = {"lossless": True, "exact": True}
    yield Odd("lossy.webp", "webp", saved(RGB, "WEBP", quality=90), rgb=PHOTO, within=150)
    yield Odd("lossless.webp", "webp", saved(RGB, "WEBP", **lossless), rgb=PHOTO)
    yield Odd("alpha.webp", "webp", saved(RGBA, "WEBP", **lossless), mode="RGBA", rgb=PHOTO, alpha=ALPHA)
    yield Odd("rgb.bmp", "bmp", saved(RGB, "BMP"), rgb=PHOTO, dpi=BMP_DPI)
    yield Odd("grey.bmp", "bmp", saved(GREY_IMAGE, "BMP"), mode="L", rgb=GREY, dpi=BMP_DPI)
    yield Odd("1-bit.bmp", "bmp", saved(BITS, "BMP"), words="1 bit", mode="L", rgb=BITS_GREY, dpi=BMP_DPI)
    yield Odd("rgb-32.bmp", "bmp", saved(RGBA, "BMP"), rgb=PHOTO, dpi=BMP_DPI)  # its fourth byte has no meaning
    yield Odd("rgba.bmp", "bmp", _bmp_with_alpha(), mode="RGBA", rgb=PHOTO, alpha=ALPHA)
    fine = {"quality": 100, "subsampling": "4:4:4"}
    avif = saved(RGB, "AVIF", **fine)
    yield Odd("rgb.avif", "avif", avif, rgb=PHOTO, within=8)
    yield Odd("rgba.avif", "avif", saved(RGBA, "AVIF", **fine), mode="RGBA", rgb=PHOTO, within=8, alpha=ALPHA)
    yield Odd("deep.avif", "avif-deep", _flagged(avif, b"av1C", 2, 0x40), reason="unsupported", words="10 bits")
    plain = (FIXTURES / "plain.heic").read_bytes()
    yield Odd("plain.heic", "heic", plain, rgb=SMALL, within=8)
    yield Odd("named-mif1.heif", "heic", plain.replace(b"ftypheic", b"ftypmif1"), rgb=SMALL, within=8)
    icc = profile(b"RGB ", bytes(128))
    turned = (FIXTURES / "turned.heic").read_bytes().replace(bytes(range(256)), icc)
    yield Odd("turned.heic", "heic", turned, rgb=SMALL, within=8, icc=icc, exif=ANY)
    yield Odd("deep.heic", "heic-deep", _flagged(plain, b"hvcC", 17, 2), reason="unsupported", words="10 bits")


def jpeg_2000() -> Iterator[Odd]:
    """JPEG 2000 in boxes and bare; with a profile, EXIF and XMP in theirs; deep, signed, of a strange colour space."""
    for bare in (False, True):
        suffix, row = "j2k" if bare else "jp2", "jpeg-2000"
        yield Odd(f"rgb.{suffix}", row, saved(RGB, "JPEG2000", no_jp2=bare), rgb=PHOTO)
        yield Odd(f"grey.{suffix}", row, saved(GREY_IMAGE, "JPEG2000", no_jp2=bare), mode="L", rgb=GREY)
        rgba = saved(RGBA, "JPEG2000", no_jp2=bare)
        yield Odd(f"rgba.{suffix}", row, rgba, mode="RGBA", rgb=PHOTO, alpha=ALPHA)
        la = saved(LA, "JPEG2000", no_jp2=bare)
        yield Odd(f"la.{suffix}", row, la, mode="LA", rgb=GREY, alpha=ALPHA)
    plain = saved(RGB, "JPEG2000")
    block = exif_bytes(6).removeprefix(b"Exif\0\0")
    beside = _box(b"uuid", b"JpgTiffExif->JP2" + block)
    beside += _box(b"uuid", bytes.fromhex("be7acfcb97a942e89c71999491e3afac") + XMP % 6)
    data = _with_colour(plain, b"\2\0\0" + ICC) + beside
    turned = np.rot90(PHOTO, -1)
    yield Odd("beside.jp2", "jpeg-2000", data, rgb=turned, icc=ICC, exif=ANY, xmp=XMP % 1)
    grey = Image.fromarray(GREY.astype(np.uint16) * 257)
    deep = saved(grey, "JPEG2000")
    yield Odd("deep.jp2", "jpeg-2000-refused", deep, reason="unsupported", words="16 bits a channel")
    at = plain.index(b"\xff\x4f\xff\x51") + 42
    signed = plain[:at] + b"\x87" + plain[at + 1 :]
    yield Odd("signed.jp2", "jpeg-2000-refused", signed, reason="unsupported", words="signed samples")
    lab = _with_colour(plain, b"\1\0\0\0\0\0\x0e")
    yield Odd("lab.jp2", "jpeg-2000-refused", lab, reason="unsupported", words="colour space 14")


def jpeg_xl() -> Iterator[Odd]:
    """JPEG XL in boxes and bare, one that turns its pixels, one that holds a JPEG; a deep one."""
    files = {name: (FIXTURES / f"{name}.jxl").read_bytes() for name in ("plain", "alpha", "grey", "turned", "jpeg")}
    grey = np.array(Image.fromarray(SMALL).convert("L"))
    yield Odd("plain.jxl", "jxl", files["plain"], rgb=SMALL, icc=ANY)
    yield Odd("alpha.jxl", "jxl", files["alpha"], mode="RGBA", rgb=SMALL, alpha=grey, icc=ANY)
    yield Odd("grey.jxl", "jxl", files["grey"], mode="L", rgb=grey, icc=ANY)
    beside = _box(b"Exif", bytes(4) + exif_bytes(6).removeprefix(b"Exif\0\0")) + _box(b"xml ", XMP % 6)
    yield Odd("turned.jxl", "jxl", files["turned"] + beside, rgb=SMALL, icc=ANY, exif=ANY, xmp=XMP % 1)
    words = "a JPEG within JPEG XL"
    yield Odd("jpeg.jxl", "jxl-jpeg", files["jpeg"], words=words, rgb=SMALL, within=90)
    deep = (FIXTURES / "deep.jxl").read_bytes()
    yield Odd("deep.jxl", "jxl-deep", deep, reason="unsupported", words="16 bits a channel")


def _box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(body), kind) + body


def _with_colour(data: bytes, body: bytes) -> bytes:
    """A JPEG 2000 file whose colours are told otherwise."""
    header, colour = data.index(b"jp2h") - 4, data.index(b"colr") - 4
    whole, old = (int.from_bytes(data[at : at + 4], "big") for at in (header, colour))
    length = struct.pack(">I", whole + 8 + len(body) - old)
    return data[:header] + length + data[header + 4 : colour] + _box(b"colr", body) + data[colour + old :]


def _bmp_with_alpha() -> bytes:
    """A BMP whose header (version 4) says which byte is what."""
    pixels = np.dstack([PHOTO[..., ::-1], ALPHA])[::-1].tobytes()
    masks = struct.pack("<4I4s", 0xFF0000, 0xFF00, 0xFF, 0xFF000000, b"BGRs")
    header = struct.pack("<IiiHHIIiiII", 108, 53, 37, 1, 32, 3, len(pixels), 0, 0, 0, 0) + masks + bytes(48)
    return b"BM" + struct.pack("<IHHI", 122 + len(pixels), 0, 0, 122) + header + pixels


def _flagged(data: bytes, box: bytes, at: int, bits: int) -> bytes:
    """The same file with bits set in the body of a box."""
    place = data.index(box) + 4 + at
    return data[:place] + bytes([data[place] | bits]) + data[place + 1 :]
