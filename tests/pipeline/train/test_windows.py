"""Training data: equal shares for all workers, the same patches for the same key, positions that lead to a batch."""

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from driftrec.errors import InvalidInput
from driftrec.image import decode
from driftrec.training.patches import PatchConfig, draw_patches
from pipeline.inputs.listing import list_shards
from pipeline.train.windows import (
    Drawing,
    Position,
    Window,
    draw_shard,
    epoch_order,
    gather_windows,
    locate,
    no_patches,
    why_skipped,
)
from tests import made

DRAWING = Drawing(PatchConfig(size=16, per_image=3), seed=5, max_pixels=10**6)


def test_an_epoch_is_a_permutation_of_the_shards_that_seed_and_epoch_decide():
    orders = [tuple(epoch_order(seed, epoch, 17)) for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(order) == list(range(17)) for order in orders)
    assert len(set(orders)) == 4
    epoch_order.cache_clear()
    assert tuple(epoch_order(0, 0, 17)) == orders[0]


@pytest.mark.parametrize(("shards", "world"), [(17, 1), (17, 2), (1, 2), (2, 5)])
def test_together_the_workers_read_each_shard_once_an_epoch_and_have_equal_shares(shards: int, world: int):
    items = 4 * shards  # of each worker: together 4 * world epochs
    read = Counter(locate(item, rank, world, 0, shards) for rank in range(world) for item in range(items))
    assert read == Counter({(epoch, shard): 1 for epoch in range(4 * world) for shard in range(shards)})


def test_patches_depend_on_seed_epoch_and_key_and_on_nothing_else(tmp_path: Path):
    made.folder(tmp_path, 6)

    def drawn(epoch: int, seed: int = 5, **listing: int) -> dict[str, tuple[bytes, bytes]]:
        drawing = Drawing(DRAWING.patches, seed, DRAWING.max_pixels)
        tables = [draw_shard(shard, epoch, 0, drawing) for shard in list_shards(str(tmp_path), **listing)]
        rows = [row for table in tables for row in table.to_pylist()]
        return {row["key"]: (row["clean"], row["damaged"]) for row in rows}

    first = drawn(0)
    assert len(first) == 6
    assert drawn(0, target_bytes=1) == first == drawn(0, max_images=100)
    for other in (drawn(1), drawn(0, seed=6)):
        assert all(other[key][0] != first[key][0] for key in first)

    key, (clean, damaged) = next(iter(first.items()))
    expected = draw_patches(decode((tmp_path / key).read_bytes()).rgb, DRAWING.patches, 5, 0, key)
    assert clean == expected[0].tobytes()
    assert damaged == expected[1].tobytes()


def test_an_image_that_gives_no_patches_is_named_with_its_reason_and_its_neighbours_are_unchanged(tmp_path: Path):
    made.folder(tmp_path, 3)
    (tmp_path / "a/page.jpg").write_bytes(b"<!DOCTYPE html><html></html>")
    (tmp_path / "a/small.jpg").write_bytes(made.jpeg(0, 15, 40))
    (tmp_path / "a/cut.jpg").write_bytes(made.jpeg(0)[:300])
    tables = [draw_shard(shard, 0, 0, DRAWING) for shard in list_shards(str(tmp_path))]
    skipped = {key: why for table in tables for key, why in why_skipped(table).items()}
    assert {key: why.partition(":")[0] for key, why in skipped.items()} == {
        "a/page.jpg": "not_an_image",
        "a/small.jpg": "too_small",
        "a/cut.jpg": "truncated",
    }
    assert skipped["a/small.jpg"] == "too_small: smaller than a patch of 16x16"
    assert sum(len(table) - table["clean"].null_count for table in tables) == 3


def test_a_shard_without_an_image_is_a_row_too(tmp_path: Path):
    (tmp_path / "none.tar").write_bytes(made.tar({"readme.txt": b"hello"}))
    (shard,) = list_shards(str(tmp_path))
    assert why_skipped(draw_shard(shard, 0, 7, DRAWING)) == {"none.tar": "empty: no image in it"}


