"""Whether a JPEG file was compressed before: evidence in its DCT coefficients, on its own grid and on others.

On the same grid: an earlier quantisation with step q1 leaves multiples of q1, which the file's own step q2 sorts into
its bins unevenly, with a period. For every libjpeg quality the likelihood of the levels' histograms (AC, low
frequencies) is compared with that of a single compression. To compare steps so is the idea of Lukas and Fridrich
("Estimation of primary quantization matrix in double compressed JPEG images", DFRWS 2003); where they take the
coefficients before quantisation from the cropped image, here they are a mixture of Gaussians of mean 0 that is fitted
to each case, so that only the period counts.

On another grid (the image was cropped in between): on the grid of the earlier compression, and on no other,
coefficients gather around multiples of q1, blurred by the later rounding (Bianchi and Piva, "Detection of nonaligned
double JPEG compression based on integer periodicity maps", IEEE TIFS 2012). All 64 grids are looked at; what counts is
how far one stands out from the others.

Pictures that are drawn on a raster (pixel art, codes of squares, ruled tables, text of one width) show rhythms like
these without any compression. So a verdict must stand a last test, on the grid and for the table that it speaks for: of
many blocks that differ, the coefficients lie on multiples of the steps, more often than chance has it (after Farid,
"Exposing digital forgeries from JPEG ghosts", IEEE TIFS 2009).

Neither sees a first compression whose steps are fine beside the second's, one with the same tables on the same grid, or
one before the image was resized. How often which is seen stands in docs/results/survey.md.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL.JpegImagePlugin import JpegImageFile
from scipy.fft import dctn
from scipy.special import ndtr

from driftrec.jpeg.codec import middle
from driftrec.jpeg.headers import ZIGZAG, Table, inspect, standard_tables
from driftrec.jpeg.older_blocks import middle_luma, suspected

Array = NDArray[np.float32]
Floats = NDArray[np.float64]

LOSSLESS = (1,) * 64  # the table of what is stored as it is
WINDOW, LEAST = 512, 64  # pixels: side of the window that is looked at, and what evidence needs
QUALITIES = range(5, 100)  # that an earlier compression may have had
STEPS = np.array([standard_tables(quality)[0] for quality in QUALITIES])  # (qualities, 64)

# On the same grid.
MODES = ZIGZAG[1:21]
LEVELS = 64  # of a histogram; all larger ones stand in one more
SCALES = 2.0 ** np.arange(-1.5, 8.6, 0.5)  # standard deviations of the Gaussians, in units of coefficients
ROUNDS = 60  # of fitting their weights
FINE_STEP = 5  # an earlier step this many times finer than the file's own leaves nothing to see
FLOOR = 1e-12  # of a probability
SHAPES = 200  # distributions that are kept, of 0.3 MB: those of ten tables
FEWEST = 20  # levels other than 0 that a histogram must have to tell anything
NOISE = 0.5  # standard deviation that the roundings to 8-bit RGB between two compressions give a coefficient
STRAY = 0.03  # share of coefficients that these do not explain: clipped blocks
FULL = 1024  # blocks; of more, the evidence counts as if it came from so many, and so does what the model cannot fit
ALIGNED_LIMIT = 20.0  # natural logarithm of the likelihood ratio

# On other grids.
LOW = ((0, 0), (0, 1), (1, 0), (1, 1))  # frequencies down and across that are looked at; DC alone as well
BINS = 1100  # of whole absolute coefficients: 8 * 128 for DC, and some more
SOFT = 4.0  # added to a variance: so that few coefficients do not stand out
INNER_LIMIT = 6.5  # standard deviations of the other grids
CROSS_LIMIT = 20.0  # of the grids that share rows or columns with the file's own, whose steps show there
STRONG, STRONG_APART = 50.0, 4.0  # evidence on its own grid and on another that counts where it cannot be tested
FEWEST_MODES = 6  # of MODES, that must be telling for a test
LATTICE = 400  # multiples of a file's own step that are looked at
ROUNDED = 1.5  # what the roundings to pixels move a coefficient by, at most, nearly always
COARSE = (*range(5, 16), 18, 20, 22, 25, 28, 30)  # qualities that leave few coefficients, and those far apart
KEPT, DIFFERENT = 0.2, 40  # share of coefficients on multiples, beyond chance; of so many blocks that differ
FINE_LIMIT, FINE_CROSS_LIMIT, FINE = 5.0, 8.0, 4  # both where the file's own step of DC is at most the last

BASIS = np.array(
    [[(1 if u == 0 else 2**0.5) * np.cos((2 * x + 1) * u * np.pi / 16) / 8**0.5 for x in range(8)] for u in range(2)],
    np.float32,
)


@dataclass(frozen=True)
class Earlier:
    """Evidence of an earlier compression, in units of what is enough for a verdict, and which it would be."""

    aligned: float  # on the file's own grid; may be negative
    aligned_quality: int  # libjpeg's, 5 to 99
    shifted: float  # on another grid
    shifted_quality: int
    offset: tuple[int, int]  # 0 to 7: the rows and columns that were cut off that grid
    # verdicts that are not certain: the file's own steps are too coarse for the last test, and the evidence is weak
    uncertain: tuple[str, ...] = ()

    @property
    def found(self) -> str:
        """The verdict: "aligned", "shifted", or "" for none."""
        if max(self.aligned, self.shifted) <= 1:
            return ""
        return "aligned" if self.aligned >= self.shifted else "shifted"

    @property
    def quality(self) -> int | None:
        """Of the earlier compression; None without a verdict. Right where its tables were libjpeg's."""
        return {"aligned": self.aligned_quality, "shifted": self.shifted_quality}.get(self.found)

    @property
    def certain(self) -> int | None:
        """The same, of a verdict that is certain."""
        return None if self.found in self.uncertain else self.quality


