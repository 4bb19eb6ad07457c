"""What a network said of a picture becomes a picture again, is judged, and is held to what the file says."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from driftrec.errors import BadImage, Reason
from driftrec.image.metadata import joined
from driftrec.image.picture import ROWS, STORED, Picture
from driftrec.jpeg.constraint import project_band
from driftrec.restoration.guard import Change
from driftrec.restoration.tiling import Canvas

if TYPE_CHECKING:
    from driftrec.restoration.options import Plan, Resolved


@dataclass(frozen=True)
class Restored:
    """A restored picture and what it cost."""

    picture: Picture
    nfe: int  # evaluations of the network for this image
    sampling: Resolved | None = None  # what it took; None without a network
    strength: float = 1.0  # share of the network's change that was applied
    change: Change | None = None  # what the network proposed; None where it was not asked

    @property
    def finite(self) -> bool:
        """Whether all that the network said were numbers."""
        return self.change is None or self.change.finite

    @property
    def fault(self) -> str | None:
        """Why this is no restoration (see `guard`), so that it must not be written; None if it may be one."""
        return self.change.fault if self.change else None

    def checked(self, key: str) -> Picture:
        """The picture. Raises BadImage (`implausible`) if it is no restoration."""
        if self.fault:
            raise BadImage(Reason.implausible, f"{key}: {self.fault}")
        return self.picture


def finish(picture: Picture, canvas: Canvas, plan: Plan, nfe: int) -> Restored:
    """The picture with the pixels of its canvas, by rows, so that a large one needs no second copy in floats. A share
    of the change is applied; the whole of it is judged.
    """
    settings, strength, quality, note, _ = plan
    if strength == 0:
        return Restored(replace(picture, note=joined(picture.note, note)), nfe, settings, strength)
    change = Change(quality, canvas.finite)
    shift = np.zeros(3)
    if settings.color_correction:
        shift = picture.stored.mean(axis=(0, 1), dtype=np.float64) / picture.peak - canvas.mean()
    rgb = np.empty_like(picture.rgb)
    before, after = picture.stored, STORED[picture.orientation](rgb)
    for top in range(0, len(before), ROWS):
        restored = canvas.rows(top, top + ROWS) + shift.astype(np.float32)
        change.add(before[top : top + ROWS], restored.clip(0, 1))
        if strength < 1:
            restored = strength * restored + (1 - strength) / picture.peak * before[top : top + ROWS]
        band = (restored.clip(0, 1) * picture.peak).round().astype(rgb.dtype)
        if settings.projection and picture.constraint:
            band = project_band(band, picture.constraint, top)
        after[top : top + ROWS] = band
    if settings.adaptive and change.strange and not change.fault:
        left = replace(picture, note=joined(picture.note, "of no kind that the model knows: left as it is"))
        return Restored(left, nfe, settings, 0.0, change)
    return Restored(picture.with_rgb(rgb), nfe, settings, strength, change)
