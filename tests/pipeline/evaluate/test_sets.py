"""Set metrics over shards: what parts of a ledger leave comes to the same as all images together."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from driftrec.errors import DriftRecError
from driftrec.metrics import Moments, Reservoir, fid, kid, precision, recall
from pipeline.evaluate.conditions import Condition
from pipeline.evaluate.metrics import Plan
from pipeline.evaluate.set_features import REFERENCE, SetStates, crop_group, set_scores
from pipeline.storage.local import LocalStore

SETS = ("fid_mobilenet", "kid_mobilenet", "precision_mobilenet", "recall_mobilenet")
PLAN = Plan(("psnr", *SETS), {}, kid_images=40, kid_subsets=5, kid_subset_size=20)
ONE, TWO = Condition(10, "4:2:0"), Condition(30, "4:2:0", 10, 4)
SHARDS = [f"{number:016x}" for number in range(4)]


@pytest.fixture
def features() -> np.ndarray:
    """(sets, images, D): references of two crops, and two candidates under two conditions."""
    return np.random.default_rng(0).normal(0, 1, (6, 100, 8)).astype(np.float32) + np.arange(6)[:, None, None] / 4


def write(store: LocalStore, features: np.ndarray, cuts: list[int], plan: Plan = PLAN) -> None:
    places = [(crop_group(0), REFERENCE), (crop_group(4), REFERENCE)]
    places += [(one.slug, name) for one in (ONE, TWO) for name in ("jpeg", "ours")]
    for shard, (first, last) in zip(SHARDS, zip([0, *cuts], [*cuts, 100], strict=True), strict=True):
        states = SetStates(plan)
        for image in range(first, last):
            states.add(f"{image}.png", {place: {"mobilenet": features[i, image]} for i, place in enumerate(places)})
        states.commit(store, shard)


@pytest.mark.parametrize("metric", SETS)
def test_each_set_metric_alone_needs_only_its_own_state(tmp_path: Path, features: np.ndarray, metric: str) -> None:
    store, alone = LocalStore(str(tmp_path)), Plan((metric,), {}, kid_images=40, kid_subsets=5, kid_subset_size=20)
    write(store, features, [30, 60, 90], alone)
    table = pq.read_table(tmp_path / "sets" / f"{SHARDS[0]}.parquet")
    is_fid = metric.startswith("fid")
    assert (table["moments"].null_count == 0) == is_fid
    assert (table["reservoir"].null_count == 0) == (not is_fid)
    for _, scores in set_scores(store, SHARDS, [ONE, TWO], alone):
        assert all(scores[name].keys() == {metric} for name in ("jpeg", "ours"))


@pytest.mark.parametrize("cuts", [[30, 60, 90], [1, 2, 97], [0, 0, 50]])
def test_shards_make_the_whole(tmp_path: Path, features: np.ndarray, cuts: list[int]) -> None:
    store = LocalStore(str(tmp_path))
    write(store, features, cuts)
    keys = [f"{image}.png" for image in range(100)]
    sample = [Reservoir.of(keys, one, 40).features for one in features]
    moments = [Moments.of(one) for one in features]
    found = {condition.slug: scores for condition, scores in set_scores(store, SHARDS, [ONE, TWO], PLAN)}
    for number, (slug, name, references) in enumerate(
        [(ONE.slug, "jpeg", 0), (ONE.slug, "ours", 0), (TWO.slug, "jpeg", 1), (TWO.slug, "ours", 1)], start=2
    ):
        told = found[slug][name]
        assert told["fid_mobilenet"]["value"] == pytest.approx(fid(moments[references], moments[number]), rel=1e-9)
        assert told["kid_mobilenet"]["value"] == kid(sample[references], sample[number], 5, 20)
        assert told["precision_mobilenet"]["value"] == precision(sample[references], sample[number])
        assert told["recall_mobilenet"]["value"] == recall(sample[references], sample[number])
        assert (told["fid_mobilenet"]["images"], told["kid_mobilenet"]["images"]) == (100, 40)
        assert told["fid_mobilenet"]["biased"] is False


def test_the_first_file_of_a_shard_stays(tmp_path: Path, features: np.ndarray) -> None:
    store = LocalStore(str(tmp_path))
    write(store, features, [30, 60, 90])
    before = {path: path.read_bytes() for path in (tmp_path / "sets").iterdir()}
    write(store, features + 1, [30, 60, 90])
    assert {path: path.read_bytes() for path in (tmp_path / "sets").iterdir()} == before


def test_small_sets_have_no_value_or_are_biased(tmp_path: Path, features: np.ndarray) -> None:
    store = LocalStore(str(tmp_path))
    states = SetStates(PLAN)
    for image in range(3):
        found = {(crop_group(0), REFERENCE): {"mobilenet": features[0, image]}}
        found |= {(ONE.slug, "jpeg"): {"mobilenet": features[2, image]}} if image == 0 else {}
        found |= {(ONE.slug, "ours"): {"mobilenet": features[3, image]}}
        states.add(f"{image}.png", found)
    states.commit(store, SHARDS[0])
    ((_, scores),) = set_scores(store, SHARDS[:1], [ONE], PLAN)
    assert [scores["jpeg"][metric]["value"] for metric in PLAN.sets] == [None] * 4
    assert [scores["ours"][f"{name}_mobilenet"]["value"] for name in ("precision", "recall")] == [None, None]
    assert scores["ours"]["fid_mobilenet"]["value"] is not None
    assert scores["ours"]["fid_mobilenet"]["biased"] is True


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def without_statistics(path: Path) -> None:
    pq.write_table(pq.read_table(path), path, write_statistics=False)


@pytest.mark.parametrize("harm", [cut_short, without_statistics])
def test_a_broken_file_is_named(tmp_path: Path, features: np.ndarray, harm: Callable[[Path], None]) -> None:
    store = LocalStore(str(tmp_path))
    write(store, features, [30, 60, 90])
    harm(tmp_path / "sets" / f"{SHARDS[1]}.parquet")
    with pytest.raises(DriftRecError, match=rf"sets/{SHARDS[1]}\.parquet cannot be read"):
        list(set_scores(store, SHARDS, [ONE], PLAN))