def earlier_in(data: bytes) -> Earlier | None:
    """`earlier` of a whole JPEG file; None of one that is not of 8-bit Y, Cb, Cr or grey, too.

    Raises BadImage, or what Pillow raises, for a file that cannot be decoded.
    """
    image = JpegImageFile(io.BytesIO(data))
    tables = inspect(data).tables
    if _is_rgb(image) or not tables:
        return None
    image.draft("YCbCr", image.size)
    if image.mode not in ("YCbCr", "L"):
        return None
    pixels = np.asarray(image)
    return earlier((pixels if pixels.ndim == 2 else pixels[..., 0]).astype(np.float32), tables[0])


def _is_rgb(image: JpegImageFile) -> bool:
    """Whether three components are red, green and blue: libjpeg's own rule (jdapimin.c), which then has no YCbCr."""
    if len(image.layer) != 3 or "jfif" in image.info:
        return False
    if "adobe_transform" in image.info:
        return image.info["adobe_transform"] == 0
    return bytes(layer[0] for layer in image.layer) == b"RGB"


def older_compression(stored: NDArray[Any], table: Table, quality: int) -> Earlier | None:
    """What shows of a compression before, at a lower quality; None where no such is certain.

    Args:
        stored: luma (H, W) or RGB (H, W, 3), as its file stores it.
        table: of the file's luma, in row order.
        quality: of the file.
    """
    if not suspected(stored, quality):
        return None
    found = earlier(middle_luma(stored), table)
    return found if found and found.certain and found.certain < quality else None


def once_jpeg(stored: NDArray[Any]) -> Earlier | None:
    """What shows of a JPEG in pixels that came in a file of another format, or in none; None where none is certain.

    stored: luma (H, W) or RGB (H, W, 3), from 0 to 255.
    """
    luma = middle_luma(stored)
    found = earlier(luma, LOSSLESS)
    if found and found.found == "shifted":  # on its own grid its quality is told better
        rows, columns = (-cut % 8 for cut in found.offset)
        there = earlier(luma[rows:, columns:], LOSSLESS)
        if there and there.found == "aligned":
            found = replace(found, shifted_quality=there.aligned_quality)
    return found if found and found.certain else None


