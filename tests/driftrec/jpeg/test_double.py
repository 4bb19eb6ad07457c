"""Evidence of an earlier compression: there where there was one, with its quality and grid, and nowhere else."""

import io

import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut, coffee

from driftrec.jpeg.codec import degrade, encode_jpeg, shift
from driftrec.jpeg.double_compression import Earlier, _best_likelihoods, _shapes, earlier, earlier_in, once_jpeg
from driftrec.jpeg.headers import standard_tables
from tests.driftrec.drawings import DRAWINGS

PHOTOS = {
    "astronaut": np.ascontiguousarray(astronaut()[20:277, 100:353]),  # no multiple of 8
    "coffee": np.ascontiguousarray(coffee()[:300, 150:500]),
}


def look(image: np.ndarray, quality: int) -> Earlier:
    found = earlier_in(encode_jpeg(np.ascontiguousarray(image), quality, "4:2:0"))
    assert found is not None
    return found


@pytest.mark.parametrize("photo", PHOTOS.values(), ids=PHOTOS)
@pytest.mark.parametrize(("first", "second"), [(10, 30), (30, 50), (50, 75), (75, 90), (60, 95)])
def test_a_coarser_first_compression_shows(photo, first, second):
    found = look(degrade(photo, first), second)
    assert found.found == "aligned"
    assert found.quality is not None and abs(found.quality - first) <= 2
    found = look(shift(degrade(photo, first), 3, 2), second)
    assert (found.found, found.offset) == ("shifted", (3, 2))
    assert found.quality is not None and abs(found.quality - first) <= 5


@pytest.mark.parametrize("photo", PHOTOS.values(), ids=PHOTOS)
@pytest.mark.parametrize("quality", [10, 30, 50, 75, 90, 98])
def test_a_single_compression_shows_nothing_older(photo, quality):
    found = look(photo, quality)
    assert (found.found, found.quality) == ("", None)


def test_what_leaves_no_trace_is_not_claimed():
    photo = PHOTOS["astronaut"]
    assert look(degrade(photo, 30), 30).found == ""  # the same tables on the same grid
    assert look(degrade(photo, 30), 10).found == ""  # three steps of the first in each of the second


def test_too_little_to_look_at_gives_none():
    table = standard_tables(90)[0]
    assert earlier(np.zeros((63, 500), np.float32), table) is None
    assert earlier(np.zeros((64, 64), np.float32), (0, *table[1:])) is None
    cmyk = io.BytesIO()
    Image.new("CMYK", (80, 80)).save(cmyk, "JPEG")
    assert earlier_in(cmyk.getvalue()) is None
    assert earlier_in(encode_jpeg(PHOTOS["coffee"][..., 0], 75)) is not None
    flat = earlier(np.full((64, 64), 127, np.float32), table)
    assert flat is not None and flat.found == ""


def test_the_distributions_are_distributions_and_the_fit_finds_the_right_one():
    shapes = _shapes((7, 16, 30), 5).astype(float)
    assert np.allclose(shapes.sum(axis=1), 1, atol=1e-5)
    assert shapes.min() >= 0
    rng = np.random.default_rng(0)
    raw = rng.laplace(0, 25, 50_000)
    for case, first in enumerate((0, 7, 16, 30)):
        once = np.round(raw / first) * first + rng.normal(0, 0.4, raw.size) if first else raw
        counts = np.bincount(np.minimum(np.abs(np.round(once / 5)), 64).astype(int), minlength=65)
        assert _best_likelihoods(counts, shapes.astype(np.float32)).argmax() == case


@pytest.mark.parametrize("quality", [50, 60, 75, 85, 90, 95, 97, 100])
@pytest.mark.parametrize("name", DRAWINGS)
def test_a_drawing_on_a_raster_was_not_compressed_before(name: str, quality: int) -> None:
    for subsampling in ("4:4:4", "4:2:0"):
        found = earlier_in(encode_jpeg(DRAWINGS[name], quality, subsampling))
        assert found is not None
        assert found.certain is None, found


@pytest.mark.parametrize("photo", PHOTOS.values(), ids=PHOTOS)
@pytest.mark.parametrize("quality", [10, 30, 50, 75, 85, 90])
@pytest.mark.parametrize("cut", [(0, 0), (3, 2), (7, 1)])
def test_pixels_show_that_they_were_a_jpeg(photo, quality, cut):
    found = once_jpeg(shift(degrade(photo, quality, "4:2:0"), *cut))
    assert found is not None and found.offset == cut if any(cut) else found is not None
    assert found.found == ("shifted" if any(cut) else "aligned")
    assert abs(found.quality - quality) <= (5 if any(cut) else 1)


@pytest.mark.parametrize("form", ["PNG", "GIF", "WEBP", "AVIF"])
def test_pixels_that_never_were_one_show_nothing(form):
    for image in (*PHOTOS.values(), *DRAWINGS.values()):
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(image)).save(file, form, quality=80)
        with Image.open(file) as opened:
            assert once_jpeg(np.asarray(opened.convert("RGB"))) is None


@pytest.mark.parametrize("side", [1, 8, 63, 64])
def test_few_pixels_show_nothing_or_the_truth(side):
    for image in (PHOTOS["coffee"][:side, :side], np.zeros((side, side, 3), np.uint8)):
        assert once_jpeg(image) is None
        found = once_jpeg(degrade(np.ascontiguousarray(image), 30))
        assert found is None or (found.quality is not None and abs(found.quality - 30) <= 5)
