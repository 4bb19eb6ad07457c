"""Metrics of pyiqa: how they are called, what is said where they cannot be. The package is stood in for."""

import sys
from types import ModuleType

import pytest
import torch

from driftrec.errors import InvalidInput
from driftrec.metrics import higher_is_better, is_foreign, label_of, load_pyiqa

MODES = {"musiq": "NR", "lpips": "FR", "fid": "set", "broken": "NR"}


class Metric:
    """What pyiqa's create_metric gives, as far as it is used."""

    def __init__(self, name: str) -> None:
        self.metric_mode, self.lower_better = MODES[name], name == "lpips"
        self.seen: list[int] = []

    def to(self, _: torch.device) -> "Metric":
        return self

    def __call__(self, target: torch.Tensor, reference: torch.Tensor | None = None) -> torch.Tensor:
        assert target.dtype == torch.float32
        self.seen.append(len(target))
        return (target - (0 if reference is None else reference)).mean(dim=(1, 2, 3)).reshape(-1, 1)


@pytest.fixture(autouse=True)
def pyiqa(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A module of that name; gives what was made with it."""
    made: list[str] = []

    def create_metric(name: str, device: torch.device) -> Metric:
        if name == "broken":
            raise OSError("no such host")
        made.append(name)
        return Metric(name)

    module = ModuleType("pyiqa")
    module.list_models, module.create_metric = lambda: list(MODES), create_metric
    monkeypatch.setitem(sys.modules, "pyiqa", module)
    monkeypatch.setattr("driftrec.metrics.pyiqa.find_spec", lambda _: object())
    load_pyiqa.cache_clear()
    return made


@pytest.mark.parametrize("name", ["pyiqa:musiq", "pyiqa:lpips"])
@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_images_go_one_by_one_with_a_reference_where_one_is_asked_for(name: str, size: int) -> None:
    metric = load_pyiqa(name)
    a, b = (torch.rand(6, 3, 20, 24, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    found = torch.cat([metric(a[i : i + size], b[i : i + size]) for i in range(0, 6, size)])
    assert found.shape == (6,)
    assert found.dtype == torch.float64
    expected = (b - (a if name == "pyiqa:lpips" else 0)).mean(dim=(1, 2, 3)).double()
    assert torch.allclose(found, expected, atol=1e-6)
    assert set(metric._metric.seen) == {1}


def test_direction_and_name_are_the_packages(pyiqa: list[str]) -> None:
    assert higher_is_better("pyiqa:musiq")
    assert not higher_is_better("pyiqa:lpips")
    assert label_of("pyiqa:musiq") == "musiq (pyiqa)"
    assert is_foreign("pyiqa:musiq") and not is_foreign("lpips")
    load_pyiqa("pyiqa:musiq")
    assert pyiqa == ["musiq", "lpips"]  # each made once


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("pyiqa:musik", "--metrics pyiqa:musik: pyiqa has no 'musik'; it has musiq"),
        ("pyiqa:", "pyiqa has no ''; it has musiq, lpips, fid"),
        ("pyiqa:fid", "pyiqa's fid scores no images one by one"),
        ("pyiqa:broken", "pyiqa cannot make it: no such host"),
    ],
)
def test_what_cannot_be_had_is_refused(name: str, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        load_pyiqa(name)


def test_without_the_package_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("driftrec.metrics.pyiqa.find_spec", lambda _: None)
    with pytest.raises(InvalidInput, match="pyiqa:musiq needs the package pyiqa, which is not installed: pip install"):
        load_pyiqa("pyiqa:musiq")
