"""Where the picture of a JPEG file ends, what stands behind it, and what is mended that leaves every pixel as it was.

Other decoders show such files without a word: one whose end marker is missing though its last scan is whole, and one
that tells its height behind the first scan (DNL; ITU-T T.81, B.2.5), which libjpeg does not read.
"""

from __future__ import annotations

import hashlib
import io
import re
from dataclasses import dataclass

import numpy as np
from PIL.JpegImagePlugin import JpegImageFile

from driftrec.errors import BadImage, Reason
from driftrec.jpeg.headers import BARE_MARKERS, FRAMES, segments

END = b"\xff\xd9"
PADDING = b"\0 \r\n"  # bytes that say nothing
CUT = 4  # zero bytes at the end: no scan ends so, they stand for what is lost
MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # in a scan: no stuffed byte, no restart
SCAN, HEIGHT = 0xDA, 0xDC
COEFFICIENTS = 64  # of a block
# Three ends of a scan: what is missing comes out differently. Restarts between, for a decoder that waits for the next.
RESTARTS = [b"\xff" + bytes([0xD0 + number]) for number in range(8)]
FILLERS = [b"".join(512 * byte + restart for restart in RESTARTS) for byte in (b"\x00", b"\xfe", b"\x5a")]


@dataclass(frozen=True)
class Scans:
    """What follows a JPEG's headers."""

    open: frozenset[tuple[int, int]]  # (component, coefficient) that no scan has brought to its last bit
    end: int | None  # behind the end marker, None if it is missing
    height: int | None  # as the DNL segment tells it


def scans(data: bytes) -> Scans:
    """Walk through the scans of a file. Raises BadImage as `segments` does."""
    found, position = segments(data)
    frame = next((body for marker, body in reversed(found) if marker in FRAMES), b"")
    left = {(number, k) for number in frame[6::3] for k in range(COEFFICIENTS)}
    height = None
    while mark := MARKER.search(data, position):
        marker, position = data[mark.start() + 1], mark.end()
        if marker == END[1]:
            return Scans(frozenset(left), position, height)
        if marker in BARE_MARKERS:
            continue
        length = int.from_bytes(data[position : position + 2], "big")
        body = data[position + 2 : position + length]
        position += length
        if marker == HEIGHT and len(body) >= 2:
            height = int.from_bytes(body[:2], "big")
        elif marker == SCAN and body and len(body) >= 4 + 2 * body[0]:
            count = body[0]
            first, last, bits = body[1 + 2 * count : 4 + 2 * count]
            if bits & 15 == 0:
                left -= {(number, k) for number in body[1 : 1 + 2 * count : 2] for k in range(first, last + 1)}
    return Scans(frozenset(left), None, height)


def mended(data: bytes, max_pixels: int) -> tuple[bytes, str]:
    """(the file as libjpeg reads it whole, a note of what was mended or ""). A file that is sound is given back; of one
    with more pixels the end is not looked at, for that takes decoding it. Raises BadImage `truncated` where the end
    marker is missing and pixels too, and as `segments` does.
    """
    found, start = segments(data)
    frame = next((body for marker, body in found if marker in FRAMES), b"")
    lacks_height = frame[1:3] == b"\0\0"
    if not lacks_height and data.find(END, start) >= 0:
        return data, ""
    told, notes = scans(data), list[str]()
    if lacks_height and told.height:
        at = data.index(frame) + 1
        data = data[:at] + told.height.to_bytes(2, "big") + data[at + 2 :]
        frame = data[at - 1 : at - 1 + len(frame)]
        notes.append("its height stands behind its first scan")
    height, width = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
    if told.end is None and height * width <= max_pixels:
        zeros = len(data) - len(data.rstrip(b"\0"))
        if told.open or not _is_whole(data[: len(data) - (zeros if zeros >= CUT else 0)].rstrip(b"\xff")):
            raise BadImage(Reason.truncated, "JPEG without its end marker")
        data = data.rstrip(b"\xff") + END
        notes.append("no end marker; its last scan is whole")
    return data, "; ".join(notes)


def _is_whole(data: bytes) -> bool:
    """Whether a file without an end marker has all of its last scan: nothing that follows is read for a pixel then."""
    try:
        return len({_digest_of_pixels(data + filler + END) for filler in FILLERS}) == 1
    except (OSError, SyntaxError, ValueError):
        return False


def _digest_of_pixels(data: bytes) -> bytes:
    return hashlib.blake2b(np.asarray(JpegImageFile(io.BytesIO(data))).tobytes()).digest()


def behind(data: bytes) -> bytes:
    """What stands behind the end of the picture; b"" where nothing does but padding."""
    try:
        told = scans(data)
    except BadImage:
        return b""
    rest = data[told.end :] if told.end else b""
    return rest if rest.strip(PADDING) else b""
