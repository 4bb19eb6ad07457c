"""Noise is a function of (seed, key, sample, step, position) and of nothing else."""

import itertools
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from driftrec.noise import gaussian, philox, quantiles
from driftrec.random import philox_key

CPU = torch.device("cpu")
WAYS: dict[str, Callable[..., Tensor]] = {"cpu": gaussian, "device": partial(gaussian, device=CPU)}
both_ways = pytest.mark.parametrize("draw", WAYS.values(), ids=WAYS)
Draw = Callable[..., Tensor]


@both_ways
def test_regions_fit_the_whole(draw: Draw) -> None:
    whole = draw(150, 200, seed=3, key="a/b.jpg", step=2)
    for top, left, height, width in itertools.product((0, 61, 149), (0, 64, 100), (1, 70), (1, 90)):
        height, width = min(height, 150 - top), min(width, 200 - left)
        region = draw(height, width, seed=3, key="a/b.jpg", step=2, top=top, left=left)
        assert torch.equal(region, whole[:, top : top + height, left : left + width])


@both_ways
@pytest.mark.parametrize("other", [{"seed": 4}, {"key": "b"}, {"step": 1}, {"sample": 1}, {"top": 64}, {"left": 1}])
def test_every_part_of_the_name_matters(draw: Draw, other: dict[str, object]) -> None:
    first = draw(64, 64, seed=3, key="a")
    second = draw(64, 64, **({"seed": 3, "key": "a"} | other))
    assert torch.equal(first, draw(64, 64, seed=3, key="a"))
    assert torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1].abs() < 0.05


@both_ways
def test_it_is_standard_normal_and_neighbours_are_independent(draw: Draw) -> None:
    noise = draw(512, 512, seed=0, key="x")
    assert noise.dtype == torch.float32
    assert noise.shape == (3, 512, 512)
    assert noise.mean().abs() < 0.005
    assert (noise.std() - 1).abs() < 0.005
    assert stats.kstest(noise.double().numpy().ravel(), "norm").pvalue > 1e-3
    red, green, blue = noise.flatten(1)
    down, across = noise[0, :-1].flatten(), noise[0, :, :-1].flatten()
    pairs = [
        *((red, green), (green, blue), (red, blue)),
        *((down, noise[0, 1:].flatten()), (across, noise[0, :, 1:].flatten())),
        (noise[:, :64, :64].flatten(), noise[:, :64, 64:128].flatten()),
    ]
    for a, b in pairs:
        assert torch.corrcoef(torch.stack([a, b]))[0, 1].abs() < 4 / len(a) ** 0.5


@both_ways
def test_a_known_value_guards_the_stream(draw: Draw) -> None:
    """If this changes, the same seed no longer gives the same images: a new version must say so."""
    found = draw(2, 2, seed=1, key="k", step=5)[0].flatten()
    expected = torch.tensor(KNOWN[draw is gaussian])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


KNOWN = {True: [-0.6086129, -2.0518329, 0.4571244, -0.3680003], False: [1.1819751, 0.2210038, -1.7289606, -0.7795090]}


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (((0xFFFFFFFF,) * 4), ((0xFFFFFFFF,) * 2), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_the_generator_is_the_published_one(
    counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]
) -> None:
    """By the known answers that Random123 comes with (philox4x32, 10 rounds)."""
    a, b, c, d = (torch.tensor([word]) for word in counter)
    found = philox((a, b, c, d), key[0] | key[1] << 32)
    assert tuple(int(word) for word in found) == expected


def test_the_table_is_symmetric_and_of_half_the_variance() -> None:
    table = quantiles(CPU).double().numpy()
    assert table.shape == (65536,)
    assert (np.diff(table) > 0).all()
    np.testing.assert_array_equal(table, -table[::-1])
    assert table.var() == pytest.approx(0.5, rel=1e-6)
    exact = stats.norm.ppf((np.arange(65536) + 0.5) / 65536)
    np.testing.assert_allclose(table, exact / np.sqrt(2 * exact.var()), rtol=1e-6, atol=1e-9)


def test_values_on_a_device_are_sums_of_two_entries_and_rounded_once() -> None:
    """What makes them equal on every device: nothing but integers, a table and one float32 addition."""
    table = quantiles(CPU).numpy()
    noise = gaussian(5, 7, seed=2, key="a", step=3, sample=4, top=1000, left=2000, device=CPU).numpy()
    rows, columns = np.meshgrid(np.arange(1000, 1005), np.arange(2000, 2007), indexing="ij")
    words = [torch.from_numpy(of) for of in (columns, rows, np.full_like(rows, 3), np.full_like(rows, 4))]
    bits = philox((words[0], words[1], words[2], words[3]), philox_key(2, "a"))
    for channel, word in zip(noise, bits, strict=False):
        low, high = word.numpy() % 65536, word.numpy() // 65536
        np.testing.assert_array_equal(channel, table[low] + table[high])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_draws_the_same_values() -> None:
    here, there = (gaussian(300, 200, seed=2, key="a", device=torch.device(of)).cpu() for of in ("cpu", "cuda"))
    assert torch.equal(here, there)
