"""Conditions of an evaluation: how a clean image is damaged, as a function of its pixels, its key and a seed."""

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from driftrec.errors import BadImage, InvalidInput, Reason
from driftrec.image import Picture
from driftrec.jpeg.codec import degrade, encode_jpeg, shift
from driftrec.random import generator_for
from pipeline.evaluate.settings import DamageSettings

NONE = "none"  # the quality that damages nothing


@dataclass(frozen=True)
class Condition:
    """One way of damaging images."""

    quality: int | None  # of the first JPEG; None: not damaged at all
    subsampling: str = ""
    second_quality: int | None = None  # of the second one, if there is one
    shift: int = 0  # pixels that its grid lies off the first one's, at most, down and across

    @property
    def slug(self) -> str:
        """A name for folders and columns: q10-420, q30-q10-shift4-420."""
        if self.quality is None:
            return NONE
        chroma = self.subsampling.replace(":", "")
        if self.second_quality is None:
            return f"q{self.quality}-{chroma}"
        return f"q{self.quality}-q{self.second_quality}-shift{self.shift}-{chroma}"

    @property
    def label(self) -> str:
        """A name for people."""
        if self.quality is None:
            return "As given"
        if self.second_quality is None:
            return f"Quality {self.quality}, {self.subsampling}"
        return f"Quality {self.quality}, then {self.second_quality}, {self.subsampling}"

    @property
    def crop(self) -> int:
        """The largest shift, which is also cut off the reference. Conditions of one crop share their references."""
        return self.shift if self.second_quality is not None else 0


def conditions_of(settings: DamageSettings) -> tuple[Condition, ...]:
    """All combinations, in the order of the settings. Raises InvalidInput where two settings say the same thing."""
    if settings.quality == (NONE,):
        if settings.second_quality:
            raise InvalidInput("--quality none damages nothing: leave out --second-quality")
        return (Condition(None),)
    found: dict[Condition, None] = {}
    for text, second, subsampling in product(
        settings.quality, settings.second_quality or (None,), settings.subsampling
    ):
        first, _, then = text.partition("/")
        if then and second is not None:
            raise InvalidInput(
                f"--quality {text} and --second-quality {second} both say how to compress a second time; give one"
            )
        last = int(then) if then else second
        found[Condition(int(first), subsampling, last, settings.shift if last is not None else 0)] = None
    return tuple(found)


def crop_of(key: str, condition: Condition, seed: int) -> tuple[int, int]:
    """(rows, columns) that are cut off an image before its second compression."""
    if not condition.crop:
        return 0, 0
    down, across = generator_for("shift", seed, key).integers(0, condition.crop + 1, 2)
    return int(down), int(across)


def reference_of(picture: Picture, key: str, condition: Condition, seed: int) -> NDArray[np.uint8]:
    """What the damaged image is to be compared with: (H, W, 3). Raises BadImage if nothing would be left of it."""
    if min(picture.height, picture.width) <= condition.crop:
        detail = f"{picture.width}x{picture.height} pixels are too few to crop up to {condition.crop} of them"
        raise BadImage(Reason.too_small, detail)
    return np.ascontiguousarray(shift(picture.rgb8, *crop_of(key, condition, seed)))


def damage(picture: Picture, key: str, condition: Condition, seed: int) -> bytes:
    """The JPEG of a picture; grey ones stay grey. Raises BadImage as `reference_of`."""
    assert condition.quality is not None, "this condition damages nothing"
    pixels = picture.rgb8
    if condition.second_quality is not None:
        reference_of(picture, key, condition, seed)  # for its check
        once = degrade(_channels(picture, pixels), condition.quality, condition.subsampling)
        pixels = shift(once, *crop_of(key, condition, seed))
    quality = condition.quality if condition.second_quality is None else condition.second_quality
    return encode_jpeg(_channels(picture, pixels), quality, condition.subsampling)


def _channels(picture: Picture, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W) of a grey picture, (H, W, 3) of others."""
    grey = picture.mode in ("L", "LA") and pixels.ndim == 3
    return np.ascontiguousarray(pixels[..., 0] if grey else pixels)
