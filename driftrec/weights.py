"""Weights against the network that they are meant for."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from driftrec.errors import InvalidInput


def check_weights(path: Path, tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Raise InvalidInput, naming the first three, unless the names and shapes are those expected and all is finite."""
    wrong = {
        "missing": [name for name in expected if name not in tensors],
        "not of this network": [name for name in tensors if name not in expected],
        "of another shape": [n for n in expected if n in tensors and tensors[n].shape != expected[n].shape],
        "not finite": [name for name, value in tensors.items() if not value.isfinite().all()],
    }
    for problem, names in wrong.items():
        if names:
            raise InvalidInput(
                f"{path}: {len(names)} weights are {problem}: {', '.join(names[:3])}; fetch or train it again"
            )
