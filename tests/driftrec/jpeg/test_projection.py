"""Quantisation projection: the file's levels against libjpeg's own, and the laws of a projection."""

import base64
import io
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut, coffee

from driftrec.image import decode
from driftrec.image.picture import STORED
from driftrec.jpeg.codec import degrade, encode_jpeg, shift
from driftrec.jpeg.constraint import Constraint, Older, Unconstrained, constraint, project
from driftrec.jpeg.older_blocks import suspected

# Small JPEG files, and their levels as libjpeg reads them from the entropy-coded data.
REFERENCE = json.loads((Path(__file__).parent / "fixtures" / "levels.json").read_text())["files"]
NAMES = [f"{file['subsampling']}-{file['quality']}" for file in REFERENCE]

PHOTO = np.ascontiguousarray(astronaut()[20:277, 100:353])  # 257x253: no multiple of 8 or 16


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


def constrained(image: np.ndarray, quality: int, subsampling: str = "4:2:0") -> Constraint:
    found = constraint(encode_jpeg(image, quality, subsampling))
    assert isinstance(found, Constraint), found
    return found


@pytest.mark.parametrize("file", REFERENCE, ids=NAMES)
def test_levels_are_those_in_the_file(file) -> None:
    found = constraint(base64.b64decode(file["jpeg"]))
    assert isinstance(found, Constraint)
    assert (found.height, found.width) == (37, 43)
    assert len(found.planes) == len(found.steps) == len(file["levels"])
    for plane, known in enumerate(file["levels"]):
        rows, columns = known["blocks"]
        whole_rows, whole_columns = found.whole(plane)
        levels = found.levels(plane, 0, rows)
        assert np.array_equal(levels[1:], found.levels(plane, 1, rows))  # a band alone is as within the whole
        truth = np.frombuffer(zlib.decompress(base64.b64decode(known["zlib"])), "<i2").reshape(rows, columns, 8, 8)
        assert levels.shape == (whole_rows, whole_columns, 8, 8)
        off = np.abs(levels.astype(int) - truth[:whole_rows, :whole_columns])
        if file["quality"] <= 75:
            assert not off.any()
        else:  # a flat block's samples may round alike for two levels where the step is less than 8
            assert off.max() <= 1 and off.mean() < 1e-3


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("quality", [5, 30, 75, 90])
def test_what_the_encoder_saw_agrees_with_its_file(quality: int, subsampling: str) -> None:
    projected = project(PHOTO, constrained(PHOTO, quality, subsampling))
    assert projected.dtype == np.uint8
    assert (projected != PHOTO).mean() < (2e-3 if quality == 90 else 1e-3)
    assert np.abs(projected.astype(int) - PHOTO).max() <= 1


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_projecting_twice_is_projecting_once(subsampling: str) -> None:
    found = constrained(PHOTO, 60, subsampling)
    drifted = PHOTO.astype(np.float64) / 255 + np.random.default_rng(0).normal(0.05, 0.1, PHOTO.shape)
    once = project(drifted, found)
    twice = project(once, found)
    assert np.abs(once - drifted).max() > 0.05
    assert np.abs(twice - once).max() < 1e-5


def test_it_is_the_nearest_image_that_agrees() -> None:
    """Of a convex set: the way to the projection makes no acute angle with the way on to any other member."""
    found = constrained(PHOTO[:256, :240], 60, "4:4:4")
    drifted = PHOTO[:256, :240] / 255 + np.random.default_rng(1).normal(0, 0.1, (256, 240, 3))
    nearest = project(drifted, found)
    to_ycc = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
    back, on = (drifted - nearest) @ to_ycc.T, (PHOTO[:256, :240] / 255 - nearest) @ to_ycc.T
    for plane in range(3):  # each plane has its own set
        assert (back[..., plane] * on[..., plane]).sum() <= 1e-3


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize(("quality", "gain"), [(30, 1.0), (60, 2.5), (90, 6.0)])
def test_a_colour_shift_is_undone(quality: int, gain: float, subsampling: str) -> None:
    found = constrained(PHOTO, quality, subsampling)
    shifted = (PHOTO + np.array([8.0, -5, -8])).clip(0, 255).round().astype(np.uint8)
    assert psnr(project(shifted, found), PHOTO) > psnr(shifted, PHOTO) + gain


@pytest.mark.parametrize("quality", [10, 50, 90])
def test_noise_never_gets_worse(quality: int) -> None:
    found = constrained(PHOTO, quality)
    noisy = (PHOTO + np.random.default_rng(2).normal(0, 12, PHOTO.shape)).clip(0, 255).astype(np.uint8)
    assert psnr(project(noisy, found), PHOTO) > psnr(noisy, PHOTO)


