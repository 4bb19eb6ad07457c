"""A Picture as bytes of a PNG, JPEG, WEBP or TIFF, or of what plugins write. The same picture gives the same bytes."""

import io
import json
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from driftrec.errors import BadImage, InvalidInput, Reason, one_line
from driftrec.image import exif, png, tiff, xmp
from driftrec.image.metadata import IPTC_RESOURCE, joined
from driftrec.image.picture import Picture
from driftrec.image.probe import XMP as XMP_SEGMENT
from driftrec.image.sniff import EXTENSIONS
from driftrec.jpeg.codec import subsampling_code
from driftrec.plugins import Table

BESIDE = ("icc_profile", "exif", "dpi", "xmp", "comment")  # of the pixels, in a PIL image's info
SAME = "same"  # of settings: what the name of an input promises
MAX_SIDE = {"jpeg": 65_500, "webp": 16_383}  # pixels; JPEG_MAX_DIMENSION of libjpeg, WEBP_MAX_DIMENSION of libwebp
MAX_SEGMENT = 65_533  # bytes of a JPEG's: of EXIF, of a comment, of XMP with its name

# 1024x768 crops of two photographs, Pillow 13 with zlib-ng, one core: level 1 gives 0.84 MB in 0.04 s,
# 4 0.74 MB in 0.07 s, 6 (Pillow's default) 0.71 MB in 0.16 s, 9 0.68 MB in 0.87 s.
PNG_LEVEL = 4
JPEG_QUALITY = 95  # with 4:4:4: little is lost of what was restored
# Lossless WEBP of the same crops: 0.49 MB in 0.21 s; quality 80 and method 4 give the same size in 0.32 s.
# exact: colours under full transparency stay.
WEBP_LOSSLESS = {"lossless": True, "quality": 50, "method": 2, "exact": True}


class Keeping(Image.Image):
    """A PIL image that is saved with what its `info` holds. Pillow's own leaves out most of it; a copy is one."""

    def save(self, fp: Any, format: str | None = None, **params: Any) -> None:  # noqa: A002
        """As of a PIL image; of what is not given, profile, EXIF, resolution, comment and XMP are those in `info`."""
        kept = {name: self.info[name] for name in BESIDE if self.info.get(name)}
        if packet := kept.get("xmp"):
            kept["pnginfo"] = PngInfo()
            kept["pnginfo"].add_itxt(png.XMP[:-1].decode(), packet.decode("utf-8", "replace"))
        super().save(fp, format, **(kept | params))


def encode(
    picture: Picture,
    format: str = "png",  # noqa: A002
    *,
    png_level: int = PNG_LEVEL,
    jpeg_quality: int | None = None,
    jpeg_subsampling: str = "4:4:4",
    webp_quality: int | None = None,
    record: Mapping[str, Any] | None = None,
) -> bytes:
    """Write a picture with its metadata. The same picture and record give the same bytes.

    PNG, TIFF (deflate) and WEBP are lossless; what a format cannot hold, `not_kept` tells.

    Args:
        picture: what to write.
        format: "png", "jpeg", "webp", "tiff", or what a plugin writes: a name in ENCODERS.
        png_level: zlib level, 0 (none) to 9 (smallest).
        jpeg_quality: 0 to 100; None: 95, or that of the JPEG file that the picture came from if that is higher.
        jpeg_subsampling: "4:4:4", "4:2:2" or "4:2:0".
        webp_quality: None for lossless, else 0 to 100.
        record: what was done to the picture, JSON types: a text chunk `driftrec` of a PNG, else one more entry of
            `driftrec:history` in the XMP.

    Raises:
        InvalidInput: an unknown format or subsampling.
        BadImage: `unsupported` if the format cannot hold the picture (transparency in JPEG, sides).
    """
    if format not in ENCODERS:
        raise InvalidInput(f"unknown output format {format!r}: give one of {', '.join(ENCODERS)}")
    if format == "png":
        plain = png.encode_16(picture, png_level) if picture.depth == 16 else _saved(picture, png_level)
        return png.with_metadata(plain, picture, _words(record))
    _check_fits(picture, format)
    packet = _packet(picture, format, record)
    if format == "tiff":
        return _save_tiff(picture, packet)
    if format not in OURS:
        encoder, told = ENCODERS[format], replace(picture, xmp=packet)
        return encoder.encode(told if encoder.deep else told.in_8_bits())
    icc = None if picture.grey and format == "webp" else picture.icc  # its pixels are RGB
    options: dict[str, Any] = {"exif": picture.exif, "icc_profile": icc}
    if format == "jpeg":
        quality = max(JPEG_QUALITY, picture.quality or 0) if jpeg_quality is None else jpeg_quality
        options |= {"quality": quality, "subsampling": subsampling_code(jpeg_subsampling)}
        options |= {"dpi": picture.dpi, "extra": _xmp_segment(packet) + _iptc_segment(picture.iptc)}
        options |= {"comment": None if _too_long(picture.comment) else picture.comment}
        options |= {"exif": None if _too_long(picture.exif) else picture.exif}
    else:
        options |= WEBP_LOSSLESS if webp_quality is None else {"quality": webp_quality, "exact": True}
        options |= {"xmp": packet}
    out = io.BytesIO()
    given = {name: value for name, value in options.items() if value is not None}
    picture = picture.in_8_bits()
    if format == "jpeg" and picture.alpha is not None:
        picture = replace(picture, alpha=None, mode="L" if picture.grey else "RGB")
    _bare(picture).save(out, format.upper(), **given)
    return out.getvalue() + (picture.video.data if picture.video and format == "jpeg" else b"")


