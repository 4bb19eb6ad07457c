"""Bytes to a Picture. Nothing but `BadImage` leaves `decode`, whatever the bytes.

What can neither be kept nor converted in a way that a note can name (float, Lab, more than 8 bits in an AVIF, ...) is
refused as `unsupported`, never converted silently. A JPEG whose scan is broken inside but ends well decodes to
damaged pixels: libjpeg does not tell.

No state of Pillow is changed, so any number of threads may decode at once. Pillow's own limit stays: TIFF and WEBP
above twice `PIL.Image.MAX_IMAGE_PIXELS` (179 megapixels) are always `too_large`.
"""

import contextlib
import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Literal

import numpy as np
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from driftrec.errors import BadImage, Reason, one_line
from driftrec.image import isobmff, jpeg2000, jxl, pixels, png, sniff, tiff, xmp
from driftrec.image.metadata import Metadata, fitting, has_video, joined, left_out, metadata
from driftrec.image.picture import Chunk, Mode, Picture, Video
from driftrec.jpeg import ending
from driftrec.jpeg.headers import inspect

Frames = Literal["first", "skip"]

MAX_PIXELS = 100_000_000

# The plugins are called by name, never through Image.open: only these can run, and the size limit is ours.
PLUGINS: dict[str, Callable[[io.BytesIO], Image.Image]] = {
    "JPEG": JpegImageFile,  # takes the first picture of an MPO
    "PNG": PngImageFile,
    "WEBP": WebPImageFile,
    "TIFF": tiff.opened,
    "BMP": BmpImageFile,
    "GIF": GifImageFile,
    "AVIF": isobmff.avif,
    "HEIC": isobmff.heic,
    "JP2": jpeg2000.opened,
    "JXL": jxl.opened,
}


def decode(data: bytes, name: str = "", max_pixels: int = MAX_PIXELS, frames: Frames = "first") -> Picture:
    """Read an image file of whatever content. The EXIF orientation is applied and set to 1.

    Args:
        data: the whole file: JPEG, PNG, WEBP, TIFF, BMP, GIF, AVIF, JPEG 2000, or where their packages are installed
            HEIC (pillow-heif) and JPEG XL (pillow-jxl-plugin). Of a JPEG XL that holds a JPEG, that is read.
        name: the file's name; an extension that lies is noted, no more.
        max_pixels: larger ones are refused by their header.
        frames: of an animation, or the pages of a TIFF: take the first with a note, or refuse the file.

    Raises:
        BadImage: `empty`, `not_an_image`, `truncated`, `corrupt`, `too_large`, `unsupported`, `animated` or
            `out_of_memory`; nothing else.
    """
    source_format = sniff.identify(data)
    try:
        return _decode(data, source_format, name, max_pixels, frames)
    except BadImage:
        raise
    except MemoryError as error:
        raise BadImage(Reason.out_of_memory, f"no memory for decoding this {source_format}") from error
    except Exception as error:  # decoders raise anything on bad bytes
        raise BadImage(reason_of(error, data, source_format), f"{source_format}: {one_line(error)}") from error


def from_pil(image: Image.Image) -> Picture:
    """A Picture of a PIL image as it lies: orientation neither applied nor reset, so that size and EXIF stay.

    Raises:
        BadImage: `unsupported` for modes that PIL could not get back (CMYK, float, ...).
    """
    image.load()
    if image.mode == "CMYK":
        raise BadImage(Reason.unsupported, "CMYK pixels would come back as RGB: convert them first")
    return _picture(image, metadata(image))


def _decode(data: bytes, source_format: str, name: str, max_pixels: int, frames: Frames) -> Picture:
    """The picture, or whatever its decoder raises."""
    sniff.check_header(data, source_format, max_pixels)
    if source_format == "JXL" and (jpeg := jxl.jpeg_within(data)):
        picture = _decode(jpeg, "JPEG", "", max_pixels, frames)
        return replace(picture, note=joined(_lie(name, source_format), jxl.WITH_JPEG, picture.note))
    chunks: tuple[Chunk, ...] = ()
    mended = ""
    if source_format == "PNG":
        data, chunks, mended = png.kept(data)
    elif source_format == "JPEG":
        data, mended = ending.mended(data, max_pixels)
    image = PLUGINS[source_format](io.BytesIO(data))
    sniff.check_size(*image.size, max_pixels)
    moving = source_format == "JXL" and jxl.header(data).moving
    if frames == "skip" and (moving or _has_frames(PLUGINS[source_format](io.BytesIO(data)))):
        raise BadImage(Reason.animated, f"{source_format} of several frames or pages, which this run skips")
    turned, packet, notes = 1, None, [mended]
    if isinstance(image, TiffImageFile):
        tiff.check(image, data)
        turned, packet = tiff.orientation(image), image.info.pop("xmp", None)
        notes += tiff.notes(image)
    notes += ["further pictures in it left out"] if moving else []
    layers = _deep(image, data)
    image.load()  # turns a TIFF upright by its tag; it would by its XMP, were that not away
    found = metadata(image, packet)
    behind = ending.behind(data) if source_format == "JPEG" else b""
    motion = has_video(behind) and "mp" not in image.info
    notes += [found.note, left_out(image, b"" if motion else behind.strip(ending.PADDING))]
    if source_format == "HEIC" and isobmff.has_box(data, b"mpvd"):
        notes.append("a video in it left out")
    orientation = max(turned, found.orientation)
    stored = (image.height, image.width) if turned >= 5 else image.size
    found = found.upright(orientation, stored)
    picture = _picture(image, found, layers, found.orientation)
    video = Video(behind, found.told and xmp.without_claims(found.told, xmp.GAIN_MAP)) if motion else None
    quality = steps = None
    if source_format == "JPEG":
        with contextlib.suppress(BadImage):  # without tables; Pillow could read it all the same
            info = inspect(data)
            quality, steps = info.quality, next(iter(info.tables), None)
    note = joined(_lie(name, source_format), picture.note, *notes)
    kept = {"chunks": chunks, "video": video, "quality": quality, "steps": steps, "orientation": orientation}
    return replace(picture, source_format=source_format, note=note, **kept)


