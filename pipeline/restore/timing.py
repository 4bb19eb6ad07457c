"""How long a restore takes: the chosen model timed on pieces of an archive's own files, as an actor would restore them.

Survey and dry run reckon with this. Knows no Ray.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from driftrec.errors import BadImage
from driftrec.image import Picture, decode, encode
from driftrec.jpeg.codec import middle
from driftrec.restoration.options import Sampling
from driftrec.restoration.restorer import Restorer
from pipeline.model_source import Weights

SIDE = 512  # pixels: of the pieces that are restored, the side of a tile
WARM_SIDE = 128
MOST = 16  # that measure at once; more are reckoned from them
START_S = 8.0  # of Ray and the actors, until the first image: a run of one image with --model identity takes 7 s


class Limits(NamedTuple):
    """How pieces are restored, and for how long."""

    seed: int
    max_pixels: int
    seconds: float
    device: str | None = None  # None: a GPU where there is one


class Piece(NamedTuple):
    """What is restored."""

    key: str
    picture: Picture  # the middle of a file's
    decoding: float  # seconds that fall to it


@dataclass
class Timed:
    """What one process has restored."""

    device: str  # as PyTorch names it
    pieces: int = 0
    pixels: int = 0
    nfe: int = 0  # evaluations of the network
    seconds: float = 0.0


def calibrate(
    files: Sequence[tuple[str, bytes]],
    weights: Weights,
    sampling: Sampling,
    limits: Limits,
    turn: int,
) -> Timed:
    """Decode, restore and encode pieces of the files, (key, bytes), from the `turn`-th on, until the time is over; at
    least one, if one can be decoded.
    """
    return time_pieces(weights.load(limits.device), pieces_of(files, limits.max_pixels), sampling, limits, turn)


def pieces_of(files: Sequence[tuple[str, bytes]], max_pixels: int) -> list[Piece]:
    """Of those that can be decoded."""
    return [piece for key, data in files for piece in _piece(key, data, max_pixels)]


def time_pieces(
    restorer: Restorer, pieces: Sequence[Piece], sampling: Sampling, limits: Limits, turn: int
) -> Timed:
    """Restore and encode them, from the `turn`-th on, until the time is over; at least one, if there is one that the
    model takes.
    """
    import torch

    torch.set_num_threads(1)  # as the actors of a restore
    total = Timed(str(restorer.device))
    if not pieces:
        return total
    warm = _part(pieces[0].picture, WARM_SIDE)
    try:
        restorer.restore([warm], ["warm"], limits.seed, sampling)  # the first call is slower
    except BadImage:
        return total  # a model that takes whole files alone
    begun = time.perf_counter()
    while not total.pieces or time.perf_counter() - begun < limits.seconds:
        key, picture, decoding = pieces[(turn + total.pieces) % len(pieces)]
        start = time.perf_counter()
        (restored,) = restorer.restore([picture], [key], limits.seed, sampling)
        encode(restored.picture, "png")
        total.seconds += time.perf_counter() - start + decoding
        total.pixels += picture.width * picture.height
        total.pieces += 1
        total.nfe += restored.nfe
    return total


def _piece(key: str, data: bytes, max_pixels: int) -> list[Piece]:
    """None where it cannot be decoded."""
    begun = time.perf_counter()
    try:
        picture = decode(data, key, max_pixels)
    except BadImage:
        return []
    seconds, part = time.perf_counter() - begun, _part(picture, SIDE)
    return [Piece(key, part, seconds * part.width * part.height / (picture.width * picture.height))]


def _part(picture: Picture, side: int) -> Picture:
    """The middle of a picture, no longer than a side; it keeps to the JPEG grid of an upright file."""
    part = middle(picture.rgb.shape, side)
    alpha = None if picture.alpha is None else picture.alpha[part].copy()
    return replace(picture, rgb=picture.rgb[part].copy(), alpha=alpha, constraint=None)
