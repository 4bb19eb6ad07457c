"""Bytes to Picture and back: pixels, and all that must survive (alpha, mode, ICC profile, EXIF, resolution).

Nothing but `BadImage` leaves `decode`, whatever the bytes. What cannot be kept without loss (CMYK, 16 bits,
premultiplied alpha) is refused as `unsupported`, never bent. A JPEG whose scan is broken inside but ends well
decodes to damaged pixels: libjpeg does not tell. XMP, PNG text and further frames are not carried.

No state of Pillow is changed, so any number of threads may decode and encode at once. Pillow's own limit
stays: TIFF and WEBP above twice `PIL.Image.MAX_IMAGE_PIXELS` (179 megapixels) are always `too_large`.
"""

import contextlib
import io
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from driftrec import exif, formats, tiff
from driftrec.errors import BadImage, InvalidInput, Reason
from driftrec.jpeg import subsampling_code
from driftrec.projection import Constraint

Pixels = NDArray[np.uint8]
Mode = Literal["L", "LA", "RGB", "RGBA"]
Format = Literal["png", "jpeg", "webp", "tiff"]

MAX_PIXELS = 100_000_000
MAX_SIDE = {
    "jpeg": 65_500,
    "webp": 16_383,
}  # pixels; JPEG_MAX_DIMENSION of libjpeg, WEBP_MAX_DIMENSION of libwebp
MAX_JPEG_EXIF = 65_533  # bytes: one segment

# 1024x768 crops of two photographs, Pillow 13 with zlib-ng, one core: level 1 gives 0.84 MB in 0.04 s,
# 4 0.74 MB in 0.07 s, 6 (Pillow's default) 0.71 MB in 0.16 s, 9 0.68 MB in 0.87 s.
PNG_LEVEL = 4
# Lossless WEBP of the same crops: 0.49 MB in 0.21 s; quality 80 and method 4 give the same size in 0.32 s.
# exact: colours under full transparency stay.
WEBP_LOSSLESS = {"lossless": True, "quality": 50, "method": 2, "exact": True}

# The plugins are called by name, never through Image.open: only these can run, and the size limit is ours.
PLUGINS: dict[str, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    "JPEG": JpegImageFile,  # takes the first picture of an MPO
    "PNG": PngImageFile,
    "WEBP": WebPImageFile,
    "TIFF": TiffImageFile,
    "BMP": BmpImageFile,
    "GIF": GifImageFile,
}
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# TIFF 6.0, DNG 1.4
BITS_PER_SAMPLE, SAMPLE_FORMAT, NEW_SUBFILE_TYPE, DNG_VERSION = 0x0102, 0x0153, 0x00FE, 0xC612
IMAGE_WIDTH, IMAGE_HEIGHT, TILE_WIDTH, TILE_HEIGHT, STRIP_HEIGHT = 0x0100, 0x0101, 0x0142, 0x0143, 0x0116
STRIP_OFFSETS, STRIP_BYTES, TILE_OFFSETS, TILE_BYTES = 0x0111, 0x0117, 0x0144, 0x0145


