"""Patches: what the settings say is what is drawn, from the key alone."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from driftrec.jpeg.codec import degrade
from driftrec.training.patches import PatchConfig, draw_paired, draw_patches
from tests import made

PLAIN = PatchConfig(size=32, per_image=40, share_444=0.0, share_grey=0.0, share_double=0.0, turn=False)
IMAGE = made.pixels(3, 160, 224)


def places(patch: np.ndarray, image: np.ndarray = IMAGE) -> list[tuple[int, int]]:
    """Where the patch lies in the image."""
    views = np.lib.stride_tricks.sliding_window_view(image, patch.shape)[:, :, 0]
    rows, columns = np.nonzero((views[:, :, 0, 0] == patch[0, 0]).all(axis=-1))
    return [(int(r), int(c)) for r, c in zip(rows, columns, strict=True) if np.array_equal(views[r, c], patch)]


def test_native_crops_are_pieces_of_the_photograph_and_their_jpeg():
    clean, damaged = draw_patches(IMAGE, replace(PLAIN, quality_min=10, quality_max=10), 0, 0, "a")
    found = [places(patch) for patch in clean]
    assert all(len(place) == 1 for place in found)
    assert len({place[0] for place in found}) > 35
    assert all(np.array_equal(bad, degrade(good, 10)) for good, bad in zip(clean, damaged, strict=True))


def test_the_same_key_draws_the_same_and_another_draws_otherwise():
    config = PatchConfig(size=32)
    first = draw_patches(IMAGE, config, 1, 2, "a")
    assert all(np.array_equal(a, b) for a, b in zip(first, draw_patches(IMAGE, config, 1, 2, "a"), strict=True))
    for other in ((2, 2, "a"), (1, 3, "a"), (1, 2, "b")):
        assert not np.array_equal(first[0], draw_patches(IMAGE, config, *other)[0])


def test_crops_are_turned_into_all_eight_orientations_or_not_at_all():
    square = IMAGE[:32, :32]
    turned = [np.rot90(s, k) for k in range(4) for s in (square, square[:, ::-1])]
    clean, _ = draw_patches(square, replace(PLAIN, turn=True, per_image=100), 0, 0, "a")
    seen = Counter(next(i for i, t in enumerate(turned) if np.array_equal(t, patch)) for patch in clean)
    assert len(seen) == 8
    clean, _ = draw_patches(square, PLAIN, 0, 0, "a")
    assert all(np.array_equal(patch, square) for patch in clean)


def test_the_stated_share_of_crops_is_area_reduced():
    config = replace(PLAIN, share_reduced=0.5, largest_reduction=3, per_image=120)
    clean, _ = draw_patches(IMAGE, config, 0, 0, "a")
    reduced = [patch for patch in clean if not places(patch)]
    assert len(reduced) / len(clean) == pytest.approx(0.5, abs=0.12)
    found = Counter(factor for patch in reduced[:40] for factor in (2, 3) if is_reduction(patch, factor))
    assert found.total() == 40
    assert min(found[2], found[3]) > 8


def is_reduction(patch: np.ndarray, factor: int) -> bool:
    """Whether the patch lies in the image of means over squares of factor x factor, up to one level of rounding."""
    pixels = IMAGE.astype(float)
    for top, left in np.ndindex(factor, factor):
        height, width = (
            (side - start) // factor * factor for side, start in zip(IMAGE.shape, (top, left), strict=False)
        )
        blocks = pixels[top : top + height, left : left + width]
        means = blocks.reshape(height // factor, factor, width // factor, factor, 3).mean(axis=(1, 3))
        views = np.lib.stride_tricks.sliding_window_view(means, (32, 32, 3))[:, :, 0]
        near = np.argwhere((np.abs(views[:, :, 0, 0] - patch[0, 0]) <= 1).all(axis=-1))
        if any(np.abs(views[row, column] - patch).max() <= 1 for row, column in near):
            return True
    return False


def test_a_reduction_that_does_not_fit_is_smaller_or_none():
    config = replace(PLAIN, share_reduced=1.0, largest_reduction=4, size=64)
    clean, _ = draw_patches(IMAGE, config, 0, 0, "a")  # 160 pixels hold two patches of 64
    assert not any(places(patch) for patch in clean)
    clean, _ = draw_patches(IMAGE[:100], config, 0, 0, "a")
    assert all(places(patch) for patch in clean)


@pytest.mark.parametrize("size", [32, 120])  # of which 160 pixels hold more than one, but not two
def test_the_stated_share_of_crops_is_scaled(size: int):
    config = replace(PLAIN, size=size, share_scaled=0.5, per_image=80)
    clean, _ = draw_patches(IMAGE, config, 0, 0, "a")
    scaled = [patch for patch in clean if not places(patch)]
    assert clean.shape[1:] == (size, size, 3)
    assert len(scaled) / len(clean) == pytest.approx(0.5, abs=0.15)


def test_a_recoloured_patch_has_the_same_shapes_in_other_colours():
    """Whatever it draws: a rising function of the photograph's channels, in any order."""
    recoloured = replace(PLAIN, share_recoloured=0.5, per_image=60, quality_min=10, quality_max=10)
    image = IMAGE[:32, :32]  # one place only
    clean, damaged = draw_patches(image, recoloured, 0, 0, "a")
    orders = Counter(tuple(rising_with(patch[..., c], image) for c in range(3)) for patch in clean)
    assert all(sorted(order) == [0, 1, 2] for order in orders)
    assert len(orders) == 6
    assert sum(np.array_equal(patch, image) for patch in clean) == pytest.approx(30, abs=10)
    assert all(np.array_equal(bad, degrade(good, 10)) for good, bad in zip(clean, damaged, strict=True))


