"""Bad bytes give a reason, never another exception; bombs cost nothing; threads do not disturb each other."""

import io
import itertools
import pickle
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from driftrec.errors import BadImage, Reason
from driftrec.image import decode, encode, jpeg2000, jxl
from driftrec.image.probe import read_header
from driftrec.image.sniff import is_cut
from tests.corpus.make import odd_files
from tests.driftrec.pictures import (
    HEIGHT,
    ICC,
    RGB,
    UNSUPPORTED,
    WHOLE,
    WIDTH,
    exif_bytes,
    png_chunk,
    png_with,
    refused,
    replaced,
    saved,
)

# Pillow warns of broken tags on its way; what counts here is what decode makes of them.
pytestmark = pytest.mark.filterwarnings("ignore:::PIL")

FRAMED = [name for name in WHOLE if name.startswith(("jpeg", "png", "tiff", "webp"))]
ODD = {odd.name: odd.data for odd in odd_files()}


@pytest.mark.parametrize("name", FRAMED)
def test_every_cut_is_told(name):
    """These formats say how long they are: no beginning of them decodes, unless (TIFF, JPEG) it has all pixels."""
    data, whole = WHOLE[name], decode(WHOLE[name])
    for length in {*range(1, len(data), 7), *range(1, 60), *range(len(data) - 30, len(data))}:
        try:
            picture = decode(data[:length])
        except BadImage as error:
            reason = error.reason
        else:
            reason = None
            assert name.startswith("tiff") or "no end marker" in picture.note
            assert np.array_equal(picture.rgb, whole.rgb)
        assert reason in (None, Reason.truncated), length
    assert refused(b"").reason == Reason.empty


@pytest.mark.parametrize(
    "name",
    [
        *("deep-rgba.png", "deep-lzw.tif", "cmyk-profile.jpg", "rgb.avif", "plain.heic"),
        *("rgb.jp2", "rgba.j2k", "alpha.jxl", "jpeg.jxl"),
    ],
)
def test_a_cut_of_an_odd_file_is_told(name):
    if name.endswith(("heic", "jxl")):
        pytest.importorskip("pillow_heif" if name.endswith("heic") else "pillow_jxl")
    data = ODD[name]
    decode(data)
    for length in range(40, len(data), 1 + len(data) // 50):
        assert refused(data[:length]).reason == Reason.truncated, length


@pytest.mark.parametrize("name", ["gif", "bmp", "bmp-palette"])
def test_a_cut_that_loses_pixels_is_told(name):
    data = WHOLE[name]
    for length in range(1, len(data) - 4, 5):
        assert refused(data[:length]).reason in (Reason.truncated, Reason.corrupt, Reason.not_an_image)


def test_broken_data_is_told():
    png = bytearray(WHOLE["png"])
    png[len(png) // 2] ^= 1
    assert "checksum" in refused(bytes(png)).detail
    tables = WHOLE["jpeg"].replace(b"\xff\xdb", b"\xff\xee")  # quantisation tables hidden
    for data in (bytes(png), tables, WHOLE["webp"][:60] + bytes(len(WHOLE["webp"]) - 60)):
        assert refused(data).reason == Reason.corrupt
    half = replaced(saved(RGB, "TIFF"), struct.pack("<HHII", 257, 4, 1, HEIGHT), struct.pack("<HHII", 257, 4, 1, 9000))
    assert "do not cover" in refused(half).detail


def test_a_zero_filled_end_is_a_cut():
    data = WHOLE["jpeg"]
    assert refused(data[: len(data) // 2] + bytes(len(data) // 2)).reason == Reason.truncated


def test_html_is_no_image():
    error = refused(b"<!DOCTYPE html><html><title>404 Not Found</title></html>", name="photo.jpg")
    assert error.reason == Reason.not_an_image
    assert "HTML" in error.detail


SEEDS = [*WHOLE.values(), *UNSUPPORTED.values(), saved(RGB, "JPEG", exif=exif_bytes(6), icc_profile=ICC[:99])]
SEEDS += [data for data in ODD.values() if 0 < len(data) < 20_000]


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), max_size=12),
    st.integers(1, 1 << 14),
    st.integers(0, 1 << 13),
)
def test_nothing_but_a_picture_or_a_reason(seed, changes, reach, cut):
    data = bytearray(seed)
    for position, value in changes:
        data[position % min(reach, len(data))] = value  # often in the headers
    outcome(bytes(data[: -(cut % len(data))] if cut % 3 == 0 and cut else data))


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([WHOLE["png"], WHOLE["png-palette"], WHOLE["png-animated"]]),
    st.sampled_from(
        [b"tRNS", b"zTXt", b"iTXt", b"tEXt", b"eXIf", b"iCCP", b"pHYs", b"fcTL", b"acTL", b"PLTE", b"IDAT"]
    ),
    st.binary(max_size=60),
)
def test_png_chunks_of_any_content(seed, kind, body):
    outcome(png_with(seed, png_chunk(kind, body)))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([d[:12] for d in SEEDS] + [b""]), st.binary(max_size=200))