def earlier(luma: Array, table: Table) -> Earlier | None:
    """What shows of an earlier compression.

    Args:
        luma: (H, W), 0 to 255, decoded and as stored: the grid starts at the corner. Of large images the middle counts.
        table: of the file's luma, in row order; LOSSLESS where the file is no JPEG.

    Returns:
        None where there is too little to look at: a side below 64 pixels, or a table with zeros.
    """
    if min(luma.shape) < LEAST or min(table) < 1:
        return None
    window = luma[middle(luma.shape, WINDOW)] - np.float32(128)
    shifted, quality, offset = _shifted(window, table)
    looks = {
        "aligned": (*_aligned(window, table), (0, 0)),
        "shifted": (shifted, quality, offset),
    }
    uncertain = tuple(name for name, look in looks.items() if _is_uncertain(window, table, *look))
    tested = [look[:2] if name in uncertain else _tested(window, table, *look) for name, look in looks.items()]
    return Earlier(*tested[0], *tested[1], offset, uncertain)


def _is_uncertain(window: Array, table: Table, evidence: float, quality: int, offset: tuple[int, int]) -> bool:
    """Whether this evidence can neither be tested nor is strong and of blocks that differ."""
    if evidence <= 1 or _telling(table, quality, offset)[MODES].sum() >= FEWEST_MODES:
        return False
    levels = np.round(_coefficients(window, offset) / np.array(standard_tables(quality)[0]))
    strong = STRONG if offset == (0, 0) else STRONG_APART
    return evidence < strong or len(np.unique(levels, axis=0)) < DIFFERENT


def _tested(window: Array, table: Table, evidence: float, quality: int, offset: tuple[int, int]) -> tuple[float, int]:
    """Evidence and quality, once tested: none where it does not stand; that of a coarse quality where one stands
    alone. Such a quality leaves few coefficients, and those far apart, which the other looks hardly see.
    """
    testable = _telling(table, quality, offset)[MODES].sum() >= FEWEST_MODES
    if evidence > 1 and (not testable or _kept(window, table, quality, offset) > KEPT):
        return evidence, quality
    kept = [_kept(window, table, coarse, offset) for coarse in COARSE]
    best = int(np.argmax(kept))
    return (kept[best] / KEPT, COARSE[best]) if kept[best] > KEPT else (min(evidence, 0.0), quality)


def _reach(table: Table, offset: tuple[int, int]) -> Array:
    """(64,): how far the file's own steps, and roundings, move a coefficient of the grid of that offset. On another
    grid than its own each has a part of the errors of all.
    """
    own = np.array(table, np.float32)
    apart = np.full(64, 2 * np.sqrt(np.mean(own**2) / 12), np.float32)
    return np.asarray((own / 2 if offset == (0, 0) else apart) + ROUNDED, np.float32)


def _telling(table: Table, quality: int, offset: tuple[int, int]) -> NDArray[np.bool_]:
    """(64,): the coefficients of which multiples of a quality's steps can be told apart; never DC."""
    steps = np.array(standard_tables(quality)[0])
    return (steps > 3 * _reach(table, offset)) & (np.arange(64) > 0)


