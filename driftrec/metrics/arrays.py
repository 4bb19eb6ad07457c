"""What the set metrics share: features as arrays, and arrays as bytes without pickle."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]


def feature_rows(features: Tensor | Array) -> Array:
    """(N, D) features as an array of float32 or float64. Raises ValueError on another shape or what is not finite."""
    rows = features.detach().cpu().numpy() if isinstance(features, Tensor) else features
    if rows.ndim != 2:
        raise ValueError(f"set metrics take (N, D) features, got {rows.shape}")
    if not np.isfinite(rows).all():
        raise ValueError("a feature is not finite: are the images in [0, 1], and the weights sound?")
    return rows.astype(np.result_type(rows, np.float32), copy=False)


def pack(**arrays: Array) -> bytes:
    """Arrays by name as the bytes of a .npz file; the same arrays give the same bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def unpack(data: bytes, *names: str) -> tuple[Array, ...]:
    """The arrays that `pack` wrote, in the order of these names. Raises ValueError on any other bytes."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return tuple(arrays[name] for name in names)
    except (zipfile.BadZipFile, KeyError, EOFError, OSError) as error:
        raise ValueError(f"{len(data)} bytes that hold no {', '.join(names)}") from error
