"""The library writes the bytes that the command writes, however an option is spelled."""

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from driftrec import Restorer
from pipeline.restore.settings import RestoreSettings
from pipeline.settings import load
from tests import made
from tests.pipeline.offline import restore

WHOLE: list[Callable[[Any], Any]] = [int, float, np.int64, np.uint8, np.float32, np.array, torch.tensor]
REAL: list[Callable[[Any], Any]] = [float, np.float64, np.float32, Fraction, np.array, torch.tensor]
SWITCH: list[Callable[[Any], Any]] = [bool, np.bool_, int, float, torch.tensor]
OPTIONS: list[tuple[str, Any, list[Callable[[Any], Any]]]] = [
    ("fidelity", 1, [int, bool, *REAL]),
    ("fidelity", 0, [int, bool, *REAL]),
    ("fidelity", 0.5, REAL),
    ("steps", 3, WHOLE),
    ("samples", 2, WHOLE),
    ("seed", 5, WHOLE),
    ("start", 1, [int, *REAL]),
    ("start", 0.25, REAL),
    ("t_eps", 0.125, REAL),
    ("eta", 1, [int, *REAL]),
    ("order", 1, WHOLE),
    ("tile", 128, [int, float, np.int64, np.float32, np.array]),
    ("projection", False, SWITCH),
    ("adaptive", False, SWITCH),
    ("color_correction", True, SWITCH),
    ("sampler", "multistep", [str, np.str_]),
    ("grid", "uniform", [str, np.str_]),
]


@pytest.fixture(scope="module")
def restorer(small_model: Path) -> Iterator[Restorer]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Restorer.from_pretrained(str(small_model), "cpu")
    torch.set_num_threads(before)


@pytest.mark.parametrize(("name", "value", "spellings"), OPTIONS, ids=[f"{name}={value}" for name, value, _ in OPTIONS])
def test_every_spelling_gives_the_bytes_of_the_command(
    name: str, value: Any, spellings: list[Callable[[Any], Any]], restorer: Restorer, small_model: Path, tmp_path: Path
) -> None:
    source = made.folder(tmp_path / "in", 1) / "a/0000.jpg"
    as_flag = value if name == "order" else str(value)
    settings = load(RestoreSettings, flags={"input": "i", "output": "o", name: as_flag})
    restore(tmp_path / "in", tmp_path / "out", **{name: getattr(settings, name), "model": str(small_model)})
    whole = (tmp_path / "out/images/a/0000.png").read_bytes()
    for spell in spellings:
        restorer.restore_file(source, tmp_path / "it.png", "a/0000.jpg", **{name: spell(value)})
        assert (tmp_path / "it.png").read_bytes() == whole, spell


@pytest.mark.parametrize("name", sorted({name for name, value, _ in OPTIONS if not isinstance(value, str)}))
@pytest.mark.parametrize("value", ["1", "x", [1], {}, 1j, float("nan"), float("inf"), np.ones(2), torch.ones(2), 0.3])
def test_what_is_none_is_refused(name: str, value: Any, restorer: Restorer, tmp_path: Path) -> None:
    source = made.folder(tmp_path / "in", 1) / "a/0000.jpg"
    if isinstance(value, float) and value == 0.3 and name in ("fidelity", "start", "t_eps", "eta"):
        return
    with pytest.raises(ValueError, match=name):
        restorer.restore_file(source, tmp_path / "it.png", **{name: value})
    assert not (tmp_path / "it.png").exists()
