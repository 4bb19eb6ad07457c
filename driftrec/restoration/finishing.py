"""What a network said of a picture becomes a picture again, is judged, and is held to what the file says."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from driftrec.errors import BadImage, Reason
from driftrec.image.metadata import joined
from driftrec.image.picture import ROWS, STORED, Picture
from driftrec.jpeg.constraint import project_band
from driftrec.restoration.guard import Change
from driftrec.restoration.tiling import Canvas, Tile

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
    seen: float | None = None  # JPEG quality, 0 to 100, that the network itself sees; None for one that says none

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


class Arriving:
    """A batch of the network's results on its way to the CPU; a GPU may still be at work on it."""

    def __init__(self, results: Tensor, qualities: Tensor | None = None) -> None:
        """results: (B, 3, H, W), about in [0, 1]; qualities: (B,), 0 to 100, that the network sees."""
        self._pixels = results.permute(0, 2, 3, 1).to("cpu", non_blocking=True)
        self._qualities = None if qualities is None else qualities.to("cpu", non_blocking=True)
        self._sent = torch.cuda.current_stream(results.device).record_event() if results.is_cuda else None

    def wait(self) -> NDArray[np.float32]:
        """(B, H, W, 3), as soon as it is there."""
        if self._sent is not None:
            self._sent.synchronize()
        return self._pixels.numpy()

    def seen(self, place: int) -> float | None:
        """The quality that the network sees at this place of the batch, once `wait` is over."""
        return None if self._qualities is None else float(self._qualities[place])


class Unfinished:
    """A picture that a network is at work on. To be finished once, on any thread."""

    def __init__(self, picture: Picture, plan: Plan, size: tuple[int, int]) -> None:
        self._picture, self._plan, self._nfe = picture, plan, 0
        self._canvas = Canvas(*size, 16 if plan.sampling.color_8bit else picture.depth)  # rounded once, and not before
        self._coming: list[tuple[Tile, Arriving, int]] = []
        self._seen: float | None = None

    def expect(self, tile: Tile, batch: Arriving, place: int, nfe: int) -> None:
        """A tile of it will be at this place of a batch. Batches before that one are waited for."""
        if self._coming and self._coming[-1][1] is not batch:
            self._take_in()
        self._coming.append((tile, batch, place))
        self._nfe = max(self._nfe, nfe)

    def finish(self) -> Restored:
        """With all that is still to come."""
        self._take_in()
        done = finish(self._picture, self._canvas.without(*self._plan.offset), self._plan, self._nfe)
        if self._seen is None:
            return done
        note = joined(done.picture.note, f"the network sees quality {self._seen:.0f}")
        return replace(done, picture=replace(done.picture, note=note), seen=self._seen)

    def _take_in(self) -> None:
        for tile, batch, place in self._coming:
            self._canvas.add(tile, batch.wait()[place])
            self._seen = batch.seen(place)
        self._coming = []


def finish(picture: Picture, canvas: Canvas, plan: Plan, nfe: int) -> Restored:
    """The picture with the pixels of its canvas, by rows, so that a large one needs no second copy in floats. A share
    of the change is applied; the whole of it is judged.
    """
    settings, strength, quality, note, _ = plan
    if strength == 0:
        return Restored(replace(picture, note=joined(picture.note, note)), nfe, settings, strength)
    change = Change(quality, canvas.finite)
    shift = np.zeros(3)
    if settings.color_8bit:
        canvas.round_to_8_bits()
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
