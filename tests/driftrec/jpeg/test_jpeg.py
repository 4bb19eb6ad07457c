"""The degradation is libjpeg's, and a file tells how it was compressed."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from driftrec.errors import BadImage, InvalidInput, Reason
from driftrec.jpeg.codec import SUBSAMPLINGS, degrade, encode_jpeg, shift
from driftrec.jpeg.headers import estimate_quality, inspect, standard_tables


def photo(height: int = 61, width: int = 85) -> np.ndarray:
    """(H, W, 3) uint8: smooth colours, edges and grain."""
    y, x = np.mgrid[0:height, 0:width]
    smooth = np.stack([128 + 100 * np.sin(x / 17), 128 + 90 * np.cos(y / 11), 255 * x / width], axis=2)
    smooth[(x // 13 + y // 9) % 5 == 0] *= 0.4
    return (smooth + np.random.default_rng(0).normal(0, 4, smooth.shape)).clip(0, 255).astype(np.uint8)


GREY = photo()[..., 0]


@pytest.mark.parametrize("quality", range(1, 101))
def test_a_file_tells_its_quality_and_subsampling(quality):
    for subsampling in SUBSAMPLINGS:
        for progressive in (False, True):
            info = inspect(encode_jpeg(photo(), quality, subsampling, progressive))
            assert (info.quality, info.exact) == (quality, True)
            assert (info.subsampling, info.progressive) == (subsampling, progressive)
            assert (info.width, info.height, info.components, info.precision) == (85, 61, 3, 8)
    info = inspect(encode_jpeg(GREY, quality))
    assert (info.quality, info.exact, info.subsampling, info.components) == (quality, True, "4:0:0", 1)


def test_tables_equal_those_pillow_reads():
    data = encode_jpeg(photo(), 37)
    theirs = Image.open(io.BytesIO(data)).quantization
    assert [list(table) for table in inspect(data).tables] == [theirs[0], theirs[1], theirs[1]]


def test_cmyk_and_odd_sampling_factors_are_told():
    out = io.BytesIO()
    Image.new("CMYK", (16, 16)).save(out, "JPEG", quality=60)
    info = inspect(out.getvalue())
    assert (info.components, info.quality, info.subsampling) == (4, 60, "4:4:4")
    data = bytearray(encode_jpeg(photo(), 60, "4:2:0"))
    frame = data.index(b"\xff\xc0")
    for factors, name in ((0x12, "4:4:0"), (0x41, "4:1:1"), (0x31, "3x1,1x1,1x1"), (0x00, "0x0,1x1,1x1")):
        data[frame + 11] = factors
        assert inspect(bytes(data)).subsampling == name


def test_foreign_tables_get_the_nearest_quality_and_say_so():
    foreign = list(standard_tables(80)[0])
    foreign[-1] += 5
    assert estimate_quality((tuple(foreign),)) == (80, False)
    luma, chroma = standard_tables(80)
    assert estimate_quality((luma, chroma, standard_tables(20)[1])) == (80, False)  # one table of another quality
    assert estimate_quality((luma, luma, luma)) == (80, True)
    assert estimate_quality(((1000,) * 64,)) == (1, False)
    assert estimate_quality((standard_tables(5, limit=32_767)[0],)) == (5, True)  # cjpeg without -baseline
    assert estimate_quality(((0,) * 64,)) == (100, False)  # a broken table is no reason to fail


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
@pytest.mark.parametrize("quality", [0, 1, 10, 50, 95, 100])
def test_array_and_pil_degrade_alike(quality, subsampling):
    for pixels in (photo(), GREY):
        array = degrade(pixels, quality, subsampling)
        image = degrade(Image.fromarray(pixels), quality, subsampling)
        assert array.dtype == np.uint8
        assert array.shape == pixels.shape
        assert image.mode == Image.fromarray(pixels).mode
        assert np.array_equal(array, np.array(image))
        assert array.flags.writeable


def test_degrading_is_deterministic_and_worse_at_lower_quality():
    errors = []
    for quality in (5, 20, 60, 95):
        result = degrade(photo(), quality)
        assert np.array_equal(result, degrade(photo(), quality))
        errors.append(np.square(result - photo().astype(float)).mean())
    assert errors == sorted(errors, reverse=True)
    assert np.array_equal(degrade(photo(), 0), degrade(photo(), 1))


def test_the_input_stays_untouched_and_its_metadata_out_of_the_file():
    image = Image.fromarray(photo())
    image.info["comment"] = b"not for the file"
    degrade(image, 10)
    assert np.array_equal(np.array(image), photo())
    assert encode_jpeg(image, 10) == encode_jpeg(photo(), 10)


def test_shift_moves_the_grid():
    once = degrade(photo(64, 64), 30)
    aligned, shifted = degrade(once, 30), degrade(shift(once, 4, 4), 30)
    assert shifted.shape == (60, 60, 3)
    again = np.abs(aligned.astype(int) - once).mean()  # the same grid and tables: next to nothing changes
    assert np.abs(shifted.astype(int) - shift(once, 4, 4)).mean() > 4 * again
    assert np.array_equal(np.array(shift(Image.fromarray(once), 3, 5)), shift(once, 3, 5))


@pytest.mark.parametrize("quality", [-1, 101])
def test_quality_out_of_range_is_refused(quality):
    with pytest.raises(InvalidInput, match=f"{quality}.*0 to 100"):
        degrade(photo(), quality)


def test_unknown_subsampling_is_refused():
    with pytest.raises(InvalidInput, match=r"4:1:1.*4:4:4, 4:2:2, 4:2:0"):
        degrade(photo(), 50, "4:1:1")  # Pillow would take it for 4:2:0


def test_headers_are_enough():
    data = encode_jpeg(photo(), 50)
    scan = data.index(b"\xff\xda")
    assert inspect(data[: scan + 2]) == inspect(data)
    for cut in range(3, scan + 1):
        with pytest.raises(BadImage) as caught:
            inspect(data[:cut])
        assert caught.value.reason == Reason.truncated


def test_what_is_no_jpeg_is_refused():
    for data in (b"", b"\xff\xd8", b"<html>", b"\x89PNG\r\n\x1a\n"):
        with pytest.raises(BadImage) as caught:
            inspect(data)
        assert caught.value.reason == Reason.not_an_image
    for data in (b"\xff\xd8\xff\xd9", b"\xff\xd8\xff\xda"):
        with pytest.raises(BadImage) as caught:
            inspect(data)
        assert caught.value.reason == Reason.corrupt


@given(st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), max_size=8), st.integers(0, 3000))
def test_inspect_raises_nothing_but_bad_image(flips, length):
    data = bytearray(encode_jpeg(photo(24, 24), 50))
    for position, value in flips:
        data[position % len(data)] = value
    try:
        outcome = inspect(bytes(data[: max(length, 3)])).quality
    except BadImage as error:
        outcome = error.reason
    assert outcome in {None, *range(1, 101), Reason.not_an_image, Reason.truncated, Reason.corrupt}
