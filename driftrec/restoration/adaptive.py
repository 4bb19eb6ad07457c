"""How much work a picture needs, from what its file says: the less a JPEG has lost, the less there is to restore, and
the less a network may change.

Three things follow from the mean damage d(q) of a JPEG of quality q, relative to that of quality 10, for which the
network's settings are recommended:

- a sample starts where the noise drowns that much: sigma(t) / a(t) goes with d(q), never above the start asked for;
- it takes steps in proportion; below MEAN_ONLY it is not worth drawing, and the mean is taken. On 40 photographs of
  quality 20, 3 steps from there score better than 4 from the full start, and 2 worse in KID; of quality 50, 2 better;
- of the change that the network proposes only a share is applied, its `strength`. A small network changes the finest
  file nearly as much as a coarse one: the first embedded one by 0.009 at quality 98 and 0.010 at 60. The share that
  gave the best PSNR with that one, mean over 50 photographs of 256x256, was 1.06 at quality 60, 0.83 at 75, 0.58 at 85,
  0.39 at 90, 0.19 at 95 and 0.06 at 98; `strength` follows it. It is near the best share of today's for 4:4:4, and
  below it for 4:2:0 (`benchmarks.strength`).

A file that was compressed before, at a lower quality, has lost what that took: it goes by that quality, with a full
start. One that is no JPEG goes by the quality that its pixels still show, and is left as it is where none shows: a
lossless drawing is not to be smeared. Where that JPEG's grid did not begin at its corner, because it was cropped since,
the network sees it as if it did. A picture smaller than an MCU is left too: nothing in its file holds it.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple, cast

from driftrec.diffusion.process import Process
from driftrec.image.picture import Picture, to_8_bits
from driftrec.jpeg.double_compression import older_compression, once_jpeg
from driftrec.jpeg.headers import damage, standard_tables

NOTHING, EVERYTHING = 0.0067, 0.0174  # damage at which nothing and all of the network's change is applied
SMALLEST = 16  # pixels, the side of an MCU
MEAN_ONLY = 0.42  # of the damage of quality 10: from quality 73 on


def share(quality: int) -> float:
    """Damage of a quality, relative to that of quality 10; at most 1."""
    return min(1.0, damage(quality) / damage(10))


def strength(quality: int) -> float:
    """Share of the network's change, 0 to 1, that a JPEG of this quality bears."""
    return min(1.0, max(0.0, (damage(quality) - NOTHING) / (EVERYTHING - NOTHING)))


class History(NamedTuple):
    """What a picture has gone through as a JPEG."""

    quality: int | None  # the lowest; None where none shows
    older: bool  # whether that was before its file was written
    offset: tuple[int, int] = (0, 0)  # rows and columns that were cut off its grid since, where the file has no other


NONE = History(None, False)


def history(picture: Picture) -> History:
    """What its file tells, or its pixels show."""
    quality, older = picture.quality, picture.older
    if older or picture.constraint:  # that was looked for when its file was opened
        return History(older, True) if older else History(quality, False)
    stored = to_8_bits(picture.stored)
    if quality is None:
        found = once_jpeg(stored)
        return History(found.certain, True, found.offset if found.found == "shifted" else (0, 0)) if found else NONE
    found = older_compression(stored, picture.steps or standard_tables(quality)[0], quality)
    return History(found.certain, True) if found else History(quality, False)


def start(process: Process, wanted: float, t_eps: float, part: float) -> float:
    """The time at which sigma / a is `part` of what it is at the wanted time; no less than t_eps by a tenth."""
    first = wanted if process.mean_coefficient(wanted) > 0 else min(wanted, 1 - 1e-4)

    def level(t: float, goal: float = 0.0) -> float:
        return float(process.std(t) / process.mean_coefficient(t)) - goal

    least, goal = 1.1 * t_eps, part * level(first)
    if part >= 1 or least >= first or not goal > 0:
        return wanted
    if level(least) >= goal:
        return least
    from scipy.optimize import brentq  # a fifth of a second, which a mean does not need

    return cast(float, brentq(partial(level, goal=goal), least, first, xtol=1e-6))
