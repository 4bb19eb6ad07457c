"""Conditions: names, combinations, and damage that is a function of pixels, key and seed alone."""

import numpy as np
import pytest

from driftrec.errors import BadImage, InvalidInput
from driftrec.image import Picture, decode
from driftrec.jpeg.codec import degrade, shift
from driftrec.jpeg.headers import inspect
from pipeline.evaluate.conditions import Condition, conditions_of, crop_of, damage, reference_of
from pipeline.evaluate.settings import DegradeSettings
from pipeline.settings import load
from tests import made


def slugs(**settings: object) -> list[str]:
    return [one.slug for one in conditions_of(load(DegradeSettings, flags={"input": "i", "output": "o"} | settings))]


def picture(seed: int = 0, mode: str = "RGB", height: int = 40, width: int = 56) -> Picture:
    rgb = made.pixels(seed, height, width)
    return Picture(np.repeat(rgb[..., :1], 3, axis=2) if mode == "L" else rgb, mode=mode)  # type: ignore[arg-type]


def test_conditions_are_the_product_of_the_settings() -> None:
    assert slugs() == ["q5-420", "q10-420", "q20-420", "q30-420"]
    assert slugs(quality="10", subsampling="4:2:0,4:4:4") == ["q10-420", "q10-444"]
    assert slugs(quality="30/10,10/30,10") == ["q30-q10-shift4-420", "q10-q30-shift4-420", "q10-420"]
    assert slugs(quality="30,10", second_quality="30", shift=2) == ["q30-q30-shift2-420", "q10-q30-shift2-420"]
    assert slugs(quality="10,10,010") == ["q10-420"]
    assert slugs(quality=[5, "30/10"]) == ["q5-420", "q30-q10-shift4-420"]
    assert slugs(quality="none") == ["none"]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"quality": "ten"}, "setting 'quality' is 'ten': give numbers from 0 to 100"),
        ({"quality": "101"}, "from 0 to 100"),
        ({"quality": "30/10/5"}, "pairs such as 30/10"),
        ({"quality": "none,10"}, "cannot be combined"),
        ({"quality": "30/10", "second_quality": "10"}, "both say how to compress a second time"),
        ({"quality": "none", "second_quality": "10"}, "leave out --second-quality"),
        ({"subsampling": "4:1:1"}, "give some of 4:4:4, 4:2:2, 4:2:0"),
        ({"shift": 8}, "'shift' is 8"),
    ],
)
def test_senseless_ones_are_refused(settings: dict[str, object], told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        slugs(**settings)


def test_one_compression_is_driftrecs_own() -> None:
    for subsampling in ("4:2:0", "4:4:4"):
        data = damage(picture(), "a.png", Condition(10, subsampling), 0)
        assert inspect(data).quality == 10
        assert inspect(data).subsampling == subsampling
        assert np.array_equal(decode(data).rgb, degrade(picture().rgb, 10, subsampling))
        assert np.array_equal(reference_of(picture(), "a.png", Condition(10, subsampling), 0), picture().rgb)


def test_two_compressions_and_the_reference_lie_on_one_another() -> None:
    condition = Condition(30, "4:2:0", 10, 4)
    crops = set()
    for number in range(60):
        key = f"{number}.png"
        down, across = crop_of(key, condition, 0)
        data, reference = damage(picture(), key, condition, 0), reference_of(picture(), key, condition, 0)
        twice = degrade(np.ascontiguousarray(shift(degrade(picture().rgb, 30), down, across)), 10)
        assert np.array_equal(decode(data).rgb, twice)
        assert np.array_equal(reference, picture().rgb[down:, across:])
        crops.add((down, across))
    assert {down for down, _ in crops} == {across for _, across in crops} == {0, 1, 2, 3, 4}
    assert crop_of("7.png", condition, 0) == crop_of("7.png", Condition(50, "4:4:4", 30, 4), 0)  # one crop for all
    assert any(crop_of(f"{i}.png", condition, 0) != crop_of(f"{i}.png", condition, 1) for i in range(9))
    assert crop_of("7.png", Condition(30, "4:2:0"), 0) == (0, 0)


def test_grey_stays_grey() -> None:
    for condition in (Condition(10, "4:2:0"), Condition(30, "4:2:0", 10, 4)):
        made_of = decode(damage(picture(mode="L"), "k", condition, 0))
        assert made_of.mode == "L"


def test_an_image_that_a_crop_would_use_up() -> None:
    condition = Condition(30, "4:2:0", 10, 4)
    for act in (damage, reference_of):
        with pytest.raises(BadImage, match="too_small: 56x4 pixels are too few to crop up to 4"):
            act(picture(height=4), "k", condition, 0)
    assert decode(damage(picture(height=5), "k", condition, 0)).height in range(1, 6)
