"""Motion photos: the video goes where a file can hold it, and no file tells of one that is not there."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from driftrec import Restorer
from driftrec.image import decode, encode, not_kept, to_pil
from tests.corpus.made import PHOTO, XMP
from tests.corpus.mended import CLAIMS, SAID, SAMSUNG, VIDEO
from tests.driftrec.pictures import exif_bytes, saved, stored

GAIN_MAP = re.compile(rb"hdrgm:\w+\s*[=>]")
RECORD = {"version": "1", "steps": 2}


def motion(video: bytes, orientation: int = 1, progressive: bool = False, claims: bool = True) -> bytes:
    """A JPEG with a video behind its end, and XMP that tells of it and of a gain map that is not there."""
    packet = (XMP % orientation).replace(b"</rdf:RDF>", CLAIMS % SAID)
    lying = Image.fromarray(np.ascontiguousarray(stored(PHOTO, orientation)))
    options = {"exif": exif_bytes(orientation), "progressive": progressive, "quality": 95}
    return saved(lying, "JPEG", **options, **({"xmp": packet} if claims else {})) + video


@pytest.mark.parametrize("video", [VIDEO, SAMSUNG, bytes(7) + VIDEO + bytes(12)], ids=["google", "samsung", "padded"])
@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("claims", [False, True])
@pytest.mark.parametrize("record", [None, RECORD])
def test_a_jpeg_keeps_it(video: bytes, orientation: int, progressive: bool, claims: bool, record: dict | None) -> None:
    """Byte for byte at the end of the file, from where its place is told; and again when restored again."""
    before = motion(video, orientation, progressive, claims)
    picture = decode(before)
    assert "video" not in picture.note
    assert "video" not in not_kept(picture, "jpeg")
    once = encode(picture, "jpeg", record=record)
    twice = encode(decode(once), "jpeg", record=record)
    for data in (once, twice):
        assert data.endswith(b"\xff\xd9" + video)
        packet = Image.open(io.BytesIO(data)).info.get("xmp", b"")
        assert (b'Cam:MicroVideoOffset="3024"' in packet, b"<C:Directory>" in packet) == (claims, claims)
        assert not GAIN_MAP.search(packet)
        assert packet.count(b"&quot;steps&quot;") + packet.count(b'"steps"') == (
            0 if record is None else 1 + (data is twice)
        )
        assert b'Orientation="6"' not in packet
    plain = Image.open(io.BytesIO(encode(decode(before[: -len(video)]), "jpeg")))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(once))), np.asarray(plain))


@pytest.mark.parametrize("kind", ["png", "webp", "tiff"])
@pytest.mark.parametrize("video", [VIDEO, SAMSUNG])
def test_no_other_format_tells_of_it(kind: str, video: bytes) -> None:
    picture = decode(motion(video))
    assert "a video behind its end left out" in not_kept(picture, kind)
    data = encode(picture, kind, record=RECORD)
    assert not data.endswith(video)
    for told in (b"MotionPhoto", b"MicroVideo", b"Directory>", b"GainMapMax"):
        assert told not in (decode(data).xmp or b"")
    assert b"Cam:" not in (to_pil(picture).info["xmp"]).replace(b"xmlns:Cam", b"")


def test_with_a_further_picture_nothing_is_kept() -> None:
    """Which of them a reader takes is told by an index that is not written."""
    more = saved(Image.fromarray(PHOTO), "JPEG")
    picture = decode(motion(more + VIDEO))
    assert picture.video is None
    assert "further pictures in it left out" in picture.note
    assert encode(picture, "jpeg").endswith(b"\xff\xd9")
    assert b"Cam:MotionPhoto" not in picture.xmp


def test_restored_it_is_still_one() -> None:
    restorer = Restorer.identity()
    (done,) = restorer.restore([decode(motion(VIDEO))], ["k"])
    assert encode(done.picture, "jpeg").endswith(VIDEO)
