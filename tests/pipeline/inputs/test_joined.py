"""Shards that grow with the archive: every name once and in order, bounded in number and size; small inputs as ever."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.inputs import loose
from pipeline.inputs.loose import LooseFiles, grouped
from pipeline.storage.local import LocalStore
from pipeline.storage.packed import PackedNames
from tests import made
from tests.pipeline.offline import restore

STORE = LocalStore("/nowhere")
SIZES = st.lists(st.integers(0, 300), max_size=200)


def shards(sizes: list[int], most_shards: int | None, max_images: int = 5) -> list[LooseFiles]:
    names = PackedNames()
    for number, size in enumerate(sizes):
        names.add(f"{number:05}.jpg", size)
    return list(grouped(STORE, names, 400, max_images, 1, most_shards))


def limited(bytes_: int, images: int) -> pytest.MonkeyPatch:
    patch = pytest.MonkeyPatch()
    patch.setattr(loose, "JOINED_BYTES", bytes_)
    patch.setattr(loose, "JOINED_IMAGES", images)
    return patch


@given(SIZES, st.integers(1, 30), st.integers(400, 5000), st.integers(5, 60))
def test_neighbours_are_joined_whole_in_order_and_within_the_limits(
    sizes: list[int], most: int, bytes_: int, images: int
) -> None:
    patch = limited(bytes_, images)
    try:
        fine, joined = shards(sizes, None), shards(sizes, most)
        assert [shard.id for shard in joined] == [shard.id for shard in shards(sizes, most)]
    finally:
        patch.undo()
    assert [file for shard in joined for file in shard.files()] == [file for shard in fine for file in shard.files()]
    assert [name for shard in joined for name in shard.all_keys()] == [f"{at:05}.jpg" for at in range(len(sizes))]
    ends = {shard.all_keys()[-1] for shard in fine}
    whole = {shard.id for shard in fine}
    for shard in joined:
        assert shard.all_keys()[-1] in ends  # none of the finer shards is cut
        assert shard.id in whole or (shard.size <= bytes_ and (shard.images or 0) <= images)


@given(SIZES, st.integers(1, 30))
def test_their_number_is_bounded_and_below_the_bound_nothing_changes(sizes: list[int], most: int) -> None:
    fine, joined = shards(sizes, None), shards(sizes, most)
    assert len(joined) <= most
    if len(fine) <= most:
        assert [shard.id for shard in joined] == [shard.id for shard in fine]
    else:
        assert len(joined) > most / 2 - 1  # not coarser than need be


def test_a_run_keeps_the_shards_that_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, begun = made.folder(tmp_path / "in", 40), tmp_path / "out/run.json"
    restore(source, tmp_path / "out")
    older = json.loads(begun.read_bytes())
    del older["input"]["most_shards"], older["seal"]  # it knew of no bound
    begun.write_text(json.dumps(older))
    (tmp_path / "out/_RESULT.json").unlink()
    monkeypatch.setattr("pipeline.runs.documents.MOST_SHARDS", 3)
    again = restore(source, tmp_path / "out")
    assert again["shards"]["listed"] == again["shards"]["resumed"] == 14
    new = restore(source, tmp_path / "new")
    assert new["shards"]["listed"] == 3
    monkeypatch.setattr("pipeline.runs.documents.MOST_SHARDS", 7)  # as a later version may have it
    assert restore(source, tmp_path / "new") == new
