"""Processes, the denoiser that learns one, and the samplers that go back along it.

`process` defines what a process is, `drift` has the paper's, `baselines` those it is compared with; `denoiser` puts a
network behind a process; `sampling` and `grids` walk from the JPEG to an image. Must know nothing of training, files or
tiles. Start with `process`.
"""

from driftrec.diffusion.baselines import I2SB, IRSDE, Conditional, InDI, Regression
from driftrec.diffusion.denoiser import Denoiser
from driftrec.diffusion.drift import OUVE, PROCESSES, TSDVE, CosVE
from driftrec.diffusion.process import Process
from driftrec.diffusion.sampling import SAMPLERS, Method

__all__ = [
    "I2SB", "IRSDE", "OUVE", "PROCESSES", "SAMPLERS", "TSDVE", "Conditional", "CosVE", "Denoiser", "InDI", "Method",
    "Process", "Regression",
]  # fmt: skip