def _kept(window: Array, table: Table, quality: int, offset: tuple[int, int] = (0, 0)) -> float:
    """How much more often than by chance the coefficients other than 0 of blocks that differ lie on multiples of a
    quality's steps, as near as the file's own steps left them; 0 where too few blocks differ.

    offset: rows and columns that were cut off the grid of that quality.
    """
    telling = _telling(table, quality, offset)
    coefficients, reach = _coefficients(window, offset)[:, telling], _reach(table, offset)[telling]
    own, steps = (np.array(steps, np.float32)[telling] for steps in (table, standard_tables(quality)[0]))
    levels = np.round(coefficients / steps)
    different, first = np.unique(levels, axis=0, return_index=True)
    some = different != 0
    if some.any(axis=1).sum() < DIFFERENT:
        return 0.0
    near = (np.abs(coefficients[first] - different * steps) <= reach)[some].mean()
    sizes = np.abs(coefficients[first])
    chance = _chance(own, steps, reach, sizes[some].mean()) if offset == (0, 0) else 2 * reach / steps
    return float(near - np.broadcast_to(chance, some.shape)[some].mean())


def _chance(own: Array, steps: Array, reach: Array, size: float) -> Array:
    """(modes,): the share of multiples of a file's own step, falling off with their size as coefficients do, that lie
    within reach of a multiple other than 0 of another step.
    """
    values = np.arange(1, LATTICE)[:, None] * own
    multiples = np.round(values / steps)
    weights = np.exp(-values / size) * (multiples > 0)
    near = np.abs(values - multiples * steps) <= reach
    return (weights * near).sum(axis=0) / np.maximum(weights.sum(axis=0), FLOOR)


