"""Whatever a person hands to a Restorer, as a Picture, and the result as the same kind.

A file is opened here for the library and for every job alike: with all that it says of the clean image. A PIL image
that lies as its JPEG file has it is as good as that file. Arrays and tensors say nothing. Knows no model.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from torch import Tensor

from driftrec.errors import BadImage
from driftrec.image import jxl
from driftrec.image.decoding import MAX_PIXELS, Frames, decode, from_pil
from driftrec.image.encoding import to_pil
from driftrec.image.metadata import joined
from driftrec.image.picture import Picture
from driftrec.jpeg.constraint import Constraint, Older, constraint
from driftrec.jpeg.ending import mended
from driftrec.jpeg.headers import estimate_quality

File = str | Path | bytes  # a path, or the bytes themselves
Array = NDArray[np.unsignedinteger[Any]]  # uint8 or uint16 (H, W, 3)
Source = File | Image.Image | Array | Tensor
PEAK = 65_535  # of the pictures that tensors become


@dataclass(frozen=True)
class Opened:
    """A picture, and how a result becomes what the picture came as."""

    picture: Picture
    back: Callable[[Picture], Any]


def open_picture(
    data: bytes, name: str = "", max_pixels: int = MAX_PIXELS, frames: Frames = "first", projection: bool = True
) -> Picture:
    """A file as a restoration takes it: decoded, and where `projection` is on with what a JPEG says of the image that
    it was made from. Arguments and errors as of `driftrec.image.decoding.decode`.
    """
    picture = decode(data, name, max_pixels, frames)
    if not projection or picture.source_format != "JPEG":
        return picture
    known = constraint(mended(jxl.jpeg_within(data) or data, max_pixels)[0])
    if isinstance(known, Constraint):
        return replace(picture, constraint=known, coefficients=known)
    note = joined(picture.note, f"no projection: {known}")
    if isinstance(known, Older):
        return replace(picture, older=known.quality, coefficients=known.last, note=note)
    return replace(picture, note=note)


def opened(source: Source, projection: bool = True) -> Opened:
    """Of a path or bytes the upright picture, which comes back as a PIL image; of all else what comes back alike.

    Raises:
        BadImage: as `driftrec.image.decoding.decode` and `from_pil` do.
        OSError: the path cannot be read.
        TypeError, ValueError: an array or tensor of another type, shape or range, or none of these kinds.
    """
    match source:
        case bytes():
            return Opened(open_picture(source, projection=projection), to_pil)
        case str() | Path():
            path = Path(source)
            return Opened(open_picture(path.read_bytes(), path.name, projection=projection), to_pil)
        case Image.Image():
            return Opened(_of_image(source, projection), to_pil)
        case Tensor():
            return Opened(_of_tensor(source), lambda picture: _as_tensor(picture).to(source))
        case np.ndarray():
            return Opened(Picture(source), lambda picture: picture.rgb)
        case _:
            kinds = "a path, bytes, a PIL image, a uint8 array (H, W, 3) or a tensor (3, H, W)"
            raise TypeError(f"cannot restore a {type(source).__name__}: give {kinds}")


def _of_image(image: Image.Image, projection: bool) -> Picture:
    """As it lies. If it came from a JPEG file, with its tables; and with all else that the file says where that can
    still be read and the image is as it came.
    """
    if not isinstance(image, JpegImageFile):
        return replace(from_pil(image), source_format=image.format or "")
    data = _file_of(image)  # loading closes it
    picture = from_pil(image)
    with contextlib.suppress(KeyError, IndexError):  # of no tables
        steps = tuple(image.quantization[image.layer[0][3]])
        picture = replace(picture, quality=estimate_quality((steps,))[0], steps=steps)
    with contextlib.suppress(BadImage):  # another file has taken its place
        found = open_picture(data, projection=projection)
        if np.array_equal(found.stored, picture.rgb):
            said = {name: getattr(found, name) for name in ("constraint", "coefficients", "older", "quality")}
            return replace(picture, source_format="JPEG", **said)
    return picture


def _file_of(image: JpegImageFile) -> bytes:
    """What it was opened from; nothing if that cannot be read any more."""
    with contextlib.suppress(OSError, ValueError):  # gone, or closed
        if image.fp is None:
            return Path(os.fsdecode(image.filename)).read_bytes() if image.filename else b""
        place = image.fp.tell()
        image.fp.seek(0)
        data = image.fp.read()
        image.fp.seek(place)
        return data
    return b""


def _of_tensor(tensor: Tensor) -> Picture:
    """In 16 bits."""
    if not tensor.is_floating_point() or tensor.ndim != 3 or len(tensor) != 3:
        raise ValueError(
            f"a tensor must be floating (3, H, W), or (B, 3, H, W), not {tensor.dtype} {tuple(tensor.shape)}"
        )
    if not bool(((tensor >= 0) & (tensor <= 1)).all()):  # false for nan, too
        raise ValueError("a tensor's pixels must lie in [0, 1]: divide by 255, or clamp them")
    levels = (tensor.detach().double().cpu() * PEAK).round().permute(1, 2, 0)
    return Picture(levels.numpy().astype(np.uint16))


def _as_tensor(picture: Picture) -> Tensor:
    return torch.from_numpy(picture.rgb.astype(np.float64) / PEAK).permute(2, 0, 1)
