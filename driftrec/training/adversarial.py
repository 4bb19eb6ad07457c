"""A discriminator, which learns to tell restored images from clean ones, and the loss of what it tells apart.

It sees either beside its JPEG, and twice: its pixels, which have grain and lines, and what a classifier's first layers
make of them (`Features`, frozen, as Sauer et al. do it, Projected GANs, NeurIPS 2021), which has texture and shapes.
Hinge loss and spectral normalisation (Miyato et al., ICLR 2018); a verdict for every place.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from driftrec.training.features import CHANNELS, Features

WIDTH = 64  # channels of its layers
SLOPE = 0.2  # of its rectifiers, below 0
LR = 4e-4
BETAS = (0.5, 0.99)
RESIDUALS = 8.0  # times: what differs from the JPEG, in [-1, 1], is small
SMALLEST = 1e-12  # norm of a gradient


class Discriminator(nn.Module):
    """forward(images, y) -> a logit map a view, above 0 for clean: each (B, 1, h, w). images and y, their JPEG: (B, 3,
    H, W) in [0, 1], H and W multiples of 8. It has an optimiser of its own.
    """

    def __init__(self, features: Features) -> None:
        super().__init__()
        self.features = features
        pixels = (*layer(6), *layer(WIDTH, stride=2), *layer(WIDTH, 2 * WIDTH, stride=2), logits(2 * WIDTH))
        views = (pixels, *((*layer(2 * channels, kernel=1), *layer(WIDTH), logits(WIDTH)) for channels in CHANNELS))
        self.heads = nn.ModuleList(nn.Sequential(*view) for view in views)
        self.optimiser = torch.optim.AdamW(self.heads.parameters(), lr=LR, betas=BETAS, weight_decay=0.0)

    def forward(self, images: Tensor, y: Tensor) -> list[Tensor]:
        pixels = torch.cat([RESIDUALS * (images - y), 2 * y - 1], dim=1)
        pairs = zip(self.features(images), self.features(y), strict=True)
        views = [pixels, *(torch.cat(pair, dim=1) for pair in pairs)]
        return [head(view) for head, view in zip(self.heads, views, strict=True)]

    def generator_loss(self, restored: Tensor, y: Tensor) -> Tensor:
        """How clean `restored` does not look: a scalar, whose gradient is restored's alone."""
        self.heads.requires_grad_(False)
        loss = -torch.stack([view.mean() for view in self(restored, y)]).mean()
        self.heads.requires_grad_(True)
        return loss

    def accumulate(self, x0: Tensor, restored: Tensor, y: Tensor) -> None:
        """Leave the gradient of its own loss in its parameters, for `step`."""
        views = self(torch.cat([x0, restored.detach()]), torch.cat([y, y]))
        halves = (view.float().chunk(2) for view in views)
        losses = [F.relu(1 - clean).mean() + F.relu(1 + fake).mean() for clean, fake in halves]
        torch.stack(losses).mean().backward()  # pyright: ignore[reportUnknownMemberType]

    def step(self) -> None:
        """Move it by what was accumulated since the last step."""
        self.optimiser.step()
        self.optimiser.zero_grad()

    def state(self) -> dict[str, Tensor]:
        """All that `load_state` needs to go on from here; the classifier's layers are no part of it."""
        slots = {
            f"optimiser.{slot}.{name}": value
            for name, parameter in self.heads.named_parameters()
            for slot, value in self.optimiser.state[parameter].items()
        }
        return {f"heads.{name}": value for name, value in self.heads.state_dict().items()} | slots

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Raises RuntimeError for another's."""
        heads = {name: value for name, value in state.items() if name.startswith("heads.")}
        self.heads.load_state_dict({name.removeprefix("heads."): value for name, value in heads.items()})
        for name, parameter in self.heads.named_parameters():
            found = {slot: state.get(f"optimiser.{slot}.{name}") for slot in ("step", "exp_avg", "exp_avg_sq")}
            slots = {slot: value for slot, value in found.items() if value is not None}
            self.optimiser.state[parameter] = {
                slot: value.to(parameter.device) if value.ndim else value for slot, value in slots.items()
            }


def layer(inputs: int, outputs: int = WIDTH, kernel: int = 3, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    """Convolution and rectifier."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2)
    return spectral_norm(convolution), nn.LeakyReLU(SLOPE)


def logits(inputs: int) -> nn.Module:
    """Of every place."""
    return spectral_norm(nn.Conv2d(inputs, 1, 3, padding=1))


def balanced(loss: Tensor, error: Tensor, output: Tensor, weight: float) -> Tensor:
    """`loss`, so scaled that its gradient at `output` is `weight` times as long as that of `error` (Esser et al., CVPR
    2021).
    """
    pulls = [torch.autograd.grad(of, output, retain_graph=True)[0].float().norm() for of in (error, loss)]
    return loss * (weight * pulls[0] / pulls[1].clamp(min=SMALLEST)).detach()
