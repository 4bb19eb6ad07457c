"""What a network of coefficients, QGAC, is given of a picture, and the size that it comes back in."""

from __future__ import annotations

from torch import Tensor

from driftrec.errors import BadImage, Reason
from driftrec.image.picture import Picture
from driftrec.models.qgac import Coefficients, Weights, of_file


def restore(model: Weights, picture: Picture) -> Tensor:
    """(1, 3, H, W) as stored, about in [0, 1], not clipped. Raises BadImage as `coefficients`."""
    height, width = picture.stored.shape[:2]
    return model.restore(coefficients(picture))[..., :height, :width]


def coefficients(picture: Picture) -> Coefficients:
    """What its file says. Raises BadImage `unsupported`, with the remedy, unless that is a JPEG of 4:2:0 or grey."""
    known = picture.coefficients
    if known is None:
        raise _refused(f"QGAC restores a JPEG file's coefficients ({_why(picture)}): give the file, projection on")
    if len(known.planes) == 3 and known.reduction != (2, 2):
        raise _refused("QGAC takes chroma at half of both sides (4:2:0) or grey, not 4:4:4 or 4:2:2")
    return of_file(known)


def _why(picture: Picture) -> str:
    """There are none."""
    if picture.source_format not in ("", "JPEG"):
        return f"this {picture.source_format} is no JPEG"
    return picture.note or "none are known"


def _refused(detail: str) -> BadImage:
    return BadImage(Reason.unsupported, detail)
