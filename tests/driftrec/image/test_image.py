"""What goes in comes out: pixels, mode, alpha, metadata."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from driftrec.errors import BadImage, InvalidInput, Reason
from driftrec.image import Picture, decode, encode, from_pil, to_pil
from tests.driftrec.pictures import (
    CAMERA,
    GPS,
    GREY,
    GREY_ICC,
    HEIGHT,
    ICC,
    KINDS,
    LA,
    RGB,
    RGBA,
    SIDES,
    UNSUPPORTED,
    WIDTH,
    exif_bytes,
    photo,
    png_chunk,
    png_with,
    refused,
    saved,
    stored,
)

# Pillow warns of broken tags on its way; what counts here is what decode makes of them.
pytestmark = pytest.mark.filterwarnings("ignore:::PIL")


@pytest.mark.parametrize(("data", "expected", "note"), [k[1:] for k in KINDS], ids=[k[0] for k in KINDS])
def test_every_kind_gives_its_pixels_and_mode(data, expected, note):
    expected = Image.open(io.BytesIO(data)) if expected is None else expected
    picture = decode(data)
    assert picture.mode == expected.mode
    assert np.array_equal(picture.rgb, np.array(expected.convert("RGB")))
    assert (picture.height, picture.width) == (HEIGHT, WIDTH)
    assert picture.rgb.flags.writeable
    if expected.mode.endswith("A"):
        assert np.array_equal(picture.alpha, np.array(expected)[..., -1])
    assert note in picture.note
    assert bool(note) == bool(picture.note)
    assert np.array_equal(np.array(to_pil(picture)), np.array(expected))


def test_animations_give_their_first_frame():
    for kind in ("GIF", "WEBP", "PNG"):
        frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "lime")]
        data = saved(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True, duration=9)
        picture = decode(data)
        assert (picture.rgb == (255, 0, 0)).all()
        assert "further pictures in it left out" in picture.note


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_transparent_grey_of_any_depth_becomes_alpha(bits):
    """PNG stores the grey that stands for transparent in the file's depth."""
    top = 2**bits - 1
    levels = np.tile(np.arange(top - 7, top + 1).astype(np.uint8) & top, (8, 1))
    packed = np.packbits(np.unpackbits(levels[..., None], axis=2)[..., 8 - bits :].reshape(8, -1), axis=1)
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, bits, 0, 0, 0, 0))
    pixels = png_chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in packed)))
    key = png_chunk(b"tRNS", struct.pack(">H", top))
    picture = decode(b"\x89PNG\r\n\x1a\n" + header + key + pixels + png_chunk(b"IEND", b""))
    assert picture.mode == "LA"
    assert np.array_equal(picture.rgb[..., 0], levels.astype(int) * 255 // top)
    assert np.array_equal(picture.alpha, np.where(levels == top, 0, 255))


def test_a_transparent_colour_becomes_alpha():
    pixels = photo()
    pixels[3:9, 5:20] = (1, 2, 3)
    expected = np.where((pixels == (1, 2, 3)).all(axis=2), 0, 255)
    picture = decode(saved(Image.fromarray(pixels), "PNG", transparency=(1, 2, 3)))
    assert picture.mode == "RGBA"
    assert np.array_equal(picture.alpha, expected)
    assert np.array_equal(picture.rgb, pixels)
    palette = RGB.quantize(9)
    picture = decode(saved(palette, "PNG", transparency=4))
    assert picture.mode == "RGBA"
    assert np.array_equal(picture.alpha == 0, np.array(palette) == 4)
    assert decode(saved(palette, "GIF", transparency=4)).mode == "RGBA"


@pytest.mark.parametrize("data", UNSUPPORTED.values(), ids=UNSUPPORTED)
def test_what_would_lose_something_is_refused(data):
    assert refused(data).reason == Reason.unsupported


# --- metadata ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", SIDES)
def test_every_orientation_gives_the_upright_picture(orientation, kind):
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(kind, {})
    lying = Image.fromarray(np.ascontiguousarray(stored(photo(), orientation)))
    data = saved(lying, kind, exif=exif_bytes(orientation), **options)
    picture = decode(data)
    assert picture.rgb.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(picture.rgb.astype(int) - photo()).max() <= (6 if kind == "JPEG" else 0)
    theirs = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert np.array_equal(picture.rgb, np.array(theirs))
    kept = Image.Exif()
    kept.load(picture.exif)
    assert kept.get(0x0112, 1) == 1
    assert kept[0x010F] == "maker"
    if kind != "TIFF":
        assert picture.exif == exif_bytes(1)
    again = decode(encode(picture))
    assert np.array_equal(again.rgb, picture.rgb)  # not turned twice


def test_alpha_and_resolution_turn_with_the_picture():
    lying = Image.fromarray(np.ascontiguousarray(stored(np.array(RGBA), 6)))
    exif = exif_bytes(6)
    picture = decode(saved(lying, "PNG", exif=exif, dpi=(100, 200)))
    assert np.array_equal(picture.alpha, np.array(RGBA)[..., 3])
    assert picture.dpi == pytest.approx((200, 100), abs=0.02)


def full(mode: str) -> Picture:
    """A picture with everything."""
    alpha = photo()[..., 1] if mode.endswith("A") else None
    grey = np.repeat(photo()[..., :1], 3, axis=2)
    rgb = grey if mode.startswith("L") else photo()
    icc = GREY_ICC if mode.startswith("L") else ICC
    return Picture(rgb, mode, alpha, icc=icc, exif=exif_bytes(), dpi=(300.0, 150.0))


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("kind", ["png", "tiff", "webp", "jpeg"])
def test_encode_then_decode_gives_the_picture(kind, mode):
    picture = full(mode)
    if kind == "jpeg" and picture.alpha is not None:
        with pytest.raises(BadImage, match=r"unsupported: .*transparency.*choose png"):
            encode(picture, kind)
        return
    data = encode(picture, kind)
    assert data == encode(full(mode), kind)
    again = decode(data, f"x.{kind}")
    assert again.source_format == kind.upper()
    assert again.note == ""
    assert again.mode == (mode.replace("L", "RGB") if kind == "webp" else mode)  # WEBP has no grey
    assert np.abs(again.rgb.astype(int) - picture.rgb).max() <= (30 if kind == "jpeg" else 0)
    assert np.array_equal(again.alpha, picture.alpha) if picture.alpha is not None else again.alpha is None
    assert again.icc == (None if kind == "webp" and picture.grey else picture.icc)
    if kind != "webp":
        assert again.dpi == pytest.approx(picture.dpi, abs=0.02)
    if kind != "tiff":
        assert again.exif == picture.exif


def test_a_tiff_keeps_the_tags_that_describe_the_picture():
    exif = Image.Exif()
    exif.load(exif_bytes())
    exif[0x8298] = "© nobody".encode("latin-1")
    picture = Picture(photo(), exif=exif.tobytes(), dpi=(72.0, 72.0))
    theirs = Image.open(io.BytesIO(encode(picture, "tiff")))
    theirs.load()
    assert np.array_equal(np.array(theirs), photo())
    for data in (encode(picture, "tiff"), encode(decode(encode(picture, "tiff")), "png")):
        kept = Image.Exif()
        kept.load(decode(data).exif)
        assert kept[0x010F] == "maker"
        assert kept[0x8298] == "© nobody"
        assert kept.get_ifd(CAMERA)[0x9003] == "2001:02:03 04:05:06"
        assert kept.get_ifd(CAMERA)[0x927C] == b"maker note \xff\x00" * 9
        assert kept.get_ifd(GPS) == {1: "N", 2: (51.0, 30.0, 12.5)}


def test_broken_exif_is_kept_as_it_is_and_only_tiff_refuses_it():
    broken = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12\0\x03" * 5
    picture = decode(saved(RGB, "JPEG", exif=broken))
    assert picture.exif == broken
    for kind in ("png", "jpeg", "webp"):
        assert decode(encode(picture, kind)).exif == broken
    with pytest.raises(BadImage, match=r"unsupported: its EXIF is broken .*choose png"):
        encode(Picture(photo(), exif=b"Exif\0\0no TIFF"), "tiff")


def test_resolution_is_not_made_up():
    assert decode(saved(RGB, "JPEG")).dpi is None
    exif = Image.Exif()
    exif[0x010F] = "maker"
    assert decode(saved(RGB, "JPEG", exif=exif.tobytes())).dpi is None  # Pillow says 72
    assert decode(saved(RGB, "JPEG", exif=exif_bytes())).dpi == (300, 300)
    assert decode(saved(RGB, "JPEG", exif=exif_bytes(), dpi=(96, 48))).dpi == (96, 48)
    assert decode(png_with(saved(RGB, "PNG"), png_chunk(b"pHYs", b"\xff" * 8 + b"\1"))).dpi is None


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("a/b.c/photo.PNG", "named .png, holds JPEG"),
        ("photo.gif", "named .gif, holds JPEG"),
        ("photo.jpg", ""),
        ("photo.JPEG", ""),
        ("photo.mpo", ""),
        ("photo", ""),
        ("photo.png.dat", ""),
        ("", ""),
    ],
)
def test_a_lying_extension_is_noted(name, note):
    picture = decode(saved(RGB, "JPEG"), name)
    assert picture.note == note
    assert picture.source_format == "JPEG"


