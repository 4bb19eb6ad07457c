"""What lies in a file beside its pixels: EXIF, profile, XMP, resolution, comment. Reads loaded PIL images."""

import contextlib
import math
import struct
from dataclasses import dataclass, replace
from typing import Any, cast

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from driftrec.errors import one_line
from driftrec.image import exif, tiff, xmp

VIDEOS = (b"ftyp", b"MotionPhoto_Data")  # of motion photos: Google's and Samsung's
STRAY = 64  # bytes behind a picture's end that are not worth a word
ICC_HEADER = 128  # bytes
MORE_XMP_SEGMENT = b"http://ns.adobe.com/xmp/extension/\0"  # XMP part 3, 1.1.3.1
IPTC_RESOURCE = 0x0404  # of Photoshop


@dataclass(frozen=True)
class Metadata:
    """What a file holds beside its pixels. Fields as in Picture."""

    icc: bytes | None
    exif: bytes | None
    dpi: tuple[float, float] | None
    xmp: bytes | None  # without what it says of things behind the picture
    told: bytes | None  # the same with all that it says
    comment: bytes | None
    iptc: bytes | None
    orientation: int  # 1 to 8: how the pixels lie
    note: str

    def upright(self, orientation: int, size: tuple[int, int]) -> "Metadata":
        """What holds once the pixels are turned from that orientation, in which they are so wide and high."""
        if orientation == 1:
            return self
        return replace(
            self,
            exif=self.exif and exif.with_subject_turned(exif.upright(self.exif)[1], orientation, size),
            dpi=self.dpi[::-1] if self.dpi and orientation >= 5 else self.dpi,
            xmp=self.xmp and xmp.upright(self.xmp),
            told=self.told and xmp.upright(self.told),
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
    told = packet if isinstance(packet, bytes) and packet else None
    notes.append(_aspect(image))
    return Metadata(
        icc=image.info.get("icc_profile") or None,
        exif=exif.without_thumbnail(block) if block else None,
        dpi=_dpi(image, block),
        xmp=told and xmp.without_claims(told),
        told=told,
        comment=comment if isinstance(comment, bytes) and comment else None,
        iptc=_iptc(image),
        orientation=exif.upright(block)[0] if block else 1,
        note=joined(*notes),
    )


def has_video(behind: bytes) -> bool:
    """Whether what stands behind a JPEG's end is a video and nothing else: no further picture lies before it."""
    return not behind.startswith(b"\xff\xd8") and any(sign in behind[:4096] for sign in VIDEOS)


def left_out(image: Image.Image, behind: bytes) -> str:
    """A note if the file holds more than the picture that was read. behind: what stands behind its end and is not kept,
    without padding.
    """
    more = "mp" in image.info or behind.startswith(b"\xff\xd8")  # the index of a multi-picture JPEG; one more JPEG
    with contextlib.suppress(Exception):  # broken later frames of a GIF
        more = more or bool(getattr(image, "is_animated", False))
    video = any(sign in behind[:4096] for sign in VIDEOS)
    rest = "" if more or video or len(behind) < STRAY else f"{len(behind)} bytes behind its end left out"
    video_note = "a video behind its end left out" if video else ""
    return joined("further pictures in it left out" if more else "", video_note, rest)


def fitting(icc: bytes | None, grey: bool) -> tuple[bytes | None, str]:
    """(the ICC profile if it is one of such pixels, a note if it is not): a profile of another colour space than the
    picture's is refused by most readers (ICC.1, 7.2).
    """
    if not icc:
        return None, ""
    if len(icc) < ICC_HEADER or icc[36:40] != b"acsp" or int.from_bytes(icc[:4], "big") > len(icc):
        return None, "incomplete ICC profile left out"
    space = icc[16:20]
    if space == (b"GRAY" if grey else b"RGB "):
        return icc, ""
    kind = "grey" if grey else "colour"
    return None, f"ICC profile of {space.decode('latin-1').strip()} left out of a {kind} picture"


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
    strange = any(body.startswith(b"Exif") and not body.startswith(exif.PREFIX) for _, body in image.applist)
    return [
        *(["the long part of its XMP left out"] if long else []),
        *(["EXIF with an unknown beginning left out"] if strange else []),
    ]


def _iptc(image: Image.Image) -> bytes | None:
    """The records of IPTC-IIM."""
    found: Any = None
    if isinstance(image, JpegImageFile):
        found = image.info.get("photoshop", {}).get(IPTC_RESOURCE)
    elif isinstance(image, TiffImageFile):
        found = image.tag_v2.get(tiff.IPTC)
        if isinstance(found, tuple):  # some write them as numbers of four bytes
            order = ">" if image.tag_v2.prefix == b"MM" else "<"
            with contextlib.suppress(struct.error):
                found = struct.pack(f"{order}{len(cast(Any, found))}I", *found)
    return found if isinstance(found, bytes) and found else None


def _aspect(image: Image.Image) -> str:
    """A note if a pixel is no square by what the file says without a resolution."""
    x, y = image.info.get("aspect") or (1, 1)
    if isinstance(image, JpegImageFile) and image.info.get("jfif_unit") == 0:
        x, y = image.info.get("jfif_density") or (1, 1)
    return f"pixel aspect {x}:{y} left out" if x != y else ""


def joined(*notes: str) -> str:
    """Notes as one, empty ones left out."""
    return "; ".join(note for note in notes if note)
