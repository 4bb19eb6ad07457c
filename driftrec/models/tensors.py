"""Weights against the network that they are meant for."""

from __future__ import annotations

import math
from pathlib import Path

from torch import Tensor

from driftrec.bounds import shown
from driftrec.errors import InvalidInput

LARGEST = 1e4  # of a denoiser's weight; the embedded model's largest is 3.4


def check_weights(
    path: Path, tensors: dict[str, Tensor], expected: dict[str, Tensor], largest: float = math.inf
) -> None:
    """Raise InvalidInput, naming the first three, unless the names and shapes are those expected and every number is
    finite and at most `largest`.
    """
    check_shapes(path, {name: tuple(value.shape) for name, value in tensors.items()}, expected)
    wrong = {
        "not finite": [name for name, value in tensors.items() if not value.isfinite().all()],
        f"larger than {largest:g}": [name for name, value in tensors.items() if (value.abs() > largest).any()],
    }
    _refuse(path, wrong)


def check_shapes(path: Path, shapes: dict[str, tuple[int, ...]], expected: dict[str, Tensor]) -> None:
    """Raise InvalidInput, naming the first three, unless the names and shapes are those expected."""
    wrong = {
        "missing": [name for name in expected if name not in shapes],
        "not of this network": [name for name in shapes if name not in expected],
        "of another shape": [n for n in expected if n in shapes and shapes[n] != tuple(expected[n].shape)],
    }
    _refuse(path, wrong)


def _refuse(path: Path, wrong: dict[str, list[str]]) -> None:
    for problem, names in wrong.items():
        if names:
            first = ", ".join(name[:100] if name.isprintable() else shown(name) for name in names[:3])
            raise InvalidInput(f"{path}: {len(names)} weights are {problem}: {first}; fetch or train it again")
