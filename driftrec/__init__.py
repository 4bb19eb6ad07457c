"""DriftRec: restores JPEG-damaged images with a diffusion model that drifts from the clean image to its JPEG.

    from driftrec import Restorer
    restorer = Restorer.from_pretrained()
    restorer("photo.jpg").save("restored.png")

The science, usable alone: PyTorch, NumPy, SciPy, Pillow, safetensors; no Ray, no object store, no command line.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from driftrec.diffusion.drift import PROCESSES as PROCESSES
    from driftrec.diffusion.sampling import SAMPLERS as SAMPLERS
    from driftrec.metrics import PAIR_METRICS as METRICS
    from driftrec.restoration.options import Sampling as Sampling
    from driftrec.restoration.restorer import Restorer as Restorer

__version__ = "0.1.0"
__all__ = ["METRICS", "PROCESSES", "SAMPLERS", "Restorer", "Sampling", "__version__"]

_WHERE = {  # loaded when first asked for: they bring PyTorch
    "METRICS": ("driftrec.metrics", "PAIR_METRICS"),
    "PROCESSES": ("driftrec.diffusion.drift", "PROCESSES"),
    "SAMPLERS": ("driftrec.diffusion.sampling", "SAMPLERS"),
    "Restorer": ("driftrec.restoration.restorer", "Restorer"),
    "Sampling": ("driftrec.restoration.options", "Sampling"),
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _WHERE[name]
    return getattr(import_module(module), attribute)
