"""Set metrics: sums and samples that merge in any grouping, and the values of piq and SciPy."""

from itertools import pairwise

import numpy as np
import piq
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from driftrec.metrics import Moments, Reservoir, fid, kid, precision, recall

torch.set_num_threads(1)


def features(images: int, size: int, seed: int) -> torch.Tensor:
    """(images, size) correlated features of a mean that is not 0, float64."""
    draw = torch.Generator().manual_seed(seed)
    mixed = torch.eye(size) + 0.3 * torch.randn(size, size, generator=draw) / size**0.5
    rows = torch.randn(images, size, generator=draw) @ mixed + torch.rand(size, generator=draw)
    return rows.double()


def merged(parts: list, order: np.random.Generator):
    """The sum of parts, two random ones at a time."""
    parts = list(parts)
    while len(parts) > 1:
        a, b = (parts.pop(order.integers(len(parts))) for _ in range(2))
        parts.append(a + b)
    return parts[0]


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@given(cuts=st.lists(st.integers(0, 150), max_size=12), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_moments_merged_in_any_grouping_are_those_of_the_whole(cuts: list[int], seed: int) -> None:
    rows = features(150, 40, seed)
    bounds = [0, *sorted(cuts), 150]
    parts = [Moments.of(rows[start:stop]) for start, stop in pairwise(bounds)]
    found = merged([Moments.from_bytes(part.to_bytes()) for part in parts], np.random.default_rng(seed))
    assert found.n == 150
    exact = rows.numpy()
    for ours, theirs in (
        (found.sum, exact.sum(0)),
        (found.outer, exact.T @ exact),
        (found.mean, exact.mean(0)),
        (found.covariance, np.cov(exact.T)),
        (found.root() @ found.root().T, np.cov(exact.T)),
    ):
        assert relative(ours, theirs) < 1e-12


@pytest.mark.parametrize("images", [0, 1, 10, 39, 40, 90])
def test_moments_travel_as_bytes(images: int) -> None:
    moments = Moments.of(features(images, 40, 0).float())
    data = moments.to_bytes()
    again = Moments.from_bytes(data)
    assert again.to_bytes() == data
    assert again.n == images
    assert np.array_equal(again.sum, moments.sum)
    assert np.array_equal(again.outer, moments.outer)
    assert len(data) < 4 * 40 * min(images, 40) + 4 * 40**2 * (images >= 40) + 2000
    with pytest.raises(ValueError, match="hold no"):
        Moments.from_bytes(data[: len(data) // 2])


@pytest.mark.parametrize("size", [8, 16, 32, 64])
def test_fid_is_piqs_and_scipys(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = features(40 * size, size, 1), features(30 * size, size, 2)
    ours = fid(Moments.of(a), Moments.of(b))
    covariances = [np.cov(rows.T.numpy()) for rows in (a, b)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    exact = float((a.mean(0) - b.mean(0)).square().sum()) + np.trace(sum(covariances) - 2 * root)
    assert ours == pytest.approx(exact, rel=1e-10)
    assert ours == pytest.approx(piq.FID()(a, b).item(), rel=1e-4)
    error = piq.fid._approximation_error  # at 1e-5 piq ends its square root, which alone moves its FID by 1e-5
    monkeypatch.setattr(piq.fid, "_approximation_error", lambda *args: 1e6 * error(*args))
    assert ours == pytest.approx(piq.FID()(a, b).item(), rel=1e-6)


def test_fid_of_few_images_is_biased_and_says_so() -> None:
    many = Moments.of(features(2000, 50, 3))
    assert not many.biased
    few = [Moments.of(features(2000, 50, 3)[start : start + 20]) for start in (0, 20)]
    assert all(moments.biased for moments in few)
    assert fid(few[0], few[0]) == pytest.approx(0, abs=1e-9)
    assert fid(many, few[0]) > 10 * fid(many, Moments.of(features(2000, 50, 3)[1000:]))
    assert fid(*few) == pytest.approx(fid(few[1], few[0]), rel=1e-9)
    summed = [Moments(m.rows[:0], m.n, m.sum, m.outer) for m in few]  # as if it were more images than features
    assert fid(*summed) == pytest.approx(fid(*few), rel=1e-6)
    with pytest.raises(ValueError, match="at least 2"):
        fid(many, Moments.of(features(1, 50, 0)))


def test_kid_is_piqs() -> None:
    a, b = features(300, 24, 4), features(300, 24, 5)
    assert kid(a, b, subset_size=300) == pytest.approx(piq.KID()(a, b).item(), rel=1e-6)
    torch.manual_seed(7)
    theirs = piq.KID(average=True, n_subsets=10, subset_size=50)(a, b[:200]).item()
    assert kid(a, b[:200], subsets=10, subset_size=50, seed=7) == pytest.approx(theirs, rel=1e-6)
    assert kid(a, b, subset_size=50, seed=7) != kid(a, b, subset_size=50, seed=8)


def test_kid_of_like_sets_is_near_zero() -> None:
    rows = features(1200, 24, 6)
    alike = [kid(rows[i : i + 200], rows[i + 200 : i + 400]) for i in range(0, 1200, 400)]
    assert max(map(abs, alike)) < 0.1 * kid(rows[:200], rows[200:400] + 0.5)


@given(cuts=st.lists(st.integers(0, 100), max_size=8), seed=st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_a_reservoir_is_the_same_in_any_grouping_and_order(cuts: list[int], seed: int) -> None:
    rows, keys = features(100, 5, 0).float(), [f"a/{i}.png" for i in range(100)]
    whole = Reservoir.of(keys, rows, size=30, seed=seed)
    assert whole.features.shape == (30, 5)
    bounds = [0, *sorted(cuts), 100]
    spans = [slice(start, stop) for start, stop in pairwise(bounds)]
    parts = [Reservoir.of(keys[span], rows[span], size=30, seed=seed) for span in spans]
    parts += parts[:1]  # a part that comes twice changes nothing
    found = merged([Reservoir.from_bytes(part.to_bytes()) for part in parts], np.random.default_rng(seed))
    assert found.to_bytes() == whole.to_bytes()


def test_a_reservoir_is_a_fair_sample_that_the_seed_decides() -> None:
    keys = [str(i) for i in range(50)]
    rows = np.arange(50, dtype=np.float32)[:, None]
    samples = [Reservoir.of(keys, rows, size=10, seed=seed).features.ravel() for seed in range(400)]
    chosen = np.bincount(np.concatenate(samples).astype(int), minlength=50)  # 80 each, standard deviation 8
    assert 40 < chosen.min() <= chosen.max() < 120
    small = Reservoir.of(keys, rows, size=60)
    assert sorted(small.features.ravel()) == list(range(50))


@pytest.mark.parametrize("sizes", [(60, 60), (200, 90), (6, 40)])
@pytest.mark.parametrize("apart", [0.0, 0.3, 1.0, 3.0])
def test_precision_and_recall_are_piqs(sizes: tuple[int, int], apart: float) -> None:
    a, b = (features(size, 24, seed) for seed, size in enumerate(sizes))
    b = b * (1 - apart / 4) + apart
    theirs = [share.item() for share in piq.PR()(a, b)]
    assert [precision(a, b), recall(a, b)] == pytest.approx(theirs, abs=1e-6)
    assert recall(a, b) == precision(b, a)
    order = torch.randperm(len(b), generator=torch.Generator().manual_seed(0))
    assert precision(a, b) == precision(a, b[order])


def test_one_set_lies_within_itself_and_none_within_a_far_one() -> None:
    rows = features(80, 24, 3)
    assert precision(rows, rows) == recall(rows, rows) == 1
    assert precision(rows, rows + 100) == recall(rows, rows + 100) == 0
    assert precision(rows, rows[:40] + 1e-9) == 1  # each of a few is realistic
    narrow = rows[:1] + 1e-3 * features(80, 24, 4)
    assert recall(rows, narrow) < 0.1  # but they do not cover the others
    with pytest.raises(ValueError, match="need 6 images of each set, got 80 and 5"):
        recall(rows, rows[:5])


def test_refuses_what_are_no_features() -> None:
    with pytest.raises(ValueError, match=r"\(N, D\)"):
        Moments.of(torch.rand(3))
    with pytest.raises(ValueError, match="not finite"):
        Moments.of(torch.full((2, 3), torch.nan))
    with pytest.raises(ValueError, match="at least 2"):
        kid(torch.rand(1, 3), torch.rand(5, 3))
    keys, rows = ["a", "b"], torch.rand(2, 3)
    with pytest.raises(ValueError, match="do not merge"):
        Reservoir.of(keys, rows, size=3) + Reservoir.of(keys, rows, size=4)
