"""TIFF: what Pillow would bend refused, 16-bit colour read, and a writer for what a Picture holds.

(Pillow shows of 16-bit colour only 8 bits; its writer loses the camera's EXIF or fails on it as soon as it compresses.)

What is written: header, one directory with the EXIF directories behind it, strips. Lossless: deflate over the
horizontal differences of the pixels (predictor 2), which makes photographs a third smaller than deflate alone.
"""

import io
import sys
import zlib
from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import Any, BinaryIO, cast

from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from driftrec.errors import BadImage, Reason
from driftrec.image import exif, sniff
from driftrec.image.picture import Picture

# 1024x768 crops of two photographs, one core: level 1 gives 0.88 MB in 0.02 s, 4 0.82 MB in 0.03 s,
# 6 0.77 MB in 0.10 s.
LEVEL = 4
STRIP = 1 << 20  # bytes of pixels a strip, about

# Tags (TIFF 6.0, its supplement 2, DNG 1.4, XMP part 3).
NEW_SUBFILE_TYPE, IMAGE_WIDTH, IMAGE_HEIGHT, BITS_PER_SAMPLE, COMPRESSION, PHOTOMETRIC = (
    0x00FE, 0x0100, 0x0101, 0x0102, 0x0103, 0x0106,
)  # fmt: skip
STRIP_OFFSETS, SAMPLES, STRIP_HEIGHT, STRIP_BYTES, PLANAR, PREDICTOR = 0x0111, 0x0115, 0x0116, 0x0117, 0x011C, 0x013D
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES = 0x0142, 0x0143, 0x0144, 0x0145
EXTRA_SAMPLES, SAMPLE_FORMAT, XMP, IPTC, ICC, DNG_VERSION = 0x0152, 0x0153, 0x02BC, 0x83BB, 0x8773, 0xC612
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 0x011A, 0x011B, 0x0128
# Compressions that Pillow does not know.
COMPRESSIONS = {
    32767: "ARW's own", 32769: "PackBits of 1-bit samples", 32895: "IT8", 32908: "PixarFilm", 32909: "PixarLog",
    32947: "DCS", 33003: "JPEG 2000", 33005: "JPEG 2000", 34661: "JBIG", 34676: "SGILog", 34677: "SGILog24",
    34712: "JPEG 2000", 34713: "NEF's own", 34887: "LERC", 34892: "lossy JPEG of DNG", 50002: "JPEG XL",
    52546: "JPEG XL",
}  # fmt: skip
# Values of some of them, and a type.
REDUCED, PLAIN, DEFLATE, DIFFERENCES, INCH = 1, 1, 8, 2, 2
UNDEFINED = 7  # bytes
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB = 0, 1, 2
UNNAMED, PREMULTIPLIED, STRAIGHT = 0, 1, 2
TOGETHER = 1  # the samples of a pixel

PAGES = 8  # of a file that are looked at for a second picture
# What makes Pillow's decoders take the low bytes for the high ones, by its names of byte orders.
LOW = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}


def check(image: TiffImageFile, data: bytes) -> None:
    """Refuse what Pillow would bend without a word, and a file in which pixels are missing."""
    check_tags(image, len(data), lambda: sniff.is_cut(data, "TIFF"))


