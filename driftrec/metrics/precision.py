"""Improved precision and recall (Kynkäänniemi et al. 2019): is what was restored realistic, and is all of it there?

Each set is taken for the union of balls around its images' features, to each one's fifth neighbour in the set.
"""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from driftrec.metrics.arrays import feature_rows

Array = NDArray[Any]
NEIGHBOURS = 5  # piq's default
FEWEST = NEIGHBOURS + 1  # images of a set


def precision(references: Tensor | Array, candidates: Tensor | Array) -> float:
    """The share of candidates that lie among the references. (N, D) and (M, D) features; higher is better.

    Raises ValueError for sets of less than FEWEST.
    """
    return _share_within(candidates, references)


def recall(references: Tensor | Array, candidates: Tensor | Array) -> float:
    """The share of references that lie among the candidates; otherwise as `precision`."""
    return _share_within(references, candidates)


def _share_within(points: Tensor | Array, centres: Tensor | Array) -> float:
    a, b = (torch.from_numpy(feature_rows(features)).double() for features in (points, centres))
    if min(len(a), len(b)) < FEWEST:
        raise ValueError(f"precision and recall need {FEWEST} images of each set, got {len(a)} and {len(b)}")
    radii = torch.cdist(b, b).kthvalue(NEIGHBOURS + 1, dim=1).values  # the nearest is the image itself
    return float((torch.cdist(a, b) <= radii).any(dim=1).double().mean())
