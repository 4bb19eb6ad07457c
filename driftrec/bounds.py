"""Values that come from files, held to their kind and range before anything is made of them. Knows no model.

Each function raises ValueError naming the field, the value and what is allowed.
"""

from __future__ import annotations

import json
import math
from typing import Any

MOST_BYTES = 2**33  # of a model file; the largest known, with an optimizer's state, has 1.5 GB
SHOWN = 60  # characters of a wrong value in a message


def integer(name: str, value: object, low: int, high: int) -> None:
    """Neither a boolean nor 3.0 will do."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{name} must be a whole number in {low}..{high}, got {shown(value)}")


def integers(name: str, values: object, low: int, high: int, most: int) -> None:
    """A list of at most `most`."""
    if not isinstance(values, list | tuple) or len(values) > most:  # pyright: ignore[reportUnknownArgumentType]
        raise ValueError(f"{name} must be a list of at most {most} whole numbers, got {shown(values)}")
    for value in values:  # pyright: ignore[reportUnknownVariableType]
        integer(name, value, low, high)  # pyright: ignore[reportUnknownArgumentType]


def number(name: str, value: object, low: float, high: float) -> None:
    """Whole or not, finite."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{name} must be a number in {low:g}..{high:g}, got {shown(value)}")


def boolean(name: str, value: object) -> None:
    """true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, got {shown(value)}")


def choice(name: str, value: object, known: tuple[str, ...]) -> None:
    """One of a few words."""
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {shown(value)}")


def mapping(name: str, value: object) -> dict[str, Any]:
    """The value, if it is a JSON object."""
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be a mapping, got {shown(value)}")
    return value  # pyright: ignore[reportUnknownVariableType]


def shown(value: object) -> str:
    """A value in a message, whatever its length: no whole number is written out that Python would refuse to write."""
    if isinstance(value, int) and abs(value) >= 10**SHOWN:
        return f"a whole number of {value.bit_length()} bits"
    try:
        text = repr(value)
    except (RecursionError, ValueError):
        return f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."


def parse(text: str) -> object:
    """JSON without NaN, Infinity, keys twice and nesting without end."""
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite)
    except RecursionError:
        raise ValueError("its JSON is nested too deep") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("its JSON has a key twice")
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"its JSON has {constant}, which is no number")


def _finite(text: str) -> float:
    if not math.isfinite(float(text)):
        raise ValueError(f"its JSON has the number {text[:SHOWN]}, which is too large")
    return float(text)
