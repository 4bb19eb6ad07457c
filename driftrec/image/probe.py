"""What an image file says of itself before anything is decoded: read from its first bytes, and its last.

Nothing but `Header` leaves `read_header`, whatever the bytes. A whole file is read only where its end is not as it
should be, to tell one that was cut from one with something behind its end. Damage inside the pixels is not seen.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from driftrec.errors import BadImage, Reason, one_line
from driftrec.image import exif, isobmff, jpeg2000, jxl, png, sniff, tiff
from driftrec.image.decoding import reason_of
from driftrec.jpeg import ending, headers

HEAD, GROWTH, MOST_HEAD = 4096, 8, 1 << 25  # bytes: read first; so many times more where needed; at most
TAIL = 64  # bytes at the end that are looked at for the mark of a whole file
MOST_CHUNKS = 64  # of a WEBP that are walked for its EXIF
PNG_MODES = {0: "L", 2: "RGB", 3: "P", 4: "LA", 6: "RGBA"}  # by colour type
SAMPLES = {"L": 1, "P": 1, "LA": 2, "RGB": 3, "RGBA": 4}  # a pixel
JPEG_MODES = {1: "L", 3: "RGB", 4: "CMYK"}
OF_COMPONENTS = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # of a JPEG 2000
PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
EXIF, XMP, ICC = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0"  # begin JPEG segments


@dataclass(frozen=True)
class Header:
    """What is known of a file without decoding it. None where it does not say, or was not understood that far."""

    format: str | None = None  # by content: JPEG (also within JPEG XL), PNG, WEBP, TIFF, BMP, GIF, AVIF, HEIC, JP2, JXL
    width: int | None = None  # pixels, as stored (EXIF orientation not applied)
    height: int | None = None
    mode: str | None = None  # as stored: L, LA, RGB, RGBA, P, CMYK; of TIFFs what Pillow calls it
    depth: int | None = None  # bits a sample
    components: int | None = None  # samples a pixel
    progressive: bool | None = None  # JPEG only, as are the next four
    subsampling: str | None = None
    quality: int | None = None  # estimated from the tables, 1 to 100
    exact: bool | None = None  # whether the tables are libjpeg's of that quality
    orientation: int | None = None  # EXIF's, 1 to 8; None without EXIF
    exif: bool = False
    gps: bool = False  # a position in EXIF
    xmp: bool = False
    icc: bool = False
    reason: Reason | None = None  # why it cannot be restored, as far as its headers tell
    detail: str = ""


def read_header(file: BinaryIO, size: int, max_pixels: int) -> Header:
    """Read what a file says of itself.

    Args:
        file: seekable; few, small reads are made. What storage raises (DriftRecError, but for BadImage) goes through.
        size: bytes of the file.
        max_pixels: larger ones have the reason `too_large`.
    """
    found: dict[str, Any] = {}
    source = _Source(file, size, max_pixels, file.read(HEAD))
    try:
        found["format"] = sniff.identify(source.head)
        READERS[found["format"]](source, found)
        sniff.check_size(found["width"], found["height"], max_pixels)
    except BadImage as error:
        known = error.reason != Reason.not_an_image  # whose words count the bytes they were given
        detail = error.detail if known else f"{size} bytes of {sniff.looks_like(source.head)}"
        return Header(**found, reason=error.reason, detail=detail)
    except MemoryError:
        return Header(**found, reason=Reason.out_of_memory, detail=f"no memory for looking at this {found['format']}")
    except (struct.error, OSError, SyntaxError, ValueError, TypeError, KeyError, OverflowError) as error:
        reason = reason_of(error, source.whole(), found["format"])
        return Header(**found, reason=reason, detail=f"{found['format']}: {one_line(error)}")
    return Header(**found)


@dataclass
class _Source:
    """A file of which the beginning has been read."""

    file: BinaryIO
    size: int  # bytes
    max_pixels: int
    head: bytes  # read so far; the file stands behind it until something else is asked for

    def more(self, length: int) -> None:
        """Read so much more of the beginning."""
        self.head += self.file.read(length)

    def tail(self) -> bytes:
        """The last bytes."""
        if self.size <= len(self.head):
            return self.head[-TAIL:]
        self.file.seek(max(0, self.size - TAIL))
        return self.file.read(TAIL)

    def whole(self) -> bytes:
        """All bytes."""
        self.file.seek(0)
        return self.file.read()


def _jpeg(source: _Source, found: dict[str, Any]) -> None:
    while True:
        try:
            segments, _ = headers.segments(source.head)
            break
        except BadImage:
            if len(source.head) >= min(source.size, MOST_HEAD):
                raise
            source.more((GROWTH - 1) * len(source.head))
    info = headers.info_of(segments)
    if not info.height:
        info = headers.inspect(ending.mended(source.whole(), source.max_pixels)[0])
    found |= {
        "width": info.width,
        "height": info.height,
        "mode": JPEG_MODES.get(info.components),
        "depth": info.precision,
        "components": info.components,
        "progressive": info.progressive,
        "subsampling": info.subsampling,
        "quality": info.quality,
        "exact": info.exact if info.tables else None,
    }
    blocks = [body for marker, body in segments if marker == 0xE1]
    found["xmp"] = any(body.startswith(XMP) for body in blocks)
    found["icc"] = any(marker == 0xE2 and body.startswith(ICC) for marker, body in segments)
    _exif(next((body for body in blocks if body.startswith(EXIF)), None), found)
    if info.precision != 8:
        raise BadImage(Reason.unsupported, f"JPEG of {info.precision}-bit samples: convert it to a 16-bit PNG")
    if not info.tables:
        raise BadImage(Reason.corrupt, "JPEG without the quantisation tables that it names")
    if sniff.is_cut(source.tail(), "JPEG"):
        ending.mended(source.whole(), source.max_pixels)  # raises what is wrong


def _exif(block: bytes | None, found: dict[str, Any]) -> None:
    """What EXIF says, with its prefix or without."""
    if block:
        found["exif"] = True
        found["orientation"] = exif.upright(block)[0]
        found["gps"] = exif.has_tag(block, exif.GPS_DIRECTORY)


def _png(source: _Source, found: dict[str, Any]) -> None:
    found["width"], found["height"] = png.size(source.head)
    found["depth"] = png.depth(source.head)
    found["mode"] = PNG_MODES.get(source.head[25])
    found["components"] = SAMPLES.get(found["mode"] or "")
    position = len(png.SIGNATURE)
    while position + 8 <= len(source.head):
        length, kind = struct.unpack_from(">I4s", source.head, position)
        if kind in (b"IDAT", b"IEND"):  # what stands behind the pixels is not looked for
            break
        end = position + 12 + length
        if end + 8 > len(source.head) and end < MOST_HEAD:
            source.more(end + HEAD - len(source.head))
        body = source.head[position + 8 : position + 8 + length]
        found["icc"] = found.get("icc", False) or kind == b"iCCP"
        found["xmp"] = found.get("xmp", False) or (kind == b"iTXt" and body.startswith(png.XMP))
        if kind == b"eXIf":
            _exif(body, found)
        position = end
    if not source.tail().endswith(PNG_END):
        png.kept(source.whole())  # raises what is wrong


def _webp(source: _Source, found: dict[str, Any]) -> None:
    found["width"], found["height"] = sniff.webp_size(source.head)
    kind, flags = source.head[12:16], source.head[20]
    alpha = bool(flags & 0x10) if kind == b"VP8X" else kind == b"VP8L" and bool(source.head[24] & 0x10)  # RFC 9649
    found |= {"mode": "RGBA" if alpha else "RGB", "components": 4 if alpha else 3, "depth": 8}
    if source.size < 8 + int.from_bytes(source.head[4:8], "little"):
        raise BadImage(Reason.truncated, f"WEBP of {source.size} bytes that should have more")
    if kind == b"VP8X":
        found |= {"icc": bool(flags & 0x20), "xmp": bool(flags & 0x04)}
        if flags & 0x08:
            _exif(_webp_exif(source.file), found)


def _webp_exif(file: BinaryIO) -> bytes | None:
    """The EXIF chunk of an extended WEBP, which mostly stands behind the pixels."""
    position = 12
    for _ in range(MOST_CHUNKS):
        file.seek(position)
        start = file.read(8)
        if len(start) < 8:
            return None
        length = int.from_bytes(start[4:], "little")
        if start[:4] == b"EXIF":
            return file.read(min(length, MOST_HEAD))
        position += 8 + length + length % 2
    return None


def _gif(source: _Source, found: dict[str, Any]) -> None:
    found["width"], found["height"] = struct.unpack_from("<HH", source.head, 6)
    found |= {"mode": "P", "components": 1, "depth": 8}
    if sniff.is_cut(source.tail(), "GIF") and sniff.is_cut(source.whole(), "GIF"):
        raise BadImage(Reason.truncated, "GIF without its end mark")


def _bmp(source: _Source, found: dict[str, Any]) -> None:
    if len(source.head) < 30:
        raise BadImage(Reason.truncated, "BMP ends inside its header")
    (start, kind) = struct.unpack_from("<II", source.head, 10)
    width, height, _, bits = struct.unpack_from("<HHHH" if kind == 12 else "<iiHH", source.head, 18)
    packed = 0 if kind == 12 else int.from_bytes(source.head[30:34], "little")
    samples = 1 if bits <= 8 else 4 if bits == 32 else 3
    mode = "P" if bits <= 8 else "RGB"
    found |= {"width": abs(width), "height": abs(height), "mode": mode, "components": samples, "depth": min(bits, 8)}
    if packed in (0, 3) and source.size < start + (abs(width) * bits + 31) // 32 * 4 * abs(height):
        raise BadImage(Reason.truncated, f"BMP of {source.size} bytes in which pixels are missing")


def _tiff(source: _Source, found: dict[str, Any]) -> None:
    source.file.seek(0)
    image = tiff.opened(source.file)
    tags, turned = image.tag_v2, tiff.orientation(image)
    width, height = image.size if turned < 5 else image.size[::-1]  # Pillow tells them upright
    found |= {
        "width": width,
        "height": height,
        "mode": image.mode,
        "depth": tiff.depth(image),
        "components": tags.get(tiff.SAMPLES, 1),
        "orientation": turned,
        "exif": exif.EXIF_DIRECTORY in tags,
        "gps": exif.GPS_DIRECTORY in tags,
        "xmp": tiff.XMP in tags,
        "icc": tiff.ICC in tags,
    }
    tiff.check_tags(image, source.size, lambda: sniff.is_cut(source.whole(), "TIFF"))


def _heif(source: _Source, found: dict[str, Any]) -> None:
    source.more(GROWTH**2 * HEAD)  # where all pictures are described, before their data
    head, name = source.head, found["format"]
    width, height = isobmff.size(head)
    if not width * height:
        reason = Reason.truncated if source.size <= len(head) else Reason.corrupt
        raise BadImage(reason, f"{name} in which no picture is described")
    found |= {"width": width, "height": height, "mode": "RGB", "components": 3, "depth": isobmff.depth(head)}
    found |= {"exif": b"Exif" in head, "xmp": b"application/rdf+xml" in head, "icc": isobmff.has_profile(head)}
    if isobmff.end(source.file, source.size) != source.size:
        raise BadImage(Reason.truncated, f"{name} of {source.size} bytes that should have more")
    isobmff.check_depth(head, name)


def _bodies(file: BinaryIO, size: int, kinds: Collection[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """(kind, body) of a file's outermost boxes of some kinds. Of the others only the beginnings are read."""
    for kind, start, end in isobmff.outermost(file, size):
        if kind in kinds and end <= min(size, start + MOST_HEAD):
            file.seek(start)
            yield kind, file.read(end - start)