def window(images: int, per_image: int = 3, first: int = 0) -> Window:
    """Patch k of image i is filled with (i, k, 0)."""
    arrays = [np.stack([np.full((16, 16, 3), (i, k, 0), np.uint8) for k in range(per_image)]) for i in range(images)]
    return Window(first, first + 1, arrays, arrays, {})


def test_a_window_gives_each_patch_once_in_whole_batches_without_two_of_one_image():
    batches = window(20).batches(6, seed=0)
    assert [len(batch) for batch in batches] == [6] * 10
    assert len({tuple(pair) for batch in batches for pair in batch}) == 60
    rounds = np.concatenate(batches).reshape(3, 20, 2)
    for number, of_round in enumerate(rounds):  # one patch of every image before the second of any
        assert sorted(of_round[:, 0]) == list(range(20))
        assert set(of_round[:, 1]) == {number}
    within = [batch for batch in batches if len(set(batch[:, 1])) == 1]
    assert len(within) == 8
    assert all(len(set(batch[:, 0])) == 6 for batch in within)


def test_windows_are_shuffled_differently_but_always_in_the_same_way():
    keys = ((0, 0), (1, 0), (0, 1))  # first item, seed
    orders = [np.concatenate(window(20, first=first).batches(4, seed)).tolist() for first, seed in keys]
    assert orders[0] != orders[1]
    assert orders[0] != orders[2]
    assert np.concatenate(window(20).batches(4, 0)).tolist() == orders[0]


def test_a_batch_has_the_patches_that_its_indices_name():
    clean, damaged = window(5).take(np.array([[4, 2], [0, 1]]))
    assert clean.shape == damaged.shape == (2, 3, 16, 16)
    assert clean[:, :, 3, 5].tolist() == [[4, 2, 0], [0, 1, 0]]


def test_a_window_smaller_than_a_batch_gives_none():
    assert window(1).batches(8, 0) == []
    assert Window(0, 1, [], [], {}).batches(8, 0) == []


def test_windows_close_at_items_and_can_be_entered_at_each_of_them(tmp_path: Path):
    made.folder(tmp_path, 7)
    shards = list_shards(str(tmp_path))

    def gather(start: int) -> list[tuple[int, int, bytes]]:
        tables = (
            draw_shard(shards[shard], epoch, item, DRAWING)
            for item in itertools.count(start)
            for epoch, shard in [locate(item, 0, 1, 5, len(shards))]
        )
        found = itertools.islice(gather_windows(tables, 7, DRAWING, len(shards)), 4)
        return [(w.first, w.following, w.take(np.concatenate(w.batches(3, 5)))[1].numpy().tobytes()) for w in found]

    windows = gather(0)
    assert [(first, following) for first, following, _ in windows] == [(0, 3), (3, 6), (6, 9), (9, 12)]
    assert gather(6)[:2] == windows[2:]


def test_data_that_gives_no_patches_ends_the_search_with_the_reason(tmp_path: Path):
    made.folder(tmp_path, 4)
    drawing = Drawing(PatchConfig(size=128), 0, 10**6)
    shards = list_shards(str(tmp_path))
    tables = (draw_shard(shards[item % 4], 0, item, drawing) for item in itertools.count())
    with pytest.raises(InvalidInput, match=r"4 were looked at.*smaller than a patch of 128x128.*patches.size"):
        next(gather_windows(tables, 10, drawing, len(shards)))


def test_the_error_names_the_commonest_reason_and_an_image_of_it():
    error = no_patches({"a": "empty: x", "b": "corrupt: y", "c": "corrupt: y"})
    assert "of 2 the reason is corrupt: y (the first is b)" in str(error)


def test_a_position_starts_at_the_beginning():
    assert Position() == Position(item=0, batch=0)
