"""Classifier accuracy: does a classifier still see in the restored image what is in the picture?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from driftrec.errors import InvalidInput
from driftrec.metrics.planes import check_image
from driftrec.metrics.weights import classifiers, fill

# What torchvision sets by itself only where it downloads the weights.
OPTIONS: dict[str, dict[str, int]] = {
    "googlenet": {"transform_input": True, "init_weights": False},
    "inception_v3": {"transform_input": True, "init_weights": False},
    "vit_h_14": {"image_size": 518},
}


@dataclass(frozen=True)
class Classifier:
    """A classifier of torchvision, with the preparation that its first published weights came with."""

    network: nn.Module
    prepare: Callable[[Tensor], Tensor]  # for most: shorter side to 256, the centre 224x224, ImageNet's mean and std
    categories: tuple[str, ...]  # the classes' names, by index

    def __call__(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) floats in [0, 1] -> (B,) int64, the likeliest class of each; one by one."""
        self.network.to(image.device)
        with torch.inference_mode():
            found = [self.network(self.prepare(one)).argmax(dim=1) for one in check_image(image).float().split(1)]
        return torch.cat(found)

    def class_of(self, label: str | int) -> int:
        """The index of a label, which is an index or a class's name. Raises InvalidInput where it names no class."""
        text = str(label).strip()
        if text.isdecimal() and int(text) < len(self.categories):
            return int(text)
        if text in self.categories:
            return self.categories.index(text)
        last = len(self.categories) - 1
        raise InvalidInput(f"label {text!r} names no class; give a class's name or an index from 0 to {last}")


def load_classifier(name: str, path: Path) -> Classifier:
    """Any classifier that torchvision lists, with the weights of `path`. Raises InvalidInput where either is wrong."""
    from torchvision.models import get_model, get_model_weights

    if name not in classifiers():
        raise InvalidInput(f"torchvision has no classifier {name!r}; there are {', '.join(classifiers())}")
    first = next(iter(get_model_weights(name)))
    network = get_model(name, weights=None, **OPTIONS.get(name, {}))
    fill(network, path)
    return Classifier(network, first.transforms(), tuple(first.meta["categories"]))
