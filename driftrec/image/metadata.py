"""What lies in a file beside its pixels: EXIF, profile, XMP, resolution, comment. Reads loaded PIL images."""

import contextlib
import math
from dataclasses import dataclass, replace

from PIL import Image, ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from driftrec.errors import one_line
from driftrec.image import exif, xmp

MORE_XMP_SEGMENT = b"http://ns.adobe.com/xmp/extension/\0"  # XMP part 3, 1.1.3.1
IPTC_RESOURCE = 0x0404  # of Photoshop


@dataclass(frozen=True)
class Metadata:
    """What a file holds beside its pixels. Fields as in Picture."""

    icc: bytes | None
    exif: bytes | None
    dpi: tuple[float, float] | None
    xmp: bytes | None
    comment: bytes | None
    orientation: int  # 1 to 8: how the pixels lie
    note: str

    def upright(self, orientation: int) -> "Metadata":
        """What holds once the pixels are turned from that orientation."""
        if orientation == 1:
            return self
        return replace(
            self,
            exif=self.exif and exif.upright(self.exif)[1],
            dpi=self.dpi[::-1] if self.dpi and orientation >= 5 else self.dpi,
            xmp=self.xmp and xmp.upright(self.xmp),
        )


def metadata(image: Image.Image, packet: object = None) -> Metadata:
    """Of a loaded image. packet: its XMP if that was taken from it."""
    block, notes = None, list[str]()
    try:
        block = _exif_block(image)
    except Exception as error:  # the tags of a TIFF; its pixels are sound all the same
        notes.append(f"EXIF unreadable and left out ({one_line(error)})")
    comment = image.info.get("comment")
    if isinstance(image, JpegImageFile):
        comment = b"\n".join(body for name, body in image.applist if name == "COM")
        notes += _jpeg_notes(image)
    packet = packet or image.info.get("xmp")
    return Metadata(
        icc=image.info.get("icc_profile") or None,
        exif=exif.without_thumbnail(block) if block else None,
        dpi=_dpi(image, block),
        xmp=packet if isinstance(packet, bytes) and packet else None,
        comment=comment if isinstance(comment, bytes) and comment else None,
        orientation=exif.upright(block)[0] if block else 1,
        note=joined(*notes),
    )


def left_out(image: ImageFile.ImageFile) -> str:
    """A note if the file holds more pictures than the one that was read."""
    more = "mp" in image.info  # the index of a multi-picture JPEG
    with contextlib.suppress(Exception):  # broken later frames of a GIF
        more = more or bool(getattr(image, "is_animated", False))
    return "further pictures in it left out" if more else ""


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
    stated = image.info.get("jfif_unit") or exif.has_tag(block, exif.X_RESOLUTION)
    if isinstance(image, TiffImageFile):
        stated = exif.X_RESOLUTION in image.tag_v2
    if isinstance(image, (JpegImageFile, TiffImageFile)) and not stated:
        return None  # Pillow makes up 72, or 1
    try:
        x, y = (float(value) for value in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return (x, y) if all(math.isfinite(v) and 1 <= v <= 65_535 for v in (x, y)) else None


def _jpeg_notes(image: JpegImageFile) -> list[str]:
    """What of a JPEG's metadata is left out."""
    long = any(body.startswith(MORE_XMP_SEGMENT) for _, body in image.applist)
    return [
        *(["IPTC left out"] if IPTC_RESOURCE in image.info.get("photoshop", {}) else []),
        *(["the long part of its XMP left out"] if long else []),
    ]


def joined(*notes: str) -> str:
    """Notes as one, empty ones left out."""
    return "; ".join(note for note in notes if note)
