"""16 bits a channel: read, restored and written in 16 bits."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from driftrec.errors import BadImage, InvalidInput
from driftrec.image import ENCODERS, Encoder, Picture, decode, encode, format_of, from_pil, not_kept, to_pil
from driftrec.restoration.options import Sampling
from driftrec.restoration.restorer import Restorer
from driftrec.restoration.tiling import Canvas, tiles
from tests.corpus.made import DEEP, DEEP_ALPHA, GREY_ICC, ICC, PHOTO, png
from tests.driftrec.pictures import refused, saved

MODES = ["L", "LA", "RGB", "RGBA"]


def icc_of(mode: str) -> bytes:
    return GREY_ICC if mode.startswith("L") else ICC


def deep(mode: str, shape: tuple[int, int] = (37, 53)) -> Picture:
    rgb = np.resize(DEEP[..., :1].repeat(3, axis=2) if mode.startswith("L") else DEEP, (*shape, 3))
    return Picture(rgb, mode, np.resize(DEEP_ALPHA, shape) if mode.endswith("A") else None, icc=icc_of(mode))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(37, 53), (1, 1), (1, 700), (700, 1), (300, 200)])
def test_a_png_holds_every_bit(mode, shape):
    picture = deep(mode, shape)
    data = encode(picture)
    assert data == encode(deep(mode, shape))
    again = decode(data)
    assert (again.mode, again.depth, again.icc) == (mode, 16, icc_of(mode))
    assert np.array_equal(again.rgb, picture.rgb)
    assert np.array_equal(again.alpha, picture.alpha) if picture.alpha is not None else again.alpha is None
    assert len(encode(picture, png_level=0)) > len(data) or shape == (1, 1)


@pytest.mark.parametrize("mode", MODES)
def test_a_tiff_holds_every_bit(mode):
    picture = deep(mode)
    data = encode(picture, "tiff")
    theirs = tifffile.imread(io.BytesIO(data))
    written = picture.rows(0, 37)
    assert theirs.dtype == np.uint16
    assert np.array_equal(theirs.reshape(written.shape), written)
    if mode == "LA":
        assert refused(data).reason == "unsupported"  # Pillow knows no such kind
    else:
        assert np.array_equal(decode(data).rgb, picture.rgb)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("holds_16", [False, True])
def test_a_plugins_format_gets_what_it_holds(mode: str, depth: int, holds_16: bool) -> None:
    seen, picture = list[Picture](), deep(mode) if depth == 16 else deep(mode).in_8_bits()

    def write(told: Picture) -> bytes:
        seen.append(told)
        return b"written"

    ENCODERS["mine"] = Encoder(".bmp", write, holds_16)
    try:
        assert encode(picture, "mine", record={"steps": 1}) == b"written"
        assert not_kept(picture, "mine") == ("16 bits rounded to 8" if depth == 16 and not holds_16 else "")
        assert format_of("a.BMP") == "mine"
    finally:
        del ENCODERS["mine"]
    with pytest.raises(InvalidInput, match=r"no image is written as \.bmp"):
        format_of("a.bmp")
    expected = picture if holds_16 else picture.in_8_bits()
    assert np.array_equal(seen[0].rgb, expected.rgb)
    assert seen[0].depth == (depth if holds_16 else 8)
    assert b'"steps":1' in (seen[0].xmp or b"").replace(b"&quot;", b'"')


@pytest.mark.parametrize("kind", ["webp", "jpeg"])
def test_what_cannot_hold_16_bits_gets_8_and_says_so(kind):
    picture = deep("RGB")
    assert not_kept(picture, kind) == "16 bits rounded to 8"
    again = decode(encode(picture, kind))
    assert again.depth == 8
    assert np.abs(again.rgb - picture.rgb / 257).max() <= (0.5 if kind == "webp" else 30)


def test_rounding_to_8_bits():
    every = np.arange(65536, dtype=np.uint16).reshape(-1, 1, 1).repeat(3, axis=2)
    assert np.array_equal(Picture(every).rgb8, np.rint(every / 257))
    small = Picture(PHOTO)
    assert small.rgb8 is small.rgb or np.shares_memory(small.rgb8, small.rgb)
    assert small.in_8_bits() is small
    assert (small.depth, small.peak, deep("L").depth, deep("L").peak) == (8, 255, 16, 65535)


def test_parts_of_two_depths_do_not_belong_together():
    with pytest.raises(ValueError, match="alpha must be uint16"):
        Picture(DEEP, "RGBA", PHOTO[..., 0])
    with pytest.raises(ValueError, match="type and shape"):
        deep("RGB").with_rgb(PHOTO)
    grey = deep("LA").with_rgb(DEEP)
    assert np.array_equal(grey.rgb[..., 0], np.rint(DEEP.mean(axis=2)))


def test_pil_holds_16_bits_of_grey_alone():
    image = Image.fromarray(DEEP[..., 0])
    picture = from_pil(image)
    assert (picture.mode, picture.depth) == ("L", 16)
    assert np.array_equal(np.asarray(to_pil(picture)), DEEP[..., 0])
    assert to_pil(deep("RGBA")).mode == "RGBA"


@pytest.fixture(scope="module")
def restorer(small_model: Path) -> Restorer:
    return Restorer.from_pretrained(str(small_model), device="cpu")


def test_restored_in_16_bits(restorer):
    """Near what 8 bits give, on a finer grid; content of 8 bits stays in 16."""
    clean = np.resize(PHOTO, (40, 56, 3))
    sampling = Sampling(steps=2)
    coarse = restorer.restore([Picture(clean)], ["a"], 0, sampling)[0].picture.rgb
    fine = restorer.restore([Picture(clean.astype(np.uint16) * 257)], ["a"], 0, sampling)[0].picture
    assert fine.depth == 16
    assert np.abs(fine.rgb / 257 - coarse).max() <= 0.55  # a rounding, and a 32nd of a level
    assert len(np.unique(fine.rgb % 257)) > 200
    assert decode(encode(fine)).depth == 16


def test_a_canvas_of_16_bits_keeps_them():
    pixels = np.random.default_rng(0).random((400, 500, 3), np.float32)
    for depth, error in ((8, 2**-13), (16, 2**-20)):
        canvas = Canvas(400, 500, depth)
        for tile in tiles(400, 500, 192):
            canvas.add(tile, pixels[tile.place])
        assert np.abs(canvas.rows(0, 400) - pixels).max() < error * 4


MEASURE = """
import sys
from driftrec.image import decode, encode

