"""DriftRec: restores JPEG-damaged images with a diffusion model that drifts from the clean image to its JPEG.

    from driftrec import Restorer
    restorer = Restorer.from_pretrained()
    restorer("photo.jpg").save("restored.png")

The science, usable alone: PyTorch, NumPy, SciPy, Pillow, safetensors; no Ray, no object store, no command line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from driftrec.restoration.restorer import Restorer as Restorer

__version__ = "0.1.0"
__all__ = ["Restorer", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Restorer":  # loads torch: only when asked for
        from driftrec.restoration.restorer import Restorer

        return Restorer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