def check_tags(image: TiffImageFile, size: int, is_cut: Callable[[], bool]) -> None:
    """`check` of a file of so many bytes; only where its directory is odd is asked whether it is cut."""
    tags = image.tag_v2
    if DNG_VERSION in tags or tags.get(NEW_SUBFILE_TYPE, 0) & REDUCED:
        raise BadImage(Reason.unsupported, "TIFF whose first page is a reduced copy (camera raw): develop it")
    _check_samples(image)
    tiled = TILE_OFFSETS in tags
    offsets = tags.get(TILE_OFFSETS if tiled else STRIP_OFFSETS, ())
    lengths = tags.get(TILE_BYTES if tiled else STRIP_BYTES, ())
    width, height = tags[IMAGE_WIDTH], tags[IMAGE_HEIGHT]
    wide, high = (tags[TILE_WIDTH], tags[TILE_HEIGHT]) if tiled else (width, tags.get(STRIP_HEIGHT, height))
    if tags.get(COMPRESSION, PLAIN) == PLAIN and not tiled and min(wide, high) > 0:  # as libtiff: counts may be wrong
        lengths = [min(length, most) for length, most in zip(lengths, _plain(image, len(offsets), high), strict=False)]
    end = max((a + b for a, b in zip(offsets, lengths, strict=False)), default=0)
    if end > size:
        raise BadImage(Reason.truncated, f"TIFF of {size} bytes with pixels up to byte {end}")
    if len(offsets) < -(-width // wide) * -(-height // high):
        reason = Reason.truncated if is_cut() else Reason.corrupt
        raise BadImage(reason, f"TIFF whose {len(offsets)} strips or tiles do not cover it")


def _plain(image: TiffImageFile, strips: int, high: int) -> list[int]:
    """Bytes that each strip of an uncompressed file has; as many where samples lie apart."""
    tags, height = image.tag_v2, image.tag_v2[IMAGE_HEIGHT]
    apart = tags.get(PLANAR, TOGETHER) != TOGETHER
    bits = tags.get(BITS_PER_SAMPLE, (1,))
    row = -(-tags[IMAGE_WIDTH] * (max(bits) if apart else max(sum(bits), bits[0] * tags.get(SAMPLES, 1))) // 8)
    each = max(1, -(-height // high))
    return [row * min(high, height - number % each * high) for number in range(strips)]


def opened(file: BinaryIO) -> TiffImageFile:
    """The file as Pillow opens it. Raises BadImage `unsupported` for a compression that it does not know."""
    try:
        return TiffImageFile(file)
    except SyntaxError as error:
        number = error.__cause__.args[0] if isinstance(error.__cause__, KeyError) else None
        if not isinstance(number, int):
            raise
        name = COMPRESSIONS.get(number, "a method that is not known here")
        detail = f"TIFF compressed by {name} ({number}): save it uncompressed, by LZW or deflate"
        raise BadImage(Reason.unsupported, detail) from None


def _check_samples(image: TiffImageFile) -> None:
    """Whether its samples are integers of 8 bits or fewer, or 16-bit ones that `low_bytes` or Pillow can read."""
    tags = image.tag_v2
    bits, kind = max(tags.get(BITS_PER_SAMPLE, (1,))), max(tags.get(SAMPLE_FORMAT, (1,)))
    if bits <= 8 and kind == 1:
        return
    premultiplied = PREMULTIPLIED in tags.get(EXTRA_SAMPLES, ())
    apart = tags.get(PLANAR, TOGETHER) != TOGETHER and image.mode in ("RGB", "RGBA")
    known = image.mode in ("RGB", "RGBA") or image.mode.startswith("I;16")
    if bits != 16 or kind != 1 or premultiplied or apart or not known:
        detail = f"TIFF of {bits} bits a channel, sample format {kind}, as {image.mode}"
        detail += ", planes apart" if apart else ", premultiplied alpha" if premultiplied else ""
        raise BadImage(Reason.unsupported, f"{detail}: convert it to 16-bit integers, chunky, straight alpha")


def depth(image: TiffImageFile) -> int:
    """Bits a sample."""
    return max(image.tag_v2.get(BITS_PER_SAMPLE, (1,)))


def orientation(image: TiffImageFile) -> int:
    """1 to 8, of an image that is not loaded yet: loading turns it and takes the tag away."""
    stated = cast(Any, image.tag_v2.get(exif.ORIENTATION))  # whatever the file holds
    return stated if isinstance(stated, int) and 1 <= stated <= 8 else 1


def inverted(image: TiffImageFile) -> bool:
    """Whether it is 16-bit grey in which 0 is white; Pillow turns it around only up to 8 bits."""
    return image.mode.startswith("I;16") and image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO


def low_bytes(data: bytes) -> Image.Image:
    """The lower halves of the samples of a 16-bit RGB or RGBA image, as 8-bit one; what `check` let pass."""
    image = TiffImageFile(io.BytesIO(data))
    image.info.pop("xmp", None)  # as `decode` does, so that neither is turned by what it says
    halves: list[Any] = []
    for tile in image.tile:
        assert isinstance(tile.args, tuple), "what TIFFs have"
        rawmode, *rest = tile.args
        halves.append(tile._replace(args=(rawmode[:-1] + LOW[rawmode[-1]], *rest)))
    image.tile = halves
    return image


def notes(image: TiffImageFile) -> list[str]:
    """What of the file is not kept as it is."""
    extra = image.tag_v2.get(EXTRA_SAMPLES, ())
    return [
        *(["a channel without a meaning left out"] if UNNAMED in extra else []),
        *(["premultiplied alpha made straight"] if PREMULTIPLIED in extra else []),
    ]


def has_pages(image: TiffImageFile) -> bool:
    """Whether a page behind the first is a picture of its own and no reduced copy. Moves to another page."""
    for page in range(1, PAGES):
        try:
            image.seek(page)
        except EOFError:
            return False
        if not image.tag_v2.get(NEW_SUBFILE_TYPE, 0) & REDUCED:
            return True
    return False


def encode(picture: Picture, tags: Mapping[int, Any], xmp: bytes | None = None, level: int = LEVEL) -> bytes:
    """TIFF bytes.

    Args:
        picture: its pixels, ICC profile and resolution.
        tags: further ones of the first directory by number; a dict is a directory of its own.
        xmp: XMP packet.
        level: zlib level, 1 (fast) to 9 (smallest).
    """
    height, width, channels = picture.height, picture.width, picture.channels
    rows = max(1, STRIP // (width * channels * picture.depth // 8))
    strips = [_strip(picture.rows(top, top + rows), level) for top in range(0, height, rows)]
    directory = ImageFileDirectory_v2()
    for tag, value in tags.items():
        directory[tag] = value
    directory[IMAGE_WIDTH], directory[IMAGE_HEIGHT] = width, height
    directory[BITS_PER_SAMPLE] = (picture.depth,) * channels
    directory[COMPRESSION] = DEFLATE
    directory[PHOTOMETRIC] = BLACK_IS_ZERO if picture.grey else RGB
    directory[SAMPLES] = channels
    directory[STRIP_HEIGHT] = rows
    lengths = [len(strip) for strip in strips]
    directory[STRIP_OFFSETS] = tuple(accumulate(lengths[:-1], initial=0))  # Pillow adds where the strips begin
    directory[STRIP_BYTES] = tuple(lengths)
    directory[PREDICTOR] = DIFFERENCES
    if picture.alpha is not None:
        directory[EXTRA_SAMPLES] = STRAIGHT
    if picture.dpi:
        directory[X_RESOLUTION], directory[Y_RESOLUTION], directory[RESOLUTION_UNIT] = *picture.dpi, INCH
    if xmp:
        directory[XMP] = xmp
    if picture.iptc:
        directory.tagtype[IPTC] = UNDEFINED
        directory[IPTC] = picture.iptc
    if picture.icc:
        directory[ICC] = picture.icc
    out = io.BytesIO()
    directory.save(out)
    return b"".join([out.getbuffer(), *strips])


def _strip(rows: NDArray[Any], level: int) -> bytes:
    differences = rows.copy()
    differences[:, 1:] -= rows[:, :-1]  # modulo 256, or 65536
    return zlib.compress(differences.astype(differences.dtype.newbyteorder("<")).tobytes(), level)
