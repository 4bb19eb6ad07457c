"""Muon (Jordan et al. 2024): momentum, made orthogonal before it moves a weight. For weights of two and more
dimensions; AdamW moves the others.

Steps are scaled to the root mean square of AdamW's (Liu et al. 2025), so that one learning rate suits both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

QUINTIC = (3.4445, -4.7750, 2.0315)  # coefficients of their iteration
ITERATIONS = 5
RMS = 0.2  # of AdamW's steps


class Muon(torch.optim.Optimizer):
    """Takes lr, momentum and decoupled weight decay. Every parameter is a matrix, its first dimension the rows."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.01
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in cast(list[Tensor], group["params"]):
                if parameter.grad is None:
                    continue
                average = self.state[parameter].setdefault("exp_avg", torch.zeros_like(parameter))
                average.lerp_(parameter.grad, 1 - group["momentum"])
                looking_ahead = parameter.grad.lerp(average, group["momentum"])
                moved = orthogonal(looking_ahead.flatten(1)) * RMS * math.sqrt(max(parameter.flatten(1).shape))
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.sub_(moved.view_as(parameter), alpha=group["lr"])


def orthogonal(matrix: Tensor) -> Tensor:
    """About the nearest matrix whose singular values are 1 (theirs come out between 0.7 and 1.2), by Newton-Schulz."""
    a, b, c = QUINTIC
    wide = matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix
    x = wide / (wide.norm() + 1e-7)
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if matrix.shape[0] > matrix.shape[1] else x
