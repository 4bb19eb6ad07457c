"""Lists for training, validation and test: a function of the seed and the set of keys."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from driftrec.errors import InvalidInput
from pipeline.evaluate.settings import SplitSettings
from pipeline.split import run_split, split_keys
from tests import made


def split(source: Path, output: Path, **settings: Any) -> dict[str, Any]:
    return run_split(SplitSettings(input=str(source), output=str(output), **settings))


def lists(output: Path) -> dict[str, list[str]]:
    return {name: (output / f"{name}.txt").read_text().splitlines() for name in ("train", "validation", "test")}


@pytest.mark.parametrize(("images", "sizes"), [(100, (80, 5, 15)), (1, (1, 0, 0)), (20, (16, 1, 3)), (37, (31, 1, 5))])
def test_every_key_once_in_the_right_shares(images: int, sizes: tuple[int, int, int]) -> None:
    keys = [f"{i}.png" for i in range(images)]
    found = split_keys(keys, 102405)
    assert tuple(len(found[name]) for name in ("train", "validation", "test")) == sizes
    assert sorted(key for part in found.values() for key in part) == sorted(keys)


def test_order_does_not_matter_and_the_seed_does() -> None:
    keys = [f"{i}.png" for i in range(200)]
    assert split_keys(random.Random(0).sample(keys, 200), 1) == split_keys(keys, 1)
    assert split_keys(keys, 2) != split_keys(keys, 1)


def test_packing_does_not_matter(tmp_path: Path) -> None:
    images = {f"{i}.jpg": made.jpeg(i) for i in range(20)}
    for name, data in images.items():
        (tmp_path / "loose/t").mkdir(parents=True, exist_ok=True)
        (tmp_path / "loose/t" / name).write_bytes(data)
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars/t.tar").write_bytes(made.tar(dict(reversed(images.items()))))
    told = split(tmp_path / "loose", tmp_path / "a")
    assert (told["keys"], told["seed"]) == ({"train": 16, "validation": 1, "test": 3}, 102405)
    assert split(tmp_path / "tars", tmp_path / "b")["sha256"] == told["sha256"]
    assert lists(tmp_path / "a") == lists(tmp_path / "b")
    assert json.loads((tmp_path / "a/split.json").read_text())["sha256"] == told["sha256"]


def test_again_is_fine_and_another_split_is_refused(tmp_path: Path) -> None:
    source = made.folder(tmp_path / "in", 20)
    assert split(source, tmp_path / "out") == split(source, tmp_path / "out")
    with pytest.raises(InvalidInput, match=r"train\.txt is of another split; choose another OUTPUT"):
        split(source, tmp_path / "out", seed=1)
    assert sum(split(source, tmp_path / "few", limit=7)["keys"].values()) == 7


def test_a_cut_tar_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/t.tar").write_bytes(made.tar({f"{i}.jpg": made.jpeg(i) for i in range(6)})[:4000])
    with pytest.raises(InvalidInput, match=r"t\.tar was cut"):
        split(tmp_path / "in", tmp_path / "out")