def _coefficients(window: Array, offset: tuple[int, int] = (0, 0)) -> Array:
    """(blocks, 64): of the whole blocks of a grid of which so many rows and columns were cut off."""
    blocks = window[-offset[0] % 8 :, -offset[1] % 8 :]
    height, width = (side // 8 * 8 for side in blocks.shape)
    blocks = blocks[:height, :width].reshape(height // 8, 8, width // 8, 8).swapaxes(1, 2)
    return np.asarray(dctn(blocks, axes=(-2, -1), norm="ortho"), np.float32).reshape(-1, 64)


def _aligned(window: Array, table: Table) -> tuple[float, int]:
    """The evidence, and the quality that explains the levels best."""
    coefficients = _coefficients(window)
    ratios = np.zeros(len(QUALITIES))
    for mode in MODES:
        levels = np.minimum(np.abs(np.round(coefficients[:, mode] / table[mode])), LEVELS).astype(np.intp)
        counts = np.bincount(levels, minlength=LEVELS + 1)
        if counts[1:].sum() < FEWEST:
            continue
        steps, which = np.unique(STEPS[:, mode], return_inverse=True)
        telling = steps * FINE_STEP > table[mode]
        likelihoods = _best_likelihoods(counts, _shapes(tuple(steps[telling].tolist()), table[mode]))
        ratio = np.zeros(len(steps))
        ratio[telling] = likelihoods[1:] - likelihoods[0]
        ratios += ratio[which]
    best = int(ratios.argmax())
    return float(ratios[best] / max(1, len(coefficients) / FULL) / ALIGNED_LIMIT), QUALITIES[best]


def _best_likelihoods(counts: NDArray[np.intp], shapes: Array) -> Floats:
    """Log likelihood of the counts under the mixture that explains them best (expectation maximisation).

    counts: (levels,); shapes: (cases, levels, scales). Gives (cases,).
    """
    weights = np.full((len(shapes), shapes.shape[2], 1), 1 / shapes.shape[2], np.float32)
    turned, shares = shapes.swapaxes(1, 2), (counts[:, None] / counts.sum()).astype(np.float32)
    for _ in range(ROUNDS):
        weights *= turned @ (shares / np.maximum(shapes @ weights, FLOOR))
    return np.asarray(np.log(np.maximum(shapes @ weights, FLOOR), dtype=np.float64)[..., 0] @ counts, np.float64)


@lru_cache(maxsize=SHAPES)
def _shapes(firsts: tuple[int, ...], second: int) -> Array:
    """(1 + firsts, levels, scales): distributions of absolute levels, compressed once, and before that at each step."""
    return np.stack([_single(second), *(_double(first, second) for first in firsts)]).astype(np.float32)


@lru_cache(maxsize=256)
def _single(step: int) -> Floats:
    """(levels, scales)."""
    below = _within((np.arange(LEVELS) + 0.5) * step)
    return np.concatenate([np.diff(below, axis=0, prepend=0), 1 - below[-1:]])


def _double(first: int, second: int) -> Floats:
    """(levels, scales)."""
    multiples = np.arange(-(-(LEVELS + 1) * second // first) + 2)
    shares = np.diff(_within((multiples + 0.5) * first), axis=0, prepend=0)  # of +-multiple
    edges = (np.arange(LEVELS)[:, None] + 0.5) * second
    near = ndtr((edges - multiples * first) / NOISE) - ndtr((-edges - multiples * first) / NOISE)
    levels = np.diff(near @ shares, axis=0, prepend=0)
    levels = np.concatenate([levels, 1 - levels.sum(axis=0, keepdims=True)]).clip(min=0)
    return (1 - STRAY) * levels + STRAY * _single(second)


def _within(reach: NDArray[np.floating[Any]]) -> Floats:
    """(reach, scales): the shares of the Gaussians between -reach and +reach."""
    return 2 * ndtr(reach[:, None] / SCALES) - 1


def _shifted(window: Array, table: Table) -> tuple[float, int, tuple[int, int]]:
    """The evidence, the quality and the grid that it speaks for."""
    strengths = [_rhythm(window, down, across) for down, across in LOW]
    looks = [strengths[0], np.sum(strengths, axis=0) / len(LOW) ** 0.5]
    phases = np.arange(64)
    cross = (phases < 8) | (phases % 8 == 0)
    limits = np.where(cross, *((FINE_CROSS_LIMIT, FINE_LIMIT) if table[0] <= FINE else (CROSS_LIMIT, INNER_LIMIT)))
    limits[0] = np.inf  # its own grid
    evidence = np.max([_standing_out(look) for look in looks], axis=0) / limits[:, None]
    phase, quality = np.unravel_index(int(evidence.argmax()), evidence.shape)
    down, across = divmod(int(phase), 8)
    return float(evidence.max()), QUALITIES[int(quality)], (-down % 8, -across % 8)


def _rhythm(window: Array, down: int, across: int) -> Floats:
    """(64 grids, qualities): how much one coefficient gathers around multiples of each quality's step, in standard
    deviations of coefficients that lie anywhere; those that the step would have made 0 are left out.
    """
    rows = sliding_window_view(window, 8, axis=1) @ BASIS[across]
    size = np.minimum(np.round(np.abs(sliding_window_view(rows, 8, axis=0) @ BASIS[down])), BINS - 1).astype(np.intp)
    phase = np.arange(size.shape[0])[:, None] % 8 * 8 + np.arange(size.shape[1]) % 8
    counts = np.bincount((phase * BINS + size).ravel(), minlength=64 * BINS).reshape(64, BINS)
    steps, which = np.unique(STEPS[:, 8 * down + across], return_inverse=True)
    waves = _waves(tuple(steps.tolist()), down + across == 0)
    return np.asarray((counts @ waves / np.sqrt(counts @ waves**2 + SOFT))[:, which], np.float64)


@lru_cache(maxsize=len(LOW))
def _waves(steps: tuple[int, ...], whole: bool) -> Floats:
    """(bins, steps): cosines that are 1 at the multiples of a step; but for `whole` ones 0 below half of it."""
    size, step = np.arange(BINS)[:, None], np.array(steps)
    return np.cos(2 * np.pi * size / step) * (whole | (size >= step / 2))


def _standing_out(strength: Floats) -> Floats:
    """Of each grid against all of them, quality by quality: distance from the median in robust standard deviations."""
    distance = strength - np.median(strength, axis=0)
    spread = 1.4826 * np.median(np.abs(distance), axis=0)  # of a normal distribution
    return distance / np.maximum(spread, 1)
