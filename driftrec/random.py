"""Random numbers that belong to a key: the same wherever, whenever and by whomever they are drawn."""

from __future__ import annotations

import hashlib

import numpy as np


def generator_for(*key: str | int) -> np.random.Generator:
    """The same key gives the same draws, whatever the process, worker or order."""
    digest = hashlib.sha256("\0".join(map(str, key)).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
