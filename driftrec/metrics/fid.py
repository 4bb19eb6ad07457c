"""Fréchet inception distance (FID, Heusel et al. 2017) from mergeable sums of features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from driftrec.metrics.arrays import feature_rows, pack, unpack

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, sum and outer sum of the features of a set, in float64; `a + b` are the moments of both sets together.

    Fewer features than their size D wait in `rows` and are summed when they are D: so the moments of a few images
    take no more room than their features, and those of many no more than D².
    """

    rows: Array  # (fewer than D, D): what is not summed yet
    count: int  # of what is summed
    total: Array  # (D,) float64, its sum
    products: Array | None  # (D, D) float64, its outer sum; None where nothing is summed

    @classmethod
    def of(cls, features: Tensor | Array) -> Moments:
        """(N, D) -> their moments; N may be 0."""
        rows = feature_rows(features)
        return cls(rows, 0, np.zeros(rows.shape[1]), None)._settled()

    def __add__(self, other: Moments) -> Moments:
        rows = np.concatenate([self.rows, other.rows])
        if self.products is None or other.products is None:
            products = self.products if other.products is None else other.products
        else:
            products = self.products + other.products
        return Moments(rows, self.count + other.count, self.total + other.total, products)._settled()

    def _settled(self) -> Moments:
        if len(self.rows) < self.size:
            return self
        return Moments(self.rows[:0], self.n, self.sum, self.outer)

    @property
    def n(self) -> int:
        """Number of images."""
        return self.count + len(self.rows)

    @property
    def size(self) -> int:
        """D, the number of features of an image."""
        return len(self.total)

    @property
    def biased(self) -> bool:
        """Whether the images are too few for a covariance of full rank: FID is then far too high."""
        return self.n <= self.size

    @property
    def sum(self) -> Array:
        """(D,) float64."""
        return self.total + self.rows.sum(axis=0, dtype=np.float64)

    @property
    def outer(self) -> Array:
        """(D, D) float64: the sum of every image's outer product of its features with themselves."""
        rows = self.rows.astype(np.float64)
        return rows.T @ rows if self.products is None else rows.T @ rows + self.products

    @property
    def mean(self) -> Array:
        """(D,) float64."""
        return self.sum / self.n

    @property
    def covariance(self) -> Array:
        """(D, D) float64, unbiased: divided by n - 1."""
        return (self.outer - self.n * np.outer(self.mean, self.mean)) / (self.n - 1)

    def root(self) -> Array:
        """(D, K) float64 whose product with its transpose is the covariance; K is n at most while nothing is summed."""
        if self.products is None:
            return (self.rows - self.mean).T / np.sqrt(self.n - 1)
        values, vectors = np.linalg.eigh(self.covariance)
        return vectors * np.sqrt(values.clip(min=0))

    def to_bytes(self) -> bytes:
        """The same bytes for the same moments; 4 n D of them for n < D float32 features, else 4 D² and a little."""
        triangle = np.zeros(0) if self.products is None else self.products[np.triu_indices(self.size)]
        return pack(rows=self.rows, count=np.array(self.count), total=self.total, triangle=triangle)

    @classmethod
    def from_bytes(cls, data: bytes) -> Moments:
        """What `to_bytes` wrote. Raises ValueError on anything else."""
        rows, count, total, triangle = unpack(data, "rows", "count", "total", "triangle")
        products = None
        if triangle.size:
            products = np.zeros((len(total), len(total)))
            products[np.triu_indices(len(total))] = triangle
            products += np.triu(products, 1).T
        return cls(rows, int(count), total, products)


def fid(a: Moments, b: Moments) -> float:
    """|mean_a - mean_b|² + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), C the covariances (eq. 6 of Heusel et al.).

    With C = R R^T the last trace is the sum of the singular values of R_a^T R_b. For few images use it with care:
    see `Moments.biased`. Raises ValueError for sets of less than two images.
    """
    if min(a.n, b.n) < 2:
        raise ValueError(f"FID needs sets of at least 2 images, got {a.n} and {b.n}")
    root_a, root_b = a.root(), b.root()
    overlap = np.linalg.svd(root_a.T @ root_b, compute_uv=False).sum()
    distance = np.square(a.mean - b.mean).sum() + np.square(root_a).sum() + np.square(root_b).sum() - 2 * overlap
    return float(distance)
