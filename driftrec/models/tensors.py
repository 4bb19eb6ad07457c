"""Files of tensors, and what must hold of them before a network takes them. Of other formats only `checkpoint` (ours)
and `lightning` (the authors') read more than tensors by name.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, strided

from driftrec.bounds import shown
from driftrec.errors import InvalidInput
from driftrec.models.pickles import is_pickle, unpickle, unreadable

LARGEST = 1e4  # of a denoiser's weight; the embedded model's largest is 3.4


def read(path: Path) -> dict[str, Tensor]:
    """Tensors by name, from a safetensors file or one of PyTorch's: its first bytes tell which. No code in it runs.

    Raises InvalidInput naming the file where it holds anything else.
    """
    if is_pickle(path):
        return named(path, unpickle(path))
    try:
        return load_file(path)
    except Exception as error:
        raise unreadable(path, error) from error


def named(path: Path, content: Any) -> dict[str, Tensor]:
    """What a pickle held, if it is plain tensors by name. Raises InvalidInput."""
    problem = f"{path}: holds more than named tensors of numbers"
    if not isinstance(content, dict):
        raise InvalidInput(f"{problem}; give the file of the weights alone")
    odd = [_shown(name) for name, value in content.items() if not isinstance(name, str) or not _is_plain(value)]
    if odd:
        raise InvalidInput(f"{problem}, not a tensor: {', '.join(odd[:3])}; give the file of the weights alone")
    return content


def fitting(
    path: Path, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], largest: float = math.inf
) -> dict[str, Tensor]:
    """The tensors in the types of the expected ones.

    Raises InvalidInput, naming the first three, unless names, shapes and kinds of numbers are those expected and every
    number is finite and at most `largest`.
    """
    check_shapes(path, {name: tuple(value.shape) for name, value in tensors.items()}, expected)
    kinds = [n for n, value in tensors.items() if value.is_floating_point() != expected[n].is_floating_point()]
    _refuse(path, {"of another kind of number": kinds})
    tensors = {name: value.to(expected[name].dtype) for name, value in tensors.items()}
    wrong = {
        "not finite": [name for name, value in tensors.items() if not value.isfinite().all()],
        f"larger than {largest:g}": [name for name, value in tensors.items() if (value.abs() > largest).any()],
    }
    _refuse(path, wrong)
    return tensors


def check_shapes(path: Path, shapes: Mapping[str, tuple[int, ...]], expected: Mapping[str, Tensor]) -> None:
    """Raise InvalidInput, naming the first three, unless the names and shapes are those expected."""
    wrong = {
        "missing": [name for name in expected if name not in shapes],
        "not of this network": [name for name in shapes if name not in expected],
        "of another shape": [n for n in expected if n in shapes and shapes[n] != tuple(expected[n].shape)],
    }
    _refuse(path, wrong)


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def derived_sha256(text: str) -> str:
    """Of a model that is more than one file's bytes, from what it is made of."""
    return hashlib.sha256(text.encode()).hexdigest()


def _is_plain(value: object) -> bool:
    """Whether it is a tensor whose numbers lie in memory."""
    if not isinstance(value, Tensor):
        return False
    return value.layout == strided and value.device.type == "cpu" and not value.is_complex() and not value.is_quantized


def _refuse(path: Path, wrong: dict[str, list[str]]) -> None:
    for problem, names in wrong.items():
        if names:
            first = ", ".join(_shown(name) for name in names[:3])
            raise InvalidInput(f"{path}: {len(names)} weights are {problem}: {first}; fetch or train it again")


def _shown(name: object) -> str:
    return name[:100] if isinstance(name, str) and name.isprintable() else shown(name)