def _deep(image: Image.Image, data: bytes) -> list[pixels.Layer]:
    """How 16-bit samples are read that Pillow does not show; none for all others."""
    if isinstance(image, PngImageFile):
        if png.depth(data) != 16:
            _scale_colour_key(image, png.depth(data))
            return []
        if png.with_all_bytes(image, data):
            return [pixels.Layer(lambda: image, pixels.big_endian)]
        low_bytes = png.low_bytes
    elif isinstance(image, TiffImageFile) and tiff.depth(image) == 16:
        if tiff.inverted(image):
            return [pixels.Layer(lambda: image, pixels.negative)]
        low_bytes = tiff.low_bytes
    else:
        return []
    if image.mode not in ("RGB", "RGBA"):
        return []

    def low() -> Image.Image:
        image.close()  # frees its memory
        return low_bytes(data)

    return [pixels.Layer(lambda: image, pixels.high_bytes), pixels.Layer(low, np.asarray)]


def _picture(image: Image.Image, found: Metadata, layers: Sequence[pixels.Layer] = (), orientation: int = 1) -> Picture:
    """A loaded image with all that was found beside its pixels. layers: how it is read, if its mode does not tell."""
    how = pixels.reading(image, found.icc)
    key = None if image.mode in ("P", "PA") else image.info.get("transparency")
    rgb, alpha, grey = pixels.gather(layers or [pixels.Layer(lambda: image, how.read)], orientation)
    if not rgb.size:
        raise BadImage(Reason.corrupt, "no pixels")
    if alpha is None and key is not None:
        alpha = pixels.keyed(rgb, key)
    icc, misfit = fitting(how.icc, grey)
    mode: Mode = ("L" if grey else "RGB") if alpha is None else ("LA" if grey else "RGBA")
    note = joined(how.note, misfit)
    picture = Picture(rgb, mode, alpha, icc, found.exif, found.dpi, note=note, xmp=found.xmp)
    return replace(picture, comment=found.comment, iptc=found.iptc)


def _scale_colour_key(image: PngImageFile, depth: int) -> None:
    """Pillow widens 2- and 4-bit grey to 8 bits, but not the grey that the tRNS chunk makes transparent."""
    if image.mode == "L" and "transparency" in image.info:
        image.info["transparency"] = image.info["transparency"] * 255 // (2**depth - 1)


def _has_frames(image: Image.Image) -> bool:
    """Whether it is an animation or has further pages. (The second picture of an MPO or HEIC is no frame.)"""
    with contextlib.suppress(Exception):  # broken later frames: they are none
        if isinstance(image, TiffImageFile):
            return tiff.has_pages(image)
        return image.format in ("GIF", "PNG", "WEBP", "AVIF") and bool(getattr(image, "is_animated", False))
    return False


def _lie(name: str, source_format: str) -> str:
    """A note if the name's extension promises another format."""
    extension = PurePosixPath(name).suffix.lower()
    honest = sniff.EXTENSIONS.get(extension, source_format) == source_format
    return "" if honest else f"named {extension}, holds {source_format}"


def reason_of(error: Exception, data: bytes, source_format: str) -> Reason:
    """Why a decoder failed. Pillow has no finer exceptions: two reasons are read from its words."""
    words = str(error).lower()
    bombs = Image.DecompressionBombError | Image.DecompressionBombWarning
    if isinstance(error, bombs) or "too large" in words or "too much memory" in words:
        return Reason.too_large
    if sniff.is_cut(data, source_format):
        return Reason.truncated
    known = ("cannot handle", "unsupported", "not yet supported", "unknown pixel mode")
    return Reason.unsupported if any(phrase in words for phrase in known) else Reason.corrupt