def test_grey_stays_grey() -> None:
    grey = PHOTO[..., 1]
    found = constraint(encode_jpeg(grey, 60))
    assert isinstance(found, Constraint) and len(found.planes) == 1
    restored = np.repeat((grey + 20.0).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
    projected = project(restored, found)
    assert (np.ptp(projected, axis=2) == 0).all()
    assert psnr(projected[..., 0], grey) > psnr(restored[..., 0], grey) + 5


@pytest.mark.parametrize("kind", [np.uint8, np.float32, np.float64])
def test_kinds_agree(kind: type) -> None:
    found = constrained(PHOTO, 60)
    shifted = (PHOTO.astype(float) + 10).clip(0, 255)
    restored = shifted.astype(np.uint8) if kind is np.uint8 else (shifted / 255).astype(kind)
    projected = project(restored, found)
    assert projected.dtype == kind
    levels = projected if kind is np.uint8 else (projected * 255).clip(0, 255)
    assert np.abs(levels - project(shifted.astype(np.uint8), found).astype(float)).max() <= 0.51


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_grid_turns_with_the_picture(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    Image.fromarray(PHOTO).save(out, "JPEG", quality=75, exif=exif)
    found = constraint(out.getvalue())
    assert isinstance(found, Constraint)
    picture, plain = decode(out.getvalue()), constrained(PHOTO, 75)
    assert picture.orientation == orientation
    assert np.array_equal(picture.stored, decode(encode_jpeg(PHOTO, 75, "4:2:0")).rgb)
    assert np.array_equal(picture.stored, STORED[orientation](picture.rgb))
    drifted = (picture.stored + 10.0).clip(0, 255).astype(np.uint8)
    assert np.array_equal(project(drifted, found), project(drifted, plain))


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (8, 8), (17, 9), (16, 64), (65, 130)])
def test_any_size(size: tuple[int, int]) -> None:
    image = np.ascontiguousarray(PHOTO[: size[0], : size[1]])
    for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
        projected = project((image + 9.0).clip(0, 255).astype(np.uint8), constrained(image, 75, subsampling))
        assert projected.shape == image.shape


def test_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="257x253"):
        project(PHOTO[:-1], constrained(PHOTO, 75))


def saved(mode: str, **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(PHOTO).convert(mode).save(out, "JPEG", **options)
    return out.getvalue()


def other_subsampling() -> bytes:
    data = bytearray(encode_jpeg(PHOTO, 60, "4:2:0"))
    data[data.index(b"\xff\xc0") + 11] = 0x12  # 4:4:0, and the coded data no longer fits
    return bytes(data)


def no_tables() -> bytes:
    data = bytearray(encode_jpeg(PHOTO, 60))
    data[data.index(b"\xff\xc0") + 12] = 3  # luma takes a table that is not there
    return bytes(data)


def thumbnail_of_the_same_size() -> bytes:
    """Its frame header stands before the picture's own, and is the same."""
    inner = encode_jpeg(PHOTO, 5)
    segment = b"\xff\xe1" + (len(inner) + 8).to_bytes(2, "big") + b"Exif\0\0" + inner
    return b"\xff\xd8" + segment + encode_jpeg(PHOTO, 60)[2:]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", Unconstrained.broken),
        (b"\x89PNG\r\n\x1a\n" + bytes(64), Unconstrained.broken),
        (saved("CMYK"), Unconstrained.other_kind),
        (saved("RGB", keep_rgb=True), Unconstrained.broken),
        (other_subsampling(), Unconstrained.other_kind),
        (no_tables(), Unconstrained.broken),
        (encode_jpeg(PHOTO, 60)[:3000], Unconstrained.broken),
    ],
    ids=["empty", "png", "cmyk", "rgb", "4:4:0", "no-tables", "cut"],
)
def test_files_that_say_nothing_usable_say_why(data: bytes, why: Unconstrained) -> None:
    assert constraint(data) == why


def test_a_thumbnail_is_not_taken_for_the_picture() -> None:
    found, plain = constraint(thumbnail_of_the_same_size()), constrained(PHOTO, 60, "4:4:4")
    assert isinstance(found, Constraint)
    assert all(map(np.array_equal, found.planes, plain.planes))


def enlarged(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    return np.array(Image.fromarray(image).resize((width * 3 // 2, height * 3 // 2), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("photo", [PHOTO, np.ascontiguousarray(coffee()[:256, 150:406])], ids=["astronaut", "coffee"])
def test_files_whose_damage_is_older_give_none(photo: np.ndarray) -> None:
    hard = degrade(photo, 10)
    for image in (hard, shift(hard, 3, 4)):
        known = constraint(encode_jpeg(image, 90))
        assert isinstance(known, Older)
        assert abs(known.quality - 10) <= 1
    assert isinstance(constraint(encode_jpeg(enlarged(hard), 90)), Constraint)  # no proof
    for quality in (10, 30, 50, 75, 90):
        assert isinstance(constraint(encode_jpeg(photo, quality)), Constraint)


def test_older_blocks_show_in_a_later_file_alone() -> None:
    assert not suspected(decode(encode_jpeg(PHOTO, 90, "4:2:0")).rgb, 90)
    moved = np.ascontiguousarray(shift(degrade(PHOTO, 10), 4, 4))
    for earlier in (degrade(PHOTO, 10), moved):
        pixels = decode(encode_jpeg(earlier, 90, "4:2:0")).rgb
        assert suspected(pixels, 90)
        assert suspected(np.asarray(Image.fromarray(pixels).convert("L")), 90)
