"""Tiles cover an image once in all, keep to the JPEG grid, and restore what the whole image would."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftrec import Restorer
from driftrec.image import Picture
from driftrec.restoration.options import Sampling
from driftrec.restoration.tiling import GRID, SMALLEST, Canvas, overlap, spans, tiles


@given(length=st.integers(1, 5000), side=st.integers(SMALLEST, 1500))
def test_spans_cover_a_length_exactly_once(length: int, side: int) -> None:
    total = np.zeros(length)
    for span in spans(length, side):
        assert span.start % GRID == 0
        assert 0 < span.stop - span.start <= side
        total[span.start : span.stop] += span.weights
    np.testing.assert_allclose(total, 1, atol=1e-12)


@pytest.mark.parametrize(("side", "edge"), [(400, 32), (192, 32), (128, 21)])
def test_what_lies_at_a_tiles_own_edge_is_not_used(side: int, edge: int) -> None:
    first, *inner, last = spans(2000, side)
    assert inner
    for span in inner:
        assert not any(span.weights[:edge])
        assert not any(span.weights[-edge:])
        assert span.weights[overlap(side) - 1] == 1
    assert first.weights[0] == last.weights[-1] == 1


def test_tiles_are_about_equal() -> None:
    """No sliver at the end, for which the network would see too little."""
    sizes = [tile.rows.stop - tile.rows.start for tile in tiles(1024, 100, 768)]
    assert len(sizes) == 2
    assert max(sizes) - min(sizes) < 2 * GRID


def test_a_canvas_puts_an_image_together_again() -> None:
    image = np.random.default_rng(0).random((500, 700, 3), np.float32)
    canvas = Canvas(500, 700)
    for tile in tiles(500, 700, 256):
        canvas.add(tile, image[tile.place])
    np.testing.assert_allclose(canvas.rows(0, 500), image, atol=3e-4)
    np.testing.assert_allclose(canvas.mean(), image.mean(axis=(0, 1)), atol=1e-5)


@pytest.mark.parametrize("fidelity", [1.0, pytest.param(0.0, marks=pytest.mark.slow)])
def test_tiled_is_whole(fidelity: float) -> None:
    """Of the embedded model: how far a network looks is a matter of its weights."""
    restorer = Restorer.from_pretrained(device="cpu")
    restorer.checkpoint.denoiser.network.float()  # bfloat16 may round a convolution of another size in another way
    smooth = np.linspace(0, 255, 340)[:, None, None] + np.linspace(-80, 80, 260)[None, :, None] + np.array([0, 20, -9])
    texture = np.random.default_rng(0).normal(0, 12, (340, 260, 3))
    picture = Picture((smooth + texture).clip(0, 255).astype(np.uint8))
    settings = Sampling(fidelity=fidelity, steps=2, tile=None)
    whole = restorer.restore([picture], ["a"], 0, settings)[0].picture.rgb.astype(int)
    for side, most, mean in ((128, 4, 0.3), (224, 2, 0.1), (320, 2, 0.1)):  # the least side shows too little around
        tiled = restorer.restore([picture], ["a"], 0, replace(settings, tile=side))[0].picture.rgb.astype(int)
        assert np.abs(tiled - whole).max() <= most
        assert np.abs(tiled - whole).mean() < mean


def test_too_small_a_tile_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 128 pixels, got 100"):
        Sampling(tile=100)
