"""What a model is told of a picture's JPEG file: its coefficients, for QGAC, or what its encoder makes of an image, for
DDRM; and the size that pictures come back in.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor
from torch.nn import functional as F

from driftrec.diffusion import ddrm
from driftrec.errors import BadImage, Reason
from driftrec.image.picture import Picture
from driftrec.jpeg.constraint import Constraint
from driftrec.models import unconditional
from driftrec.models.interpolation import Model
from driftrec.models.qgac import Coefficients, Weights, of_file

SUBSAMPLING = {(1, 1): "4:4:4", (1, 2): "4:2:2", (2, 2): "4:2:0"}  # by luma samples for one of chroma, down and across


def restore(model: Weights, picture: Picture) -> Tensor:
    """(1, 3, H, W) as stored, about in [0, 1], not clipped. Raises BadImage as `coefficients`."""
    height, width = picture.stored.shape[:2]
    return model.restore(coefficients(picture))[..., :height, :width]


def check(model: Model, picture: Picture) -> None:
    """Raises BadImage `unsupported` for a picture that this model does not take."""
    if isinstance(model, unconditional.Weights):
        encoder(picture)
    elif isinstance(model, Weights):
        _known(picture)


def coefficients(picture: Picture) -> Coefficients:
    """What its file says. Raises BadImage `unsupported`, with the remedy, unless that is a JPEG of 4:2:0 or grey."""
    return of_file(_known(picture))


def _known(picture: Picture) -> Constraint:
    known = picture.coefficients
    if known is None:
        raise _refused(f"QGAC restores a JPEG file's coefficients ({_why(picture)}): give the file, projection on")
    if len(known.planes) == 3 and known.reduction != (2, 2):
        raise _refused("QGAC takes chroma at half of both sides (4:2:0) or grey, not 4:4:4 or 4:2:2")
    return known


def restore_held(
    model: unconditional.Weights, y: Tensor, picture: Picture, noise: Callable[[int, int, int], Tensor]
) -> tuple[Tensor, int]:
    """DDRM of a part y of a picture, from a multiple of 16 on, (1, 3, H, W) in [0, 1] as stored: the same, and the
    evaluations that it took. noise(height, width, step): (1, 3, height, width). Raises BadImage as `encoder`.
    """
    height, width = y.shape[-2:]
    lacking = [-side % model.stride for side in (width, height)]
    filled = F.pad(y, (0, lacking[0], 0, lacking[1]), mode="replicate")  # as an encoder does it
    indices, of_step = ddrm.times(), partial(noise, *filled.shape[-2:])
    return model.restore(filled, encoder(picture), of_step, indices)[..., :height, :width], len(indices)


def encoder(picture: Picture) -> ddrm.Code:
    """libjpeg's, with its file's tables and subsampling. Raises BadImage `unsupported`, with the remedy, unless that is
    a JPEG of 4:4:4, 4:2:2, 4:2:0 or grey, with one table for both chroma planes.
    """
    known = picture.coefficients
    if known is None:
        raise _refused(f"DDRM must know a JPEG file's tables ({_why(picture)}): give the file, projection on")
    tables = [[int(step) for step in steps.ravel()] for steps in known.steps]
    if tables[1:] and tables[1] != tables[-1]:
        raise _refused("DDRM takes files with one table for both planes of chroma, and this one has two")
    return ddrm.of_file([tables[0], tables[-1]], SUBSAMPLING[known.reduction])


def _why(picture: Picture) -> str:
    """There are none."""
    if picture.source_format not in ("", "JPEG"):
        return f"this {picture.source_format} is no JPEG"
    return picture.note or "none are known"


def _refused(detail: str) -> BadImage:
    return BadImage(Reason.unsupported, detail)