def test_random_bytes(head, tail):
    outcome(head + tail)


def outcome(data: bytes) -> None:
    """Decode; whatever it is, a second time gives the same."""
    results = []
    for _ in range(2):
        try:
            picture = decode(data, max_pixels=1_000_000)
            results.append((picture.rgb.shape, picture.rgb.tobytes(), picture.exif, picture.xmp, picture.note))
            encode(picture)
        except BadImage as error:
            results.append((error.reason, error.detail))
    assert results[0] == results[1]


# --- bombs ---------------------------------------------------------------------------------------------------


def png_of(width: int, height: int, *chunks: bytes) -> bytes:
    """A 1-bit PNG without its pixels, whole but for them."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    rows = zlib.compress(bytes(1000))
    body = b"".join(chunks) + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + body


def bombs() -> dict[str, bytes]:
    jpeg = bytearray(WHOLE["jpeg"])
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = struct.pack(">HH", 12_000, 12_000)
    gif = bytearray(WHOLE["gif"])
    gif[6:10] = b"\xff\xff\xff\xff"
    frame = bytearray(WHOLE["gif"])
    at = frame.index(b",\0\0\0\0" + struct.pack("<HH", WIDTH, HEIGHT))
    frame[at + 5 : at + 9] = struct.pack("<HH", 12_000, 12_000)  # larger than the canvas
    bmp = bytearray(WHOLE["bmp"])
    bmp[18:26] = struct.pack("<II", 60_000, 60_000)
    size = (10_000).to_bytes(3, "little")  # less one; within Pillow's own limit
    webp = b"RIFF\x1a\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0" + size * 2 + b"ANIM"
    tiff = replaced(
        saved(RGB, "TIFF"), struct.pack("<HHII", 256, 4, 1, WIDTH), struct.pack("<HHII", 256, 4, 1, 1 << 30)
    )
    jp2 = bytearray(saved(RGB, "JPEG2000", no_jp2=True))
    jp2[8:16] = struct.pack(">II", 12_000, 12_000)
    side = (12_000 - 1) << 2 | 2  # of 18 bits, the third kind of number
    jpeg_xl = b"\xff\x0a" + (side << 1 | 1 << 21).to_bytes(4, "little") + bytes(60)  # as wide as high
    text = zlib.compress(bytes(200_000_000), 9)
    return {
        "png": png_of(12_000, 12_000),
        "png wide": png_of(0x7FFFFFFF, 1),
        "png ztxt": png_of(8, 8, png_chunk(b"zTXt", b"Comment\0\0" + text)),
        "png itxt": png_of(8, 8, png_chunk(b"iTXt", b"Comment\0\1\0\0\0" + text)),
        "png iccp": png_of(8, 8, png_chunk(b"iCCP", b"x\0\0" + text)),
        "png many texts": png_of(8, 8, *[png_chunk(b"zTXt", b"C\0\0" + zlib.compress(bytes(1_000_000)))] * 99),
        "jpeg": bytes(jpeg),
        "gif": bytes(gif),
        "gif frame": bytes(frame),
        "bmp": bytes(bmp),
        "webp": webp + bytes(20),
        "tiff": tiff,
        "jp2": bytes(jp2),
        "jxl": jpeg_xl,
    }


def test_bombs_are_refused_by_their_headers():
    for name, data in bombs().items():
        assert refused(data).reason == Reason.too_large, name
    assert decode(WHOLE["png"], max_pixels=HEIGHT * WIDTH).width == WIDTH
    for name, data in WHOLE.items():
        error = refused(data, max_pixels=HEIGHT * WIDTH - 1)
        assert error.reason == Reason.too_large, name
        assert f"{HEIGHT * WIDTH - 1}" in error.detail


def box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(body), kind) + body


@pytest.mark.parametrize("cut", [2, 3, 5, 40])
def test_a_jpeg_xl_in_parts_hides_no_size(cut):
    """Its header is read across them, as its decoder does."""
    huge, whole = bombs()["jxl"], ODD["plain.jxl"]
    for stream in (huge, whole):
        parts = box(b"jxlp", bytes(4) + stream[:cut]), box(b"jxlp", struct.pack(">I", 1 << 31 | 1) + stream[cut:])
        data = jxl.SIGNATURE + box(b"ftyp", b"jxl \0\0\0\0jxl ") + b"".join(parts)
        assert jxl.header(data) == jxl.header(stream)
    parts = box(b"jxlp", bytes(4) + huge[:cut]) + box(b"jxlp", bytes(4) + huge[cut:])
    assert refused(jxl.SIGNATURE + parts).reason == Reason.too_large
    assert refused(jxl.SIGNATURE + box(b"jxlc", b"no picture at all")).reason == Reason.corrupt


@pytest.mark.parametrize(("signature", "kind"), [(jpeg2000.SIGNATURE, b"jp2c"), (jxl.SIGNATURE, b"jxlp")])
def test_many_boxes_take_no_time(signature, kind):
    data = signature + ODD["rgb.j2k"][:200] + box(kind, b"") * 1_000_000
    for name in ("JP2", "JXL"):
        is_cut(data, name)
    begun = time.process_time()
    refused(data)
    read_header(io.BytesIO(data), len(data), 10**8)
    assert time.process_time() - begun < 5


def test_few_bits_of_a_jpeg_2000_are_not_shown_dark():
    data = bytearray(saved(RGB, "JPEG2000", no_jp2=True))
    at = data.index(b"\xff\x4f\xff\x51") + 42
    for depth in (1, 4, 7):
        data[at : at + 9 : 3] = bytes([depth - 1] * 3)
        error = refused(bytes(data))
        assert (error.reason, f"{depth} bits" in error.detail) == (Reason.unsupported, True)


MEASURE = """
import pickle, resource, sys, time
from driftrec.errors import BadImage
from driftrec.image import decode
bombs = pickle.load(sys.stdin.buffer)
before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
for data in bombs * 5:
    try:
        decode(data)
    except BadImage:
        pass
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
sys.stdout.write(f"{grown} {time.perf_counter() - begun}")
"""


def test_bombs_cost_neither_memory_nor_time():
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], input=pickle.dumps(list(bombs().values())), capture_output=True, check=True
    )
    grown_kib, seconds = map(float, done.stdout.split())
    assert grown_kib < 100_000  # Pillow's own limit for all the text of a PNG is 64 MiB
    assert seconds < 10


# --- threads -------------------------------------------------------------------------------------------------


def test_threads_do_not_disturb_each_other():
    before = (Image.MAX_IMAGE_PIXELS, Image.DecompressionBombWarning)
    expected = {name: encode(decode(data)) for name, data in WHOLE.items()}
    barrier = threading.Barrier(4)

    def work(turn: int) -> dict[str, bytes]:
        barrier.wait()
        names = list(itertools.islice(itertools.cycle(WHOLE), turn * 5, turn * 5 + len(WHOLE)))
        return {name: encode(decode(WHOLE[name])) for name in names}

    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(work, range(4)):
            assert result == expected
    assert before == (Image.MAX_IMAGE_PIXELS, Image.DecompressionBombWarning)
