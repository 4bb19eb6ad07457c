"""Muon (Jordan et al. 2024): momentum, made orthogonal before it moves a weight. For weights of two and more
dimensions; the others are moved as AdamW moves them.

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
MOMENTUM = 0.95
RMS = 0.2  # of AdamW's steps
EPS = 1e-8  # of AdamW


class Muon(torch.optim.Optimizer):
    """Takes AdamW's settings; betas are for what is no matrix. The first dimension of a weight counts as its rows."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in cast(list[Tensor], group["params"]):
                if parameter.grad is None:
                    continue
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                state = self.state[parameter]
                if parameter.ndim > 1:
                    step = orthogonal_step(parameter.grad, state)
                else:
                    step = adam_step(parameter.grad, state, group["betas"])
                parameter.sub_(step, alpha=group["lr"])

    @staticmethod
    def slots(parameter: Tensor) -> tuple[str, ...]:
        """Names of what is kept of a parameter once it was moved."""
        return ("exp_avg",) if parameter.ndim > 1 else ("step", "exp_avg", "exp_avg_sq")


def orthogonal_step(gradient: Tensor, state: dict[str, Tensor]) -> Tensor:
    """Nesterov's momentum as a nearly orthogonal matrix, of AdamW's size."""
    average = state.setdefault("exp_avg", torch.zeros_like(gradient))
    average.lerp_(gradient, 1 - MOMENTUM)
    matrix = gradient.lerp(average, MOMENTUM).flatten(1)
    return (orthogonal(matrix) * (RMS * math.sqrt(max(matrix.shape)))).reshape(gradient.shape)


def adam_step(gradient: Tensor, state: dict[str, Tensor], betas: tuple[float, float]) -> Tensor:
    """Kingma and Ba 2015."""
    count = state.setdefault("step", torch.zeros(()))
    average, square = (state.setdefault(name, torch.zeros_like(gradient)) for name in ("exp_avg", "exp_avg_sq"))
    count += 1
    average.lerp_(gradient, 1 - betas[0])
    square.lerp_(gradient.square(), 1 - betas[1])
    done = count.item()
    return average / (1 - betas[0] ** done) / ((square / (1 - betas[1] ** done)).sqrt() + EPS)


def orthogonal(matrix: Tensor) -> Tensor:
    """About the nearest matrix whose singular values are 1 (theirs come out between 0.7 and 1.2), by Newton-Schulz."""
    a, b, c = QUINTIC
    wide = matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix
    x = wide / (wide.norm() + 1e-7)
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if matrix.shape[0] > matrix.shape[1] else x