# --- Picture, PIL --------------------------------------------------------------------------------------------


def test_with_rgb_keeps_all_else_and_collapses_grey():
    for mode in ("L", "LA", "RGB", "RGBA"):
        picture = full(mode)
        after = picture.with_rgb(255 - photo())
        for field in ("mode", "alpha", "icc", "exif", "dpi", "source_format", "note"):
            assert getattr(after, field) is getattr(picture, field)
        if mode.startswith("L"):
            mean = np.rint((255 - photo()).mean(axis=2))
            assert all(np.array_equal(after.rgb[..., c], mean) for c in range(3))
            assert decode(encode(after)).mode == mode
        else:
            assert np.array_equal(after.rgb, 255 - photo())
    with pytest.raises(ValueError, match="shape"):
        full("RGB").with_rgb(photo()[1:])


def test_a_picture_of_parts_that_do_not_fit_is_refused():
    with pytest.raises(ValueError, match="uint8"):
        Picture(photo() / 255)
    with pytest.raises(ValueError, match="alpha"):
        Picture(photo(), "RGBA")
    with pytest.raises(ValueError, match="alpha"):
        Picture(photo(), "RGB", photo()[..., 0])
    with pytest.raises(ValueError, match="alpha"):
        Picture(photo(), "RGBA", photo()[1:, :, 0])


