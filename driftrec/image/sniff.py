"""What bytes are, before any decoder sees them: their format, whether they are whole, what must be refused.

Everything here looks at headers and frames only; `driftrec.image` decodes.
"""

import struct

from driftrec.errors import BadImage, Reason
from driftrec.image import exif, isobmff, jpeg2000, jxl, png

MAGIC = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),  # BigTIFF
    (b"MM\0+", "TIFF"),
    (jpeg2000.SIGNATURE, "JP2"),
    (jpeg2000.CODESTREAM, "JP2"),
    (jxl.SIGNATURE, "JXL"),
    (jxl.CODESTREAM, "JXL"),
)
EXTENSIONS = {
    ".avif": "AVIF", ".avifs": "AVIF", ".heic": "HEIC", ".heif": "HEIC", ".hif": "HEIC",
    ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".mpo": "JPEG",
    ".png": "PNG", ".apng": "PNG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF",
    ".bmp": "BMP", ".dib": "BMP", ".gif": "GIF", ".jxl": "JXL",
    ".jp2": "JP2", ".j2k": "JP2", ".j2c": "JP2", ".jpc": "JP2", ".jpf": "JP2", ".jpx": "JP2",
}  # fmt: skip
# Cameras' raw files: what a TIFF reader finds in most of them is a preview.
RAW_SUFFIXES = frozenset(
    ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .iiq .kdc .mef .mos .nef .nrw .orf .pef .raf .raw .rw2 .rwl .sr2 .srf "
    ".srw .x3f".split()
)
BMP_HEADERS = {12, 40, 52, 56, 64, 108, 124}  # the sizes that name a BMP header's version

# Pictures that are not read: (offset, magic, name).
OTHER_IMAGES = (
    (0, b"8BPS", "Photoshop"),
    (0, b"\0\0\1\0", "ICO"),
    (0, b"qoif", "QOI"),
    *((0, b"P%d%c" % (number, space), "PNM") for number in range(1, 8) for space in b"\n\r\t "),
    (0, b"\x76\x2f\x31\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"gimp xcf", "GIMP"),
    (0, b"DDS ", "DDS"),
    (0, b"FUJIFILMCCD-RAW", "camera raw"),
    (0, b"IIU\0", "camera raw"),
    (0, b"IIRO", "camera raw"),
)
OTHER_FILES = (
    (b"%pdf", "PDF"),
    (b"pk\3\4", "a ZIP archive"),
    (b"\x1f\x8b", "gzip"),
    (b"<svg", "SVG"),
    (b"<?xml", "XML"),
    (b"{", "JSON"),
)


def identify(data: bytes) -> str:
    """The format by content: JPEG, PNG, WEBP, TIFF, BMP, GIF, AVIF, HEIC, JP2 (JPEG 2000) or JXL (JPEG XL).

    Raises:
        BadImage: `empty`, `truncated` (too short to tell), `unsupported` (an image of a kind that is not read),
            `not_an_image`.
    """
    if not data:
        raise BadImage(Reason.empty, "0 bytes")
    for magic, name in MAGIC:
        if data.startswith(magic):
            return name
        if magic.startswith(data):
            raise BadImage(Reason.truncated, f"only the first {len(data)} bytes of a {name}")
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:4] == b"RIFF"[: len(data)] and len(data) < 12:
        raise BadImage(Reason.truncated, f"only the first {len(data)} bytes of a RIFF file")
    if data.startswith(b"BM") and (len(data) < 18 or int.from_bytes(data[14:18], "little") in BMP_HEADERS):
        return "BMP"
    if name := isobmff.identify(data):
        return name
    for offset, magic, name in OTHER_IMAGES:
        if data.startswith(magic, offset):
            raise BadImage(Reason.unsupported, f"{name} is not read: convert it to PNG or TIFF")
    raise BadImage(Reason.not_an_image, f"{len(data)} bytes of {looks_like(data)}")


def looks_like(data: bytes) -> str:
    """A word for people: what data that is no image seems to be."""
    head = data[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if head.startswith((b"<!doctype html", b"<html", b"<head", b"<body")) or b"<html" in head:
        return "HTML"
    for magic, name in OTHER_FILES:
        if head.startswith(magic):
            return name
    if not data.strip(b"\0"):
        return "zeros"
    try:
        text = data[:1024].decode("utf-8", errors="strict" if len(data) <= 1024 else "ignore")
    except UnicodeDecodeError:
        return "unknown data"
    return "text" if all(c.isprintable() or c.isspace() for c in text) else "unknown data"


def check_header(data: bytes, name: str, max_pixels: int) -> None:
    """Refuse, before a decoder is made, what the decoders would let pass or choke on.

    PNG: what the decoder makes of a huge header is not ours to find out. WEBP, JXL: the decoder allocates the whole
    canvas when the file is opened. AVIF, HEIC, JP2, JXL: decoders show 8 bits of whatever there is.
    """
    match name:
        case "PNG":
            check_size(*png.size(data), max_pixels)
        case "WEBP":
            check_size(*webp_size(data), max_pixels)
        case "AVIF" | "HEIC":
            isobmff.check_depth(data, name)
        case "JP2":
            size = jpeg2000.size(data)
            check_size(size.width, size.height, max_pixels)
            jpeg2000.check(data)
        case "JXL":
            found = jxl.header(data)
            check_size(found.width, found.height, max_pixels)
            jxl.check(data)
        case _:
            pass


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raises BadImage `too_large` if there are more pixels than the limit."""
    if width * height > max_pixels:
        detail = f"{width}x{height} are {width * height} pixels; max_pixels is {max_pixels}"
        raise BadImage(Reason.too_large, detail)


def webp_size(data: bytes) -> tuple[int, int]:
    """(width, height) of the canvas, from the header (RFC 9649)."""
    if len(data) < 30:
        raise BadImage(Reason.truncated, "WEBP ends inside its header")
    match data[12:16]:
        case b"VP8 ":
            width, height = struct.unpack_from("<HH", data, 26)
            return width & 0x3FFF, height & 0x3FFF
        case b"VP8L":
            bits = int.from_bytes(data[21:25], "little")
            return (bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1
        case b"VP8X":
            return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
        case kind:
            raise BadImage(Reason.corrupt, f"WEBP with an unknown first chunk {kind!r}")


def is_cut(data: bytes, name: str) -> bool:
    """Whether the end of a file that could not be decoded is missing (rather than its inside broken)."""
    match name:
        case "JPEG":
            return b"\xff\xd9" not in data[-64:]  # a few bytes behind the end marker are common
        case "GIF":
            return not data.rstrip(b"\0").endswith(b";")
        case "WEBP":
            return len(data) < 8 + int.from_bytes(data[4:8], "little")
        case "BMP":
            return len(data) < max(54, int.from_bytes(data[2:6], "little"))
        case "TIFF":
            return _tiff_is_cut(data)
        case "AVIF" | "HEIC":
            return isobmff.is_cut(data)
        case "JP2":
            return jpeg2000.is_cut(data)
        case "JXL":
            return jxl.is_cut(data)
        case _:
            return False  # PNG: driftrec.image.png has already told


def _tiff_is_cut(data: bytes) -> bool:
    """Whether the first directory, the pointer behind it, or data that it points to lie behind the end."""
    try:
        return any(max(entry.end, entry.position + 8) > len(data) for entry in exif.directory(data))
    except struct.error:
        return True
