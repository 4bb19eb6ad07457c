"""Random numbers that belong to a key: the same wherever, whenever and by whomever they are drawn."""

from __future__ import annotations

import hashlib

import numpy as np


def philox_key(*key: str | int) -> int:
    """128 bits for a counter-based generator (Philox, Salmon et al. 2011)."""
    return int.from_bytes(hashlib.sha256("\0".join(map(str, key)).encode()).digest()[:16], "little")


def generator_for(*key: str | int) -> np.random.Generator:
    """The same key gives the same draws, whatever the process, worker or order."""
    return np.random.Generator(np.random.Philox(key=philox_key(*key)))