@pytest.mark.parametrize("orientation", [1, 6])
def test_pil_in_pil_out_leaves_size_mode_and_metadata(orientation):
    data = saved(RGB, "JPEG", exif=exif_bytes(orientation), icc_profile=ICC, dpi=(300, 200))
    before = Image.open(io.BytesIO(data))
    after = to_pil(from_pil(before))
    assert (after.size, after.mode) == (before.size, before.mode)
    assert np.array_equal(np.array(after), np.array(before))
    assert after.info["icc_profile"] == ICC
    assert after.info["exif"] == before.info["exif"] == exif_bytes(orientation)
    assert after.info["dpi"] == before.info["dpi"]
    for image in (GREY, LA, RGBA):
        assert np.array_equal(np.array(to_pil(from_pil(image))), np.array(image))


def test_a_pil_image_that_would_lose_something_is_refused():
    for mode in ("CMYK", "F", "HSV"):
        with pytest.raises(BadImage, match=f"unsupported: {mode}"):
            from_pil(Image.new(mode, (4, 4)))


def test_what_an_output_format_cannot_hold_is_refused_before_writing():
    long = Picture(np.zeros((1, 70_000, 3), np.uint8))
    assert decode(encode(long, "png")).width == decode(encode(long, "tiff")).width == 70_000
    for kind in ("jpeg", "webp"):
        with pytest.raises(BadImage, match=f"unsupported: a side of 70000 pixels; {kind}"):
            encode(long, kind)
    with pytest.raises(InvalidInput, match=r"'gif'.*png, jpeg, webp, tiff"):
        encode(full("RGB"), "gif")
    with pytest.raises(InvalidInput, match="4:1:1"):
        encode(full("RGB"), "jpeg", jpeg_subsampling="4:1:1")


def test_the_smallest_and_the_longest():
    for shape in ((1, 1), (1, 10_000), (10_000, 1)):
        pixels = np.resize(photo(), (*shape, 3))
        for kind in ("png", "tiff", "webp"):
            assert np.array_equal(decode(encode(Picture(pixels), kind)).rgb, pixels)


def test_encoder_settings_reach_the_file():
    picture = full("RGB")
    assert len(encode(picture, png_level=0)) > len(encode(picture)) >= len(encode(picture, png_level=9))
    assert len(encode(picture, "jpeg", jpeg_quality=20)) < len(encode(picture, "jpeg"))
    assert len(encode(picture, "jpeg", jpeg_subsampling="4:2:0")) < len(encode(picture, "jpeg"))
    assert len(encode(picture, "webp", webp_quality=20)) < len(encode(picture, "webp"))
