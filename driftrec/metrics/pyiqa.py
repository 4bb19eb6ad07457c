"""Metrics of the package pyiqa, where the user has it: `pyiqa:musiq` is what it calls musiq.

pyiqa keeps weights of its own, and fetches those of a metric that are not on the machine yet: who names one of its
metrics asks for that.
"""

from __future__ import annotations

import difflib
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from driftrec.errors import InvalidInput, one_line
from driftrec.metrics.planes import check_pair

PREFIX, PACKAGE = "pyiqa:", "pyiqa"
MODES = ("FR", "NR")  # with a reference, without one: what scores an image


class Foreign:
    """One of pyiqa's metrics, as a pair metric.

    Raises InvalidInput where the package is not installed, knows no such metric, or cannot make it.
    """

    def __init__(self, name: str) -> None:
        package, known = _package(name), name.removeprefix(PREFIX)
        if known not in (models := package.list_models()):
            near = difflib.get_close_matches(known, models, n=3) or models
            raise InvalidInput(f"--metrics {name}: pyiqa has no {known!r}; it has {', '.join(near)}")
        try:
            self._metric = package.create_metric(known, device=torch.device("cpu"))
        except Exception as error:  # whatever its makers, and the network, raise
            raise InvalidInput(f"--metrics {name}: pyiqa cannot make it: {one_line(error)}") from error
        self.higher_is_better = not self._metric.lower_better
        self._mode: str = self._metric.metric_mode
        if self._mode not in MODES:
            raise InvalidInput(f"--metrics {name}: pyiqa's {known} scores no images one by one; name another")

    def __call__(self, reference: Tensor, restored: Tensor) -> Tensor:
        """Both (B, 3, H, W) floats in [0, 1] -> (B,) float64. One by one: no image's value depends on its batch."""
        reference, restored = (image.float() for image in check_pair(reference, restored))
        metric = self._metric.to(restored.device)
        pairs = zip(reference.split(1), restored.split(1), strict=True)
        with torch.inference_mode():
            values = [metric(y, x) if self._mode == "FR" else metric(y) for x, y in pairs]
        return torch.cat([value.double().flatten() for value in values])


@cache
def load_pyiqa(name: str) -> Foreign:
    """The metric "pyiqa:NAME", made once in a process."""
    return Foreign(name)


def _package(name: str) -> Any:
    if find_spec(PACKAGE) is None:
        raise InvalidInput(f"--metrics {name} needs the package pyiqa, which is not installed: pip install pyiqa")
    return import_module(PACKAGE)