def rising_with(channel: np.ndarray, image: np.ndarray) -> int:
    """The channel of an image of which this one is a rising function."""
    found = []
    for c in range(3):
        before = image[..., c].ravel().astype(int)
        order = np.argsort(before, kind="stable")
        rises = np.diff(before[order]) > 0
        if (np.diff(channel.ravel()[order].astype(int))[rises] >= 0).all():
            found.append(c)
    assert len(found) == 1
    return found[0]


def test_a_resized_crop_is_a_square_of_a_uniform_share_of_the_area():
    """On a ramp the step from pixel to pixel tells the side of the square that was taken."""
    side = 250
    ramp = np.repeat(np.tile(np.arange(side, dtype=np.uint8), (side, 1))[..., None], 3, axis=2)
    config = replace(PLAIN, crop="resized", smallest_scale=0.2, per_image=400)
    clean, _ = draw_patches(ramp, config, 0, 0, "a")
    steps = (clean[:, 16, -3, 0].astype(float) - clean[:, 16, 2, 0]) / 27
    shares = (steps * 32 / side) ** 2
    assert shares.min() == pytest.approx(0.2, abs=0.03)
    assert shares.max() == pytest.approx(1.0, abs=0.05)
    assert shares.mean() == pytest.approx(0.6, abs=0.04)
    assert np.ptp(clean[:, :, 10, 0], axis=1).max() <= 1  # nothing sheared or turned


def test_a_resized_crop_of_a_narrow_image_is_its_middle():
    narrow = made.pixels(0, 40, 400)  # no square has a fifth of its area
    clean, _ = draw_patches(narrow, replace(PLAIN, crop="resized", smallest_scale=0.5, per_image=2), 0, 0, "a")
    middle = Image.fromarray(narrow[:, 180:220]).resize((32, 32), Image.Resampling.BILINEAR)
    assert np.array_equal(clean[0], np.asarray(middle))


def test_qualities_go_from_0_to_100_and_0_is_as_damaging_as_1():
    config = replace(PLAIN, quality_min=0, quality_max=100, quality_power=1.0, per_image=300)
    clean, damaged = draw_patches(IMAGE, config, 0, 0, "a")
    errors = np.abs(clean.astype(float) - damaged).mean(axis=(1, 2, 3))
    assert errors.min() < 3
    assert errors.max() > 20
    worst = replace(PLAIN, quality_min=0, quality_max=0, per_image=3)
    clean, damaged = draw_patches(IMAGE, worst, 0, 0, "a")
    assert all(np.array_equal(bad, degrade(good, 1)) for good, bad in zip(clean, damaged, strict=True))


def test_double_compression_has_a_share_of_its_own():
    once = replace(PLAIN, quality_min=10, quality_max=10)
    clean, damaged = draw_patches(IMAGE, replace(once, share_double=1.0), 0, 0, "a")
    assert all(len(places(patch)) == 1 for patch in clean)
    twice = [not np.array_equal(bad, degrade(good, 10)) for good, bad in zip(clean, damaged, strict=True)]
    assert np.mean(twice) > 0.9  # an unshifted first grid changes nothing


def test_an_image_smaller_than_a_patch_is_skipped_or_reflected():
    small = IMAGE[:20, :50]
    with pytest.raises(ValueError, match="a: 50x20 is smaller than a patch of 32x32"):
        draw_patches(small, PLAIN, 0, 0, "a")
    assert not PLAIN.fits(20, 50)
    reflecting = replace(PLAIN, small="reflect")
    assert reflecting.fits(1, 1)
    clean, _ = draw_patches(small, reflecting, 0, 0, "a")
    mirrored = np.concatenate([small, small[::-1]])[:32]
    assert all(places(patch, mirrored) for patch in clean)
    single, _ = draw_patches(IMAGE[:1, :1], reflecting, 0, 0, "a")
    assert (single == IMAGE[0, 0]).all()


def test_pairs_are_cut_at_the_same_place_and_get_no_jpeg():
    other = 255 - IMAGE
    config = replace(PLAIN, turn=True, share_double=1.0, share_grey=1.0)
    clean, damaged = draw_paired(IMAGE, other, config, 0, 0, "a")
    assert np.array_equal(damaged, 255 - clean)
    assert len({patch.tobytes() for patch in clean}) > 35
    again = draw_paired(IMAGE, other, config, 0, 0, "a")
    assert np.array_equal(again[0], clean)
    with pytest.raises(ValueError, match="needs one shape"):
        draw_paired(IMAGE, other[1:], config, 0, 0, "a")
    clean, damaged = draw_paired(IMAGE[:20], other[:20], replace(config, small="reflect"), 0, 0, "a")
    assert np.array_equal(damaged, 255 - clean)


@pytest.mark.parametrize(
    "bad",
    [
        {"size": 8},
        {"per_image": 0},
        {"largest_reduction": 1},
        {"quality_min": -1},
        {"quality_max": 101},
        {"quality_power": 0.0},
        {"share_reduced": 1.5},
        {"share_scaled": -0.1},
        {"share_recoloured": 2.0},
        {"share_double": -0.1},
        {"smallest_scale": 0.0},
    ],
)
def test_settings_out_of_range_are_refused(bad: dict[str, float]):
    with pytest.raises(ValueError, match=next(iter(bad))):
        PatchConfig(**bad)
