"""Kernel inception distance (KID, Bińkowski et al. 2018), from a fixed number of features a set."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from driftrec.metrics.arrays import feature_rows, pack, unpack

Array = NDArray[Any]


def kid(
    features_a: Tensor | Array,
    features_b: Tensor | Array,
    subsets: int = 50,
    subset_size: int = 1000,
    degree: int = 3,
    seed: int = 0,
) -> float:
    """Mean over random subsets of the unbiased squared MMD, kernel (<x, y> / D + 1)^degree; piq's conventions.

    Args:
        features_a: (N, D).
        features_b: (M, D).
        subsets: how many pairs of subsets.
        subset_size: images of each; no more than there are of either set.
        degree: of the polynomial kernel.
        seed: the subsets are those that piq draws after `torch.manual_seed(seed)`.

    Unbiased, so near 0 and at times below it for sets that are alike. Raises ValueError for sets of less than two.
    """
    a, b = (torch.from_numpy(feature_rows(features)).double() for features in (features_a, features_b))
    size = min(subset_size, len(a), len(b))
    if size < 2:
        raise ValueError(f"KID needs at least 2 images of each set, got {len(a)} and {len(b)}")
    if size == len(a) == len(b):
        subsets = 1  # each would be the whole
    draw = torch.Generator().manual_seed(seed)
    distances: list[Tensor] = []
    for _ in range(subsets):
        x, y = (rows[torch.randperm(len(rows), generator=draw)[:size]] for rows in (a, b))
        distances.append(_squared_mmd(x, y, degree))
    return float(torch.stack(distances).mean())


def _squared_mmd(x: Tensor, y: Tensor, degree: int) -> Tensor:
    """Unbiased estimate: means over the pairs of different images within, and over all pairs across. Both (m, D)."""
    within_x, within_y, across = ((p @ q.T / x.shape[1] + 1) ** degree for p, q in ((x, x), (y, y), (x, y)))
    within = within_x.sum() - within_x.trace() + within_y.sum() - within_y.trace()
    return within / (len(x) * (len(x) - 1)) - 2 * across.mean()


@dataclass(frozen=True, eq=False)
class Reservoir:
    """A sample of at most `size` images' features: those whose keys have the lowest hashes.

    Which images these are depends on the keys and the seed alone, so `a + b` gives the same sample in any grouping
    and order, and the sample of two sets with the same keys is of the same images.
    """

    size: int
    hashes: NDArray[np.uint64]  # (n,), ascending, n <= size
    features: Array  # (n, D)

    @classmethod
    def of(cls, keys: Sequence[str], features: Tensor | Array, size: int, seed: int = 0) -> Reservoir:
        """Keys of (N, D) features -> the sample of them."""
        hashes = np.array([_hash(key, seed) for key in keys], dtype=np.uint64)
        return cls(size, hashes, feature_rows(features))._lowest()

    def __add__(self, other: Reservoir) -> Reservoir:
        if self.size != other.size:
            raise ValueError(f"reservoirs of {self.size} and of {other.size} images do not merge")
        hashes = np.concatenate([self.hashes, other.hashes])
        return Reservoir(self.size, hashes, np.concatenate([self.features, other.features]))._lowest()

    def _lowest(self) -> Reservoir:
        hashes, first = np.unique(self.hashes, return_index=True)  # ascending; an image that comes twice stays one
        return Reservoir(self.size, hashes[: self.size], self.features[first[: self.size]])

    def to_bytes(self) -> bytes:
        """The same bytes for the same sample."""
        return pack(size=np.array(self.size), hashes=self.hashes, features=self.features)

    @classmethod
    def from_bytes(cls, data: bytes) -> Reservoir:
        """What `to_bytes` wrote. Raises ValueError on anything else."""
        size, hashes, features = unpack(data, "size", "hashes", "features")
        return cls(int(size), hashes, features)


def _hash(key: str, seed: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}\0{key}".encode(), digest_size=8).digest(), "little")