class Encoder(NamedTuple):
    """How a format is written."""

    suffix: str  # of outputs; such files must be read, too
    encode: Callable[[Picture], bytes]  # what was done to the picture stands in its XMP; may raise BadImage
    deep: bool = False  # whether it holds 16 bits


class Encoders(Table[Encoder]):
    """Formats by name."""

    def __setitem__(self, name: str, entry: Encoder) -> None:
        """Raises ValueError for a format that is not read, or is written already."""
        if entry.suffix not in EXTENSIONS:
            raise ValueError(f"format {name!r}: {entry.suffix} is not read; take one of {', '.join(EXTENSIONS)}")
        other = SAME if name == SAME else format_of_suffix(entry.suffix)
        if other:
            raise ValueError(f"format {name!r}: there is {other} already; take another name and suffix")
        super().__setitem__(name, entry)
        format_of_suffix.cache_clear()

    def __delitem__(self, name: str) -> None:
        super().__delitem__(name)
        format_of_suffix.cache_clear()


OURS = {
    "png": Encoder(".png", encode, deep=True),
    "jpeg": Encoder(".jpg", partial(encode, format="jpeg")),
    "webp": Encoder(".webp", partial(encode, format="webp")),
    "tiff": Encoder(".tif", partial(encode, format="tiff"), deep=True),
}
ENCODERS = Encoders("format", OURS)


@lru_cache(maxsize=1000)
def format_of_suffix(suffix: str) -> str | None:
    """The format that a suffix promises, in lower case and with its dot; None if it is none that is written."""
    kind = EXTENSIONS.get(suffix)
    return next((name for name, encoder in ENCODERS.items() if EXTENSIONS[encoder.suffix] == kind), None)


def format_of(name: str) -> str:
    """The format that a file's name promises. Raises InvalidInput if it is none that is written."""
    suffix = PurePath(name).suffix.lower()
    if found := format_of_suffix(suffix):
        return found
    *others, last = (encoder.suffix for encoder in ENCODERS.values())
    raise InvalidInput(
        f"{name}: no image is written as {suffix or 'a name without suffix'}: end it in {', '.join(others)} or {last}"
    )


def not_kept(picture: Picture, format: str, record: Mapping[str, Any] | None = None) -> str:  # noqa: A002
    """What `encode` leaves out or changes since the format cannot hold it, in words; "" if nothing. What a plugin's
    format leaves out nobody tells.
    """
    video = "a video behind its end left out" if picture.video and format != "jpeg" else ""
    if format == "png":
        return joined("IPTC left out" if picture.iptc else "", video)
    rounded = "16 bits rounded to 8" if picture.depth == 16 and not ENCODERS[format].deep else ""
    if format not in OURS:
        return rounded
    kinds = {kind for kind, _ in picture.chunks} - {b"sRGB"}  # what an image is without a profile
    plain = _plain(picture, format)
    resolution = picture.dpi and not exif.has_tag(picture.exif, exif.X_RESOLUTION)
    return joined(
        rounded,
        "PNG texts left out" if kinds & {*png.TEXTS} else "",
        "PNG colour chunks left out" if kinds & {*png.COLOURS} and not picture.icc else "",
        "comment left out" if picture.comment and (format != "jpeg" or _too_long(picture.comment)) else "",
        "IPTC left out" if picture.iptc and (format == "webp" or not _iptc_segment(picture.iptc)) else "",
        "GRAY profile left out" if picture.icc and picture.grey and format == "webp" else "",
        "resolution left out" if resolution and format == "webp" else "",
        video,
        "opaque alpha left out" if picture.alpha is not None and format == "jpeg" else "",
        f"EXIF of {len(picture.exif or b'')} bytes left out" if format == "jpeg" and _too_long(picture.exif) else "",
        f"XMP of {len(plain)} bytes left out" if plain and not _packet(picture, format, None) else "",
        "no room in its XMP for the record" if record and not _has_room(picture, format, record) else "",
    )


