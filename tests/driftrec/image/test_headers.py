"""What a file says of itself: as its decoder finds it, from few of its bytes."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from driftrec.errors import BadImage
from driftrec.image import MAX_PIXELS, Picture, decode
from driftrec.image.probe import HEAD, Header, read_header
from driftrec.jpeg.codec import SUBSAMPLINGS, encode_jpeg
from tests.corpus.made import ICC, XMP, Odd
from tests.corpus.make import odd_files
from tests.driftrec.pictures import exif_bytes, photo, saved

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")

# Damage that only decoding shows: inside the pixels, in compressed texts, in a mode that no header's field names.
UNSEEN = {"bit-flip.png", "hollow-deep.png", "wiped.webp", "text-bomb.png", "profile-bomb.png", "lab.tif"}
TURNED_BY_DECODER = re.compile(r"turned-[5-8].*\.tif|turned\.heic")  # Pillow gives only upright pixels of these


def header_of(data: bytes, max_pixels: int) -> Header:
    return read_header(io.BytesIO(data), len(data), max_pixels)


def header(odd: Odd):
    return header_of(odd.data, MAX_PIXELS)


def decoded(odd: Odd) -> Picture | BadImage:
    try:
        return decode(odd.data, odd.name)
    except BadImage as error:
        return error


@pytest.mark.parametrize("odd", odd_files(), ids=lambda odd: odd.name)
def test_headers_say_what_decoding_finds(odd):
    found = header(odd)
    picture = decoded(odd)
    if isinstance(picture, BadImage):
        assert odd.name in UNSEEN or found.reason == picture.reason or "needs the package" in picture.detail
        return
    assert found.reason is None, found.detail
    assert found.format == picture.source_format
    if not TURNED_BY_DECODER.fullmatch(odd.name):
        assert (found.height, found.width) == picture.stored.shape[:2]
    replaced = found.mode == "CMYK" or re.search("ICC|iCCP", picture.note)  # by sRGB's, or left out
    assert replaced or found.icc == (picture.icc is not None)
    assert found.quality == picture.quality
    if found.format != "TIFF":
        assert found.exif == (picture.exif is not None)


@pytest.mark.parametrize("quality", range(1, 101))
def test_quality_and_subsampling_of_every_pillow_file(quality):
    for subsampling in SUBSAMPLINGS:
        found = header_of(encode_jpeg(photo(), quality, subsampling), MAX_PIXELS)
        assert (found.quality, found.exact, found.subsampling) == (quality, True, subsampling)
        assert (found.mode, found.components, found.depth) == ("RGB", 3, 8)
    found = header_of(encode_jpeg(photo()[..., 0], quality), MAX_PIXELS)
    assert (found.quality, found.exact, found.subsampling, found.mode) == (quality, True, "4:0:0", "L")


class Counted(io.BytesIO):
    """A file that counts what is read of it."""

    taken = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.taken += len(data)
        return data


def read(data: bytes) -> tuple:
    file = Counted(data)
    return read_header(file, len(data), MAX_PIXELS), file.taken


def noise(side: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_of_a_large_file_little_is_read(kind):
    image = Image.fromarray(noise(300))
    data = saved(image.quantize() if kind == "GIF" else image, kind)
    found, taken = read(data)
    assert (found.reason, found.width) == (None, 300)
    assert taken <= HEAD + 64 < len(data) / 5


def test_long_metadata_is_passed_by_and_told():
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "M" * 40_000
    exif.get_ifd(0x8825)[1] = "N"
    options = {"exif": exif.tobytes(), "icc_profile": ICC * 60, "xmp": XMP % 6}
    data = saved(Image.fromarray(noise(512)), "JPEG", quality=100, **options)
    found, taken = read(data)
    assert (found.orientation, found.exif, found.gps, found.xmp, found.icc) == (6, True, True, True, True)
    assert taken < len(data)
    plain, _ = read(encode_jpeg(noise(64), 90))
    assert (plain.orientation, plain.exif, plain.gps, plain.xmp, plain.icc) == (None, False, False, False, False)
    webp, _ = read(saved(Image.fromarray(noise(64)), "WEBP", exif=exif_bytes(8), icc_profile=ICC))
    assert (webp.orientation, webp.exif, webp.icc, webp.xmp) == (8, True, True, False)


def test_what_stands_behind_the_end_of_an_image_is_no_damage():
    data = encode_jpeg(noise(64), 90)
    for more in (b"\0" * 500, b"SEFT" * 4000, encode_jpeg(noise(8), 10)):
        assert header_of(data + more, MAX_PIXELS).reason is None
    assert header_of(data[:-2], MAX_PIXELS).reason is None  # its end marker alone is missing
    for cut in (data[:-9], data[: len(data) // 2], data[: len(data) // 2] + bytes(5000)):
        assert header_of(cut, MAX_PIXELS).reason == "truncated"
    thumbnail = b"\xff\xe1" + (len(data[:3000]) + 2).to_bytes(2, "big") + data[:2998] + b"\xff\xd9"
    assert header_of(data[:2] + thumbnail + data[2:-400], MAX_PIXELS).reason == "truncated"  # its end is no end
    png = saved(Image.fromarray(noise(64)), "PNG")
    assert header_of(png + b"trailer", MAX_PIXELS).reason is None
    assert header_of(png[:-5], MAX_PIXELS).reason == "truncated"


def test_known_facts_stay_where_something_is_wrong():
    data = encode_jpeg(noise(64), 37, "4:2:2")
    cut = header_of(data[:-500], MAX_PIXELS)
    assert (cut.reason, cut.width, cut.quality, cut.subsampling) == ("truncated", 64, 37, "4:2:2")
    large = header_of(data, 1000)
    assert (large.reason, large.detail) == ("too_large", "64x64 are 4096 pixels; max_pixels is 1000")
    page = header_of(b"<html>" + b"x" * 10_000, MAX_PIXELS)
    assert (page.format, page.reason, page.detail) == (None, "not_an_image", "10006 bytes of HTML")