def _jp2(source: _Source, found: dict[str, Any]) -> None:
    while jpeg2000.CODESTREAM not in source.head[:-42] and len(source.head) < min(source.size, MOST_HEAD):
        source.more((GROWTH - 1) * len(source.head))
    size = jpeg2000.size(source.head)
    found |= {"width": size.width, "height": size.height, "depth": size.depth, "components": size.components}
    found |= {"mode": OF_COMPONENTS.get(size.components)}
    found["icc"] = jpeg2000.profile(source.head) is not None
    for _, body in _bodies(source.file, source.size, (b"uuid",)):
        found["xmp"] = found.get("xmp", False) or body.startswith(jpeg2000.XMP_UUID)
        _exif(body[16:] if body.startswith(jpeg2000.EXIF_UUID) else None, found)
    jpeg2000.check(source.head)
    if not source.tail().endswith(jpeg2000.END) and jpeg2000.is_cut(source.whole()):
        raise BadImage(Reason.truncated, "JPEG 2000 without its end marker")


def _jxl(source: _Source, found: dict[str, Any]) -> None:
    while True:
        try:
            header = jxl.header(source.head)
            break
        except BadImage:
            if len(source.head) >= min(source.size, MOST_HEAD):
                raise
            source.more((GROWTH - 1) * len(source.head))
    found |= {"width": header.width, "height": header.height, "depth": header.depth}
    sniff.check_size(header.width, header.height, source.max_pixels)
    outermost = list(isobmff.outermost(source.file, source.size)) if source.head.startswith(jxl.SIGNATURE) else []
    if any(end > source.size for _, _, end in outermost):
        raise BadImage(Reason.truncated, f"JPEG XL of {source.size} bytes that should have more")
    holds_jpeg = any(kind == jxl.JPEG_BOX for kind, _, _ in outermost)
    if holds_jpeg and (jpeg := jxl.jpeg_within(source.whole())):
        found["format"] = "JPEG"
        _jpeg(_Source(io.BytesIO(jpeg), len(jpeg), source.max_pixels, jpeg[:HEAD]), found)
        return
    jxl.check(source.head)
    found["icc"] = True  # its colours are always told, and a decoder makes a profile of that
    for kind, body in _bodies(source.file, source.size, (b"Exif", b"xml ")) if outermost else ():
        found["xmp"] = found.get("xmp", False) or kind == b"xml "
        _exif(jxl.exif_block(body) if kind == b"Exif" else None, found)
    found["orientation"] = 1 if found.get("exif") else None  # what EXIF says of it does not count


READERS: dict[str, Callable[[_Source, dict[str, Any]], None]] = {
    "JPEG": _jpeg,
    "PNG": _png,
    "WEBP": _webp,
    "TIFF": _tiff,
    "BMP": _bmp,
    "GIF": _gif,
    "AVIF": _heif,
    "HEIC": _heif,
    "JP2": _jp2,
    "JXL": _jxl,
}
