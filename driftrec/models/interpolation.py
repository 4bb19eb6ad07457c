"""Two models between which the weights are interpolated, theta = (1 - alpha) A + alpha B (Wang et al., "Deep Network
Interpolation", CVPR 2019): a regression network and the same fine-tuned with a discriminator, for example QGAC and
QGAC-GAN. Means something only where B was trained from A, or both from one start.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from driftrec.bounds import shown
from driftrec.errors import InvalidInput
from driftrec.models import fbcnn, qgac, unconditional
from driftrec.models.checkpoint import Checkpoint
from driftrec.models.tensors import derived_sha256

Model = Checkpoint | fbcnn.Weights | qgac.Weights | unconditional.Weights


def between(first: Model, second: Model, alpha: float) -> Model:
    """(1 - alpha) first + alpha second, alpha in 0..1, in `first`'s network; its sha256 follows from both and alpha.

    It recommends what both recommend. Raises InvalidInput, naming the first difference, unless both are of one kind
    and one shape and share all that is not trained.
    """
    if type(first) is not type(second):
        raise _different("kinds", type(first).__module__, type(second).__module__)
    for name, value in first.shape.items():
        if value != second.shape[name]:
            raise _different(name, shown(value), shown(second.shape[name]))
    theirs = second.network.state_dict()
    trained = dict(first.network.named_parameters())
    for name, ours in first.network.state_dict().items():
        if name in trained:
            ours.lerp_(theirs[name], alpha)
        elif not torch.equal(ours, theirs[name]):
            raise _different(name, "numbers that are drawn and not trained", "others: no training led from one to both")
    sha256 = derived_sha256(f"interpolate:{first.sha256},{second.sha256}?alpha={alpha!r}")
    return replace(first, sha256=sha256, sampling=_shared(first.sampling, second.sampling))


def _shared(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in first.items() if second.get(name) == value}


def _different(name: str, first: str, second: str) -> InvalidInput:
    return InvalidInput(f"these two cannot be interpolated: {name}: {first} and {second}; give two of one training")