def _words(record: Mapping[str, Any] | None) -> str | None:
    """A record as it is written."""
    return None if record is None else json.dumps(record, sort_keys=True, separators=(",", ":"))


def _packet(picture: Picture, format: str, record: Mapping[str, Any] | None) -> bytes | None:  # noqa: A002
    """The XMP that is written: with the record, else as it is, else none, as much as a JPEG has room for."""
    words, plain = _words(record), _plain(picture, format)
    wanted = [plain if words is None else xmp.with_record(plain, words), plain]
    room = MAX_SEGMENT - len(XMP_SEGMENT) if format == "jpeg" else math.inf
    return next((packet for packet in wanted if packet and len(packet) <= room), None)


def _plain(picture: Picture, format: str) -> bytes | None:  # noqa: A002
    """The picture's XMP, with what it says of its video where that is written, too."""
    return picture.video.xmp if picture.video and format == "jpeg" else picture.xmp


def _has_room(picture: Picture, format: str, record: Mapping[str, Any]) -> bool:  # noqa: A002
    plain = _plain(picture, format)
    return xmp.takes_record(plain) and _packet(picture, format, record) != plain


def to_pil(picture: Picture) -> Image.Image:
    """A PIL image of the picture's mode, with profile, EXIF, XMP, comment and resolution in its `info`, which its
    `save` writes. 16-bit grey becomes I;16; other 16-bit pictures, which PIL cannot hold, are rounded to 8.
    """
    image = _bare(picture if picture.mode == "L" else picture.in_8_bits())
    image.__class__ = Keeping
    found = {
        "icc_profile": picture.icc,
        "exif": picture.exif,
        "dpi": picture.dpi,
        "xmp": picture.xmp,
        "comment": picture.comment,
    }
    image.info |= {name: value for name, value in found.items() if value is not None}
    return image


def _bare(picture: Picture) -> Image.Image:
    """A PIL image of the pixels alone; of 16-bit ones only L."""
    rows = picture.rows(0, picture.height)
    return Image.fromarray(np.ascontiguousarray(rows[..., 0] if picture.channels == 1 else rows))


def _saved(picture: Picture, level: int) -> bytes:
    """A PNG of the pixels alone."""
    out = io.BytesIO()
    _bare(picture).save(out, "PNG", compress_level=level)
    return out.getvalue()


def _save_tiff(picture: Picture, packet: bytes | None) -> bytes:
    """A TIFF has no EXIF block: its descriptive tags become the file's own."""
    try:
        return tiff.encode(picture, exif.parse(picture.exif or b""), packet)
    except MemoryError:
        raise
    except Exception as error:  # whatever broken tags raise
        if picture.exif is None:
            raise
        detail = f"its EXIF is broken and cannot go into a TIFF ({one_line(error)}): choose png"
        raise BadImage(Reason.unsupported, detail) from error


def _check_fits(picture: Picture, format: str) -> None:  # noqa: A002
    """Refuse what the output format cannot hold."""
    side = max(picture.height, picture.width)
    if side > MAX_SIDE.get(format, side):
        detail = f"a side of {side} pixels; {format} holds {MAX_SIDE[format]}: choose png"
        raise BadImage(Reason.unsupported, detail)
    if format == "jpeg" and picture.alpha is not None and picture.alpha.min() < picture.peak:
        raise BadImage(Reason.unsupported, "jpeg holds no transparency: choose png, webp or tiff")


def _too_long(found: bytes | None) -> bool:
    """Whether a JPEG's segment cannot hold it."""
    return found is not None and len(found) > MAX_SEGMENT


def _xmp_segment(packet: bytes | None) -> bytes:
    """The APP1 segment of an XMP packet that fits into one."""
    return _segment(0xE1, XMP_SEGMENT + packet) if packet else b""


def _iptc_segment(records: bytes | None) -> bytes:
    """The APP13 segment of IPTC records, as Photoshop's resource; b"" for more than fits into one."""
    if not records:
        return b""
    resource = struct.pack(">4sHHI", b"8BIM", IPTC_RESOURCE, 0, len(records)) + records + bytes(len(records) % 2)
    body = b"Photoshop 3.0\0" + resource
    return b"" if _too_long(body) else _segment(0xED, body)


def _segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + (2 + len(body)).to_bytes(2, "big") + body