def memory(name):
    status = open("/proc/self/status").read()
    return int(status.split(name + ":")[1].split()[0]) * 1024

def bytes_a_pixel(work):
    open("/proc/self/clear_refs", "w").write("5")  # from here on the peak is counted
    before = memory("VmRSS")
    done = work()
    return done, memory("VmHWM") - before

data = open(sys.argv[1], "rb").read()
picture, decoding = bytes_a_pixel(lambda: decode(data))
written, encoding = bytes_a_pixel(lambda: encode(picture, png_level=1))
pixels = picture.height * picture.width
sys.stdout.write(f"{decoding / pixels} {(encoding - 2 * len(written)) / pixels}")
"""


def large(kind: str) -> bytes:
    """6 megapixels."""
    y, x = np.ogrid[0:2000, 0:3000]
    plane = (y * 8 + x * 8).astype(np.uint16)
    if kind == "deep":
        return encode(Picture(np.dstack([plane, plane, plane])), "tiff")
    image = Image.fromarray(np.dstack([plane >> 8, plane >> 9, plane >> 10]).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(image, "JPEG", exif=exif) if kind == "turned" else saved(image.convert("CMYK"), "JPEG")


@pytest.mark.parametrize(("kind", "decoding", "encoding"), [("turned", 9, 6), ("cmyk", 9, 6), ("deep", 15, 3)])
def test_a_large_image_needs_a_few_bytes_a_pixel(kind, decoding, encoding, tmp_path):
    """Besides the file and the picture that go in. Decoding: Pillow's image (4) and the picture (3 or 6), and some."""
    (tmp_path / "large").write_bytes(large(kind))
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "large")]
    done = subprocess.run(command, capture_output=True, check=True, cwd=Path(__file__).parents[3], text=True)
    decoded, encoded = map(float, done.stdout.split())
    assert 6 <= decoded < decoding
    assert encoded < encoding


def test_depth_and_colour_type_that_do_not_exist_are_refused():
    wrong = png(DEEP, 2, 16).replace(b"\x10\x02\0\0\0", b"\x10\x03\0\0\0")
    with pytest.raises(BadImage):
        decode(wrong)