@dataclass(frozen=True, eq=False)
class Picture:
    """An upright picture of 8 bits a channel, and what is written back with it."""

    rgb: Pixels  # (H, W, 3); three equal channels if the mode is grey
    mode: Mode = "RGB"  # what is written back
    alpha: Pixels | None = None  # (H, W) for LA and RGBA, never touched
    icc: bytes | None = None  # ICC profile, as found
    exif: bytes | None = None  # from the prefix "Exif\0\0" on, as found but for its orientation
    dpi: tuple[float, float] | None = None  # horizontal, vertical
    source_format: str = ""  # JPEG, PNG, WEBP, TIFF, BMP, GIF; empty if it came from no file
    note: str = ""  # what a reader of the ledger should know: "named .png, holds JPEG; palette"
    constraint: Constraint | None = None  # what the JPEG file says of the image that it was made from, if that is known

    def __post_init__(self) -> None:
        """Raises ValueError where the parts do not belong together."""
        if self.rgb.dtype != np.uint8 or self.rgb.ndim != 3 or self.rgb.shape[2] != 3:
            raise ValueError(f"rgb must be uint8 (H, W, 3), not {self.rgb.dtype} {self.rgb.shape}")
        if (self.alpha is not None) != self.mode.endswith("A"):
            raise ValueError(f"mode {self.mode} {'with' if self.alpha is not None else 'without'} alpha")
        if self.alpha is not None and (self.alpha.dtype != np.uint8 or self.alpha.shape != self.rgb.shape[:2]):
            raise ValueError(f"alpha must be uint8 {self.rgb.shape[:2]}, not {self.alpha.dtype} {self.alpha.shape}")

    @property
    def height(self) -> int:
        """Pixels."""
        return self.rgb.shape[0]

    @property
    def width(self) -> int:
        """Pixels."""
        return self.rgb.shape[1]

    def with_rgb(self, rgb: Pixels) -> "Picture":
        """The same picture with other pixels of the same shape; if grey, the mean of their channels."""
        if rgb.shape != self.rgb.shape:
            raise ValueError(f"pixels of shape {rgb.shape} for a picture of shape {self.rgb.shape}")
        if self.mode in ("L", "LA"):
            rgb = _three((rgb.sum(axis=2, dtype=np.uint16) + 1) // 3)
        return replace(self, rgb=rgb)


def decode(data: bytes, name: str = "", max_pixels: int = MAX_PIXELS) -> Picture:
    """Read an image file of whatever content. The EXIF orientation is applied and set to 1.

    Args:
        data: the whole file: JPEG, PNG, WEBP, TIFF, BMP, or the first frame of a GIF.
        name: the file's name; an extension that lies is noted, no more.
        max_pixels: larger ones are refused by their header.

    Raises:
        BadImage: `empty`, `not_an_image`, `truncated`, `corrupt`, `too_large`, `unsupported` or
            `out_of_memory`; nothing else.
    """
    source_format = formats.identify(data)
    formats.check_frames(data, source_format, max_pixels)
    try:
        image = PLUGINS[source_format](io.BytesIO(data))
        formats.check_size(*image.size, max_pixels)
        if isinstance(image, TiffImageFile):
            _check_tiff(image, data)
        elif isinstance(image, PngImageFile):
            _scale_colour_key(image, depth=data[24])
        image.load()
        picture = _picture(image)
    except BadImage:
        raise
    except MemoryError as error:
        raise BadImage(Reason.out_of_memory, f"no memory for decoding this {source_format}") from error
    except Exception as error:  # decoders raise anything on bad bytes
        raise BadImage(_reason(error, data, source_format), f"{source_format}: {_one_line(error)}") from error
    note = _joined(_lie(name, source_format), picture.note, _left_out(image))
    return replace(picture, source_format=source_format, note=note)


def from_pil(image: Image.Image) -> Picture:
    """A Picture of a PIL image as it lies: orientation neither applied nor reset, so that size and EXIF stay.

    Raises:
        BadImage: `unsupported` for modes that would lose something (CMYK, 16 bits, float, ...).
    """
    image.load()
    return _picture(image, apply_orientation=False)


def to_pil(picture: Picture) -> Image.Image:
    """A PIL image of the picture's mode, with ICC profile, EXIF and resolution in its `info`."""
    pixels = _written(picture)
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    image.info |= _metadata(picture)
    return image


def encode(
    picture: Picture,
    format: Format = "png",  # noqa: A002
    *,
    png_level: int = PNG_LEVEL,
    jpeg_quality: int = 95,
    jpeg_subsampling: str = "4:4:4",
    webp_quality: int | None = None,
) -> bytes:
    """Write a picture with its ICC profile, EXIF and resolution. The same picture gives the same bytes.

    PNG, TIFF (deflate) and WEBP are lossless; WEBP has no grey and knows no resolution but that in EXIF.

    Args:
        picture: what to write.
        format: "png", "jpeg", "webp" or "tiff".
        png_level: zlib level, 0 (none) to 9 (smallest).
        jpeg_quality: 0 to 100.
        jpeg_subsampling: "4:4:4", "4:2:2" or "4:2:0".
        webp_quality: None for lossless, else 0 to 100.

    Raises:
        InvalidInput: an unknown format or subsampling.
        BadImage: `unsupported` if the format cannot hold the picture (alpha or long EXIF in JPEG, sides).
    """
    if format not in get_args(Format):
        raise InvalidInput(f"unknown output format {format!r}: give one of {', '.join(get_args(Format))}")
    _check_fits(picture, format)
    options: dict[str, Any] = _metadata(picture)
    match format:
        case "tiff":
            return _save_tiff(picture)
        case "png":
            options |= {"compress_level": png_level}
        case "jpeg":
            options |= {"quality": jpeg_quality, "subsampling": subsampling_code(jpeg_subsampling)}
        case "webp":
            options |= WEBP_LOSSLESS if webp_quality is None else {"quality": webp_quality, "exact": True}
    out = io.BytesIO()
    to_pil(picture).save(out, format.upper(), **options)
    return out.getvalue()


def _picture(image: Image.Image, apply_orientation: bool = True) -> Picture:
    """A loaded PIL image as Picture."""
    block, trouble = None, ""
    try:
        block = _exif_block(image)
    except Exception as error:  # the tags of a TIFF; its pixels are sound all the same
        trouble = f"EXIF unreadable and left out ({_one_line(error)})"
    orientation, block_upright = exif.upright(block) if block else (1, None)
    dpi = _dpi(image, block)
    icc: bytes | None = image.info.get("icc_profile") or None
    if apply_orientation:
        block = block_upright
        if orientation > 1:
            image = image.transpose(UPRIGHT[orientation])
        if orientation >= 5 and dpi:
            dpi = (dpi[1], dpi[0])
    rgb, mode, alpha, kind = _channels(image)
    return Picture(rgb=rgb, mode=mode, alpha=alpha, icc=icc, exif=block, dpi=dpi, note=_joined(kind, trouble))


def _channels(image: Image.Image) -> tuple[Pixels, Mode, Pixels | None, str]:
    """(rgb, mode, alpha, kind) of a loaded image; kind names what its mode was, if that is not kept."""
    transparency, kind = image.info.get("transparency"), ""
    if image.mode in ("P", "PA"):
        opaque = image.mode == "P" and transparency is None
        image, kind, transparency = image.convert("RGB" if opaque else "RGBA"), "palette", None
    elif image.mode == "1":
        image, kind = image.convert("L"), "1 bit"
    if image.mode not in get_args(Mode):
        raise BadImage(Reason.unsupported, f"{image.mode} pixels would lose something in 8-bit RGB")
    pixels = np.array(image)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    alpha = None
    if image.mode.endswith("A"):
        pixels, alpha = pixels[..., :-1], np.ascontiguousarray(pixels[..., -1])
    elif transparency is not None:  # one colour of a grey or RGB picture stands for transparent
        alpha = np.where((pixels == np.array(transparency)).all(axis=2), 0, 255).astype(np.uint8)
    grey = pixels.shape[2] == 1
    mode: Mode = ("L" if grey else "RGB") if alpha is None else ("LA" if grey else "RGBA")
    return _three(pixels[..., 0]) if grey else np.ascontiguousarray(pixels), mode, alpha, kind


def _three(grey: NDArray[Any]) -> Pixels:
    """(H, W) to three equal channels (H, W, 3)."""
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)


