"""Every row of the table in docs/explanation/formats.md holds for the odd files of tests/corpus."""

import importlib.util
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from driftrec.errors import BadImage
from driftrec.image import Picture, decode, encode, not_kept
from driftrec.image.png import TEXTS
from tests.corpus.made import ANY, Odd
from tests.corpus.make import main, odd_files

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")

TABLE = Path(__file__).parents[3] / "docs/explanation/formats.md"
DOCUMENTED = re.findall(r"^\| `([a-z0-9-]+)` \|", TABLE.read_text(encoding="utf-8"), re.M)
FILES = odd_files()
MISSING = {  # rows whose reader may be absent, and the remedy that is named then
    **({} if importlib.util.find_spec("pillow_heif") else {"heic": "pip install pillow-heif"}),
    **({} if features.check("avif") else {"avif": "update it"}),
    **({} if importlib.util.find_spec("pillow_jxl") else dict.fromkeys(("jxl", "jxl-jpeg"), "pip install pillow-jxl")),
}


def test_the_table_has_a_row_for_every_kind_and_no_other():
    assert sorted(DOCUMENTED) == sorted({odd.row for odd in FILES})
    assert len(set(DOCUMENTED)) == len(DOCUMENTED)
    assert len({odd.name for odd in FILES}) == len(FILES) >= 120


def test_the_corpus_is_the_same_each_time(tmp_path):
    main(tmp_path / "odd")
    assert {path.name for path in (tmp_path / "odd").iterdir()} == {odd.name for odd in FILES} | {"outcomes.json"}
    for odd in FILES:
        assert (tmp_path / "odd" / odd.name).read_bytes() == odd.data, odd.name


@pytest.mark.parametrize("row", DOCUMENTED)
def test_a_row_of_the_table(row):
    for odd in FILES:
        if odd.row == row:
            if odd.reason or row in MISSING:
                refusal(odd)
            else:
                kept(odd)


def refusal(odd: Odd) -> None:
    with pytest.raises(BadImage) as caught:
        decode(odd.data, odd.name)
    reason = "unsupported" if odd.row in MISSING else odd.reason
    assert (odd.name, caught.value.reason) == (odd.name, reason)
    assert MISSING.get(odd.row, odd.words) in caught.value.detail


def kept(odd: Odd) -> None:
    """Read as promised; and written as PNG, and as all else that can hold it, as it was read."""
    picture = decode(odd.data, odd.name)
    check_pixels(picture, odd)
    check_metadata(picture, odd)
    assert (odd.words in picture.note, bool(picture.note)) == (True, bool(odd.words)), odd.name
    again = decode(encode(picture), "x.png")
    assert again.note == "", odd.name
    same(again, picture, odd.name)
    check_metadata(replace(again, comment=odd.comment), odd if not odd.comment else replace(odd, texts=odd.texts + 1))
    for kind in ("tiff", "webp", "jpeg"):
        if max(picture.rgb.shape) > 9999 or (kind == "jpeg" and picture.alpha is not None):
            continue
        if kind == "tiff" and (picture.depth, picture.mode) == (16, "LA"):
            continue  # written, but not read: tests/driftrec/image/test_deep.py
        if kind == "tiff" and odd.name == "broken-exif.jpg":
            continue
        other = decode(encode(picture, kind), f"x.{kind}")
        assert other.icc == (None if kind == "webp" and picture.grey else picture.icc), odd.name
        assert other.xmp == picture.xmp, odd.name
        if kind != "tiff":
            assert other.exif == picture.exif, odd.name
        if kind != "jpeg":
            plain = picture if kind == "tiff" else picture.in_8_bits()
            assert np.array_equal(other.rgb, plain.rgb), odd.name
            assert np.array_equal(other.alpha, plain.alpha) if plain.alpha is not None else other.alpha is None
        assert ("16 bits rounded to 8" in not_kept(picture, kind)) == (picture.depth > other.depth)


def check_pixels(picture: Picture, odd: Odd) -> None:
    truth = odd.rgb if odd.rgb.ndim == 3 else odd.rgb[..., None]
    assert picture.mode == odd.mode, odd.name
    assert picture.rgb.dtype == truth.dtype, odd.name
    assert picture.rgb.shape == (*truth.shape[:2], 3), odd.name
    assert np.abs(picture.rgb.astype(int) - truth).max() <= odd.within, odd.name
    if odd.alpha is None:
        assert picture.alpha is None, odd.name
    else:
        assert np.array_equal(picture.alpha, odd.alpha), odd.name


def check_metadata(picture: Picture, odd: Odd) -> None:
    assert (picture.xmp, picture.comment) == (odd.xmp, odd.comment), odd.name
    assert picture.icc if odd.icc == ANY else picture.icc == odd.icc, odd.name
    if odd.exif == ANY:
        found = Image.Exif()
        found.load(picture.exif)
        assert (found[0x010F], found.get(0x0112, 1)) == ("maker", 1), odd.name
    else:
        assert picture.exif == odd.exif, odd.name
    assert picture.dpi == (odd.dpi and pytest.approx(odd.dpi, abs=0.02)), odd.name
    assert sum(kind in TEXTS for kind, _ in picture.chunks) == odd.texts, odd.name


def same(one: Picture, other: Picture, name: str) -> None:
    assert (one.mode, one.depth, one.icc, one.exif, one.xmp) == (
        *(other.mode, other.depth, other.icc, other.exif, other.xmp),
    ), name
    assert np.array_equal(one.rgb, other.rgb), name
    assert np.array_equal(one.alpha, other.alpha) if other.alpha is not None else one.alpha is None
    assert one.chunks[: len(other.chunks)] == other.chunks, name
