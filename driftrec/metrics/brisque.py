"""BRISQUE (Mittal et al. 2012) by piq's statistics of natural scenes, with support vectors that the user gives."""

from __future__ import annotations

import math
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from driftrec.errors import InvalidInput
from driftrec.metrics.lpips import PairMetric
from driftrec.metrics.planes import check_image
from driftrec.models.pickles import unpickle

STATISTICS = 36  # 18 at each of two scales
GAMMA, RHO = 0.05, -153.591  # of the support vector machine, as its authors published it


def load_brisque(path: Path) -> PairMetric:
    """BRISQUE of the restored image alone, lower is better; 0 to 100 for most. `path`: piq's file of two tensors, the
    coefficients and the support vectors. Raises InvalidInput where it holds something else.
    """
    coefficients, vectors = support_vectors(path)

    def quality(reference: Tensor, restored: Tensor) -> Tensor:  # noqa: ARG001  one signature
        """(B, 3, H, W) floats in [0, 1], sides of at least 14 -> (B,) float64; nan for an image without texture."""
        images = check_image(restored).cpu().split(1)
        return torch.stack([_score(_statistics(image), coefficients, vectors) for image in images])

    return quality


def support_vectors(path: Path) -> tuple[Tensor, Tensor]:
    """(n,) coefficients and (n, 36) vectors, float64."""
    content: Any = unpickle(path)
    tensors = list(content) if isinstance(content, tuple | list) else []
    if len(tensors) != 2 or not all(isinstance(one, Tensor) and one.is_floating_point() for one in tensors):
        raise InvalidInput(f"{path}: no pair of tensors, which BRISQUE's weights are; fetch piq's file again")
    coefficients, vectors = (one.double() for one in tensors)
    if vectors.ndim != 2 or vectors.shape != (coefficients.numel(), STATISTICS):
        shapes = f"{tuple(coefficients.shape)} and {tuple(vectors.shape)}"
        raise InvalidInput(f"{path}: tensors of {shapes}, not (n,) and (n, {STATISTICS}); fetch piq's file again")
    return coefficients.flatten(), vectors


def _score(statistics: Tensor | None, coefficients: Tensor, vectors: Tensor) -> Tensor:
    """The machine's answer to (36,) statistics: a sum of gaussians around its vectors. Scalar."""
    if statistics is None:
        return torch.tensor(math.nan, dtype=torch.float64)
    kernel = (-GAMMA * (statistics - vectors).square().sum(dim=1)).exp()
    return kernel @ coefficients - RHO


def _statistics(image: Tensor) -> Tensor | None:
    """(1, 3, H, W) in [0, 1] -> (36,), scaled as the machine was trained; None where a constant image has none."""
    from piq.functional import imresize, rgb2yiq

    parts: Any = import_module("piq.brisque")  # `piq.brisque` is the function of that name
    luma = rgb2yiq(255 * image)[:, :1].round()
    half = imresize(luma, sizes=(luma.shape[2] // 2, luma.shape[3] // 2))
    try:
        found = [parts._natural_scene_statistics(plane) for plane in (luma, half)]
    except AssertionError:  # piq's word for neighbours that all differ in one direction, or not at all
        return None
    return parts._scale_features(torch.cat(found, dim=-1)).flatten()