def _exif_block(image: Image.Image) -> bytes | None:
    """EXIF with its prefix, as found; for TIFF, whose directory is its EXIF, one of the descriptive tags."""
    if isinstance(image, TiffImageFile):
        return exif.block(exif.descriptive(image.getexif()))
    found = image.info.get("exif")
    if not isinstance(found, bytes) or not found:
        return None
    return exif.PREFIX + found.removeprefix(exif.PREFIX)


def _dpi(image: Image.Image, block: bytes | None) -> tuple[float, float] | None:
    """Resolution in dots an inch, None where the file tells none or a senseless one."""
    told = image.info.get("jfif_unit") or exif.has_tag(block, exif.X_RESOLUTION)
    if isinstance(image, JpegImageFile) and not told:
        return None  # Pillow makes up 72
    try:
        x, y = (float(value) for value in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return (x, y) if all(math.isfinite(v) and 1 <= v <= 65_535 for v in (x, y)) else None


def _check_tiff(image: TiffImageFile, data: bytes) -> None:
    """Refuse what Pillow would bend without a word, and a file in which pixels are missing."""
    tags = image.tag_v2
    if DNG_VERSION in tags or tags.get(NEW_SUBFILE_TYPE, 0) & 1:
        raise BadImage(Reason.unsupported, "TIFF whose first page is a reduced copy (camera raw): develop it")
    bits, kinds = max(tags.get(BITS_PER_SAMPLE, (1,))), max(tags.get(SAMPLE_FORMAT, (1,)))
    if bits > 8 or kinds > 1:
        detail = f"TIFF of {bits} bits a channel, sample format {kinds}: more than 8-bit integers hold"
        raise BadImage(Reason.unsupported, detail)
    tiled = TILE_OFFSETS in tags
    offsets = tags.get(TILE_OFFSETS if tiled else STRIP_OFFSETS, ())
    lengths = tags.get(TILE_BYTES if tiled else STRIP_BYTES, ())
    end = max((a + b for a, b in zip(offsets, lengths, strict=False)), default=0)
    if end > len(data):
        raise BadImage(Reason.truncated, f"TIFF of {len(data)} bytes with pixels up to byte {end}")
    width, height = tags[IMAGE_WIDTH], tags[IMAGE_HEIGHT]
    wide, high = (tags[TILE_WIDTH], tags[TILE_HEIGHT]) if tiled else (width, tags.get(STRIP_HEIGHT, height))
    if len(offsets) < -(-width // wide) * -(-height // high):
        reason = Reason.truncated if formats.is_cut(data, "TIFF") else Reason.corrupt
        raise BadImage(reason, f"TIFF whose {len(offsets)} strips or tiles do not cover it")


def _scale_colour_key(image: PngImageFile, depth: int) -> None:
    """Pillow widens 2- and 4-bit grey to 8 bits, but not the grey that the tRNS chunk makes transparent."""
    if image.mode == "L" and "transparency" in image.info:
        image.info["transparency"] = image.info["transparency"] * 255 // (2**depth - 1)


def _written(picture: Picture) -> Pixels:
    """The channels that are written, (H, W, 1 to 4)."""
    colour = picture.rgb[..., :1] if picture.mode in ("L", "LA") else picture.rgb
    return np.ascontiguousarray(colour if picture.alpha is None else np.dstack([colour, picture.alpha]))


def _metadata(picture: Picture) -> dict[str, Any]:
    """What Pillow's writers take, without what the picture has not."""
    found = {"icc_profile": picture.icc, "exif": picture.exif, "dpi": picture.dpi}
    return {name: value for name, value in found.items() if value is not None}


def _save_tiff(picture: Picture) -> bytes:
    """A TIFF has no EXIF block: its descriptive tags become the file's own."""
    try:
        tags = exif.parse(picture.exif or b"")
        return tiff.encode(_written(picture), picture.icc, picture.dpi, tags)
    except MemoryError:
        raise
    except Exception as error:  # whatever broken tags raise
        if picture.exif is None:
            raise
        detail = f"its EXIF is broken and cannot go into a TIFF ({_one_line(error)}): choose png"
        raise BadImage(Reason.unsupported, detail) from error


def _check_fits(picture: Picture, format: Format) -> None:  # noqa: A002
    """Refuse what the output format cannot hold."""
    side, exif_bytes = max(picture.height, picture.width), len(picture.exif or b"")
    if side > MAX_SIDE.get(format, side):
        detail = f"a side of {side} pixels; {format} holds {MAX_SIDE[format]}: choose png"
        raise BadImage(Reason.unsupported, detail)
    if format == "jpeg" and picture.alpha is not None:
        raise BadImage(Reason.unsupported, "jpeg holds no transparency: choose png, webp or tiff")
    if format == "jpeg" and exif_bytes > MAX_JPEG_EXIF:
        detail = f"EXIF of {exif_bytes} bytes; jpeg holds {MAX_JPEG_EXIF}: choose png"
        raise BadImage(Reason.unsupported, detail)


def _lie(name: str, source_format: str) -> str:
    """A note if the name's extension promises another format."""
    extension = PurePosixPath(name).suffix.lower()
    honest = formats.EXTENSIONS.get(extension, source_format) == source_format
    return "" if honest else f"named {extension}, holds {source_format}"


def _left_out(image: ImageFile.ImageFile) -> str:
    """A note if the file holds more pictures than the one that was read."""
    more = "mp" in image.info  # the index of a multi-picture JPEG
    with contextlib.suppress(Exception):  # broken later frames of a GIF
        more = more or bool(getattr(image, "is_animated", False))
    return "further pictures in it left out" if more else ""


def _joined(*notes: str) -> str:
    return "; ".join(note for note in notes if note)


def _one_line(error: Exception) -> str:
    """An exception's words, fit for a table: one line, printable, short."""
    words = " ".join(str(error).split()) or type(error).__name__
    return "".join(c if c.isprintable() else "?" for c in words)[:200]


def _reason(error: Exception, data: bytes, source_format: str) -> Reason:
    """Why a decoder failed. Pillow has no finer exceptions: two reasons are read from its words."""
    words = str(error).lower()
    bombs = Image.DecompressionBombError | Image.DecompressionBombWarning
    if isinstance(error, bombs) or "too large" in words or "too much memory" in words:
        return Reason.too_large
    if formats.is_cut(data, source_format):
        return Reason.truncated
    known = ("cannot handle", "unsupported", "not yet supported", "unknown pixel mode")
    return Reason.unsupported if any(phrase in words for phrase in known) else Reason.corrupt
