"""Exponential moving average of a network's weights: what is used after training."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class EMA:
    """Average of the parameters, in float32. The decay warms up, so that the first steps are forgotten soon."""

    def __init__(self, network: nn.Module, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"EMA decay must be in [0, 1), got {decay}")
        self.decay = decay
        self.weights = {name: p.detach().clone().float() for name, p in network.named_parameters()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Call after optimiser step `step`, counted from 0."""
        decay = min(self.decay, (2 + step) / (11 + step))  # as torch_ema has it, whose first update is number 1
        for average, current in zip(self.weights.values(), network.parameters(), strict=True):
            average.lerp_(current.detach(), 1 - decay)

    def state_of(self, network: nn.Module) -> dict[str, Tensor]:
        """The network's state dict with averaged parameters; buffers as they are."""
        return network.state_dict() | self.weights
