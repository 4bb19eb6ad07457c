"""Training pairs: crops of clean photographs, and their JPEGs or the same crops of damaged photographs, drawn from a
generator keyed by (seed, epoch, key).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from driftrec.jpeg.codec import LUMA, degrade
from driftrec.random import generator_for

Pixels = NDArray[np.uint8]

MARGIN = 8  # pixels: room for the shift of the first grid of a double compression
GAMMA = 0.4  # of recoloured patches: the largest logarithm, up and down
CONTRAST = (0.6, 1.2)  # of recoloured patches
TRIES = 10  # of a resized crop, before the largest square in the middle is taken


@dataclass(frozen=True)
class PatchConfig:
    """What is drawn from each photograph, and how it is damaged."""

    size: int = 64  # side of a patch, pixels; a multiple of 16 keeps whole 4:2:0 blocks
    per_image: int = 8  # patches drawn from a photograph each epoch
    crop: Literal["native", "resized"] = "native"  # squares of `size` as they are (or reduced), or resampled to it
    share_reduced: float = 0.0  # of native crops: by a whole factor from 2 to largest_reduction, as far as it fits
    largest_reduction: int = 4  # the largest such factor
    share_scaled: float = 0.0  # of native crops that are not reduced: by any factor from 1 to 2, as far as it fits
    smallest_scale: float = 0.2  # of resized crops: share of the photograph's area, up to 1
    turn: bool = True  # each crop in one of its eight orientations
    share_recoloured: float = 0.0  # channels in another order, contrast and gamma changed: against few photographs
    small: Literal["skip", "reflect"] = "skip"  # a photograph smaller than a patch: left out, or mirrored at its edges
    quality_min: int = 5  # smallest JPEG quality factor, from 0
    quality_max: int = 95  # largest JPEG quality factor, to 100
    quality_power: float = 2.0  # quality = min + (max - min) u^power: above 1, more of the low ones
    share_444: float = 0.25  # without chroma subsampling; the rest is 4:2:0
    share_grey: float = 0.05  # without colours
    share_double: float = 0.1  # compressed before, at another quality and an unaligned grid

    def __post_init__(self) -> None:
        if self.size < 16 or self.per_image < 1 or self.largest_reduction < 2:
            raise ValueError(
                "need size >= 16, per_image >= 1 and largest_reduction >= 2, "
                f"got {self.size}, {self.per_image} and {self.largest_reduction}"
            )
        if not 0 <= self.quality_min <= self.quality_max <= 100 or not self.quality_power > 0:
            raise ValueError(
                "need 0 <= quality_min <= quality_max <= 100 and quality_power > 0, "
                f"got {self.quality_min}, {self.quality_max} and {self.quality_power}"
            )
        for name in ("share_reduced", "share_scaled", "share_recoloured", "share_444", "share_grey", "share_double"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in 0..1, got {getattr(self, name)}")
        if not 0 < self.smallest_scale <= 1:
            raise ValueError(f"need 0 < smallest_scale <= 1, got {self.smallest_scale}")

    def fits(self, height: int, width: int) -> bool:
        """Whether a photograph of this size gives patches."""
        return self.small == "reflect" or min(height, width) >= self.size


def draw_patches(image: Pixels, config: PatchConfig, seed: int, epoch: int, key: str) -> tuple[Pixels, Pixels]:
    """(H, W, 3) uint8 -> clean and damaged (N, size, size, 3) uint8. Raises ValueError for an image smaller than a
    patch, if those are to be skipped.
    """
    rng = generator_for("patches", seed, epoch, key)
    image = _enlarge(image, config, key)
    pairs = [_draw_pair(image, config, rng) for _ in range(config.per_image)]
    return np.stack([clean for clean, _ in pairs]), np.stack([damaged for _, damaged in pairs])


def draw_paired(
    clean: Pixels, damaged: Pixels, config: PatchConfig, seed: int, epoch: int, key: str
) -> tuple[Pixels, Pixels]:
    """Clean and damaged photograph, both (H, W, 3) uint8 -> patches of both, cut at the same places at native scale:
    (N, size, size, 3) uint8 each. No JPEG is applied. Raises ValueError as `draw_patches`, and for two sizes.
    """
    if clean.shape != damaged.shape:
        raise ValueError(f"{key}: a pair needs one shape, got {clean.shape} and {damaged.shape}")
    rng = generator_for("patches", seed, epoch, key)
    both = _enlarge(np.concatenate([clean, damaged], axis=2), config, key)
    patches = np.stack([_turn(_square(both, config.size, rng), config, rng) for _ in range(config.per_image)])
    return np.ascontiguousarray(patches[..., :3]), np.ascontiguousarray(patches[..., 3:])


def _enlarge(image: Pixels, config: PatchConfig, key: str) -> Pixels:
    """The image with reflections at the right and the bottom where it is smaller than a patch."""
    lacking = [max(0, config.size - side) for side in image.shape[:2]]
    if not any(lacking):
        return image
    if config.small == "skip":
        raise ValueError(
            f"{key}: {image.shape[1]}x{image.shape[0]} is smaller than a patch of {config.size}x{config.size}"
        )
    return np.pad(image, [(0, lacking[0]), (0, lacking[1]), (0, 0)], mode="symmetric")


def _draw_pair(image: Pixels, config: PatchConfig, rng: np.random.Generator) -> tuple[Pixels, Pixels]:
    doubled = rng.random() < config.share_double and min(image.shape[:2]) >= config.size + MARGIN
    margin = MARGIN if doubled else 0
    clean = _crop(image, config.size + margin, config, rng)
    if config.share_recoloured and rng.random() < config.share_recoloured:
        clean = _recoloured(clean, rng)
    if rng.random() < config.share_grey:
        luma = clean @ np.array(LUMA)
        clean = np.repeat(luma.round().astype(np.uint8)[..., None], 3, axis=2)
    subsampling = "4:4:4" if rng.random() < config.share_444 else "4:2:0"
    damaged = clean
    if doubled:
        damaged = degrade(damaged, draw_quality(config, rng), subsampling)
        top, left = rng.integers(0, margin, size=2)
        inner = np.s_[top : top + config.size, left : left + config.size]
        clean, damaged = clean[inner], np.ascontiguousarray(damaged[inner])
    return clean, degrade(damaged, draw_quality(config, rng), subsampling)


def _crop(image: Pixels, size: int, config: PatchConfig, rng: np.random.Generator) -> Pixels:
    """A random square of the photograph as (size, size, 3)."""
    if config.crop == "resized":
        return _turn(_resized(image, size, config, rng), config, rng)
    factor = 1
    if config.share_reduced and rng.random() < config.share_reduced:
        factor = min(int(rng.integers(2, config.largest_reduction + 1)), min(image.shape[:2]) // size)
    elif config.share_scaled and rng.random() < config.share_scaled:
        side = int(rng.integers(size, min(2 * size, *image.shape[:2]) + 1))
        square = Image.fromarray(np.ascontiguousarray(_square(image, side, rng)))
        return _turn(np.asarray(square.resize((size, size), Image.Resampling.BICUBIC)), config, rng)
    square = _square(image, factor * size, rng)
    if factor > 1:
        square = np.asarray(Image.fromarray(np.ascontiguousarray(square)).reduce(factor))
    return _turn(square, config, rng)


def _recoloured(patch: Pixels, rng: np.random.Generator) -> Pixels:
    """Another picture of the same shapes: channels in any order, another gamma, more or less contrast."""
    values = (patch[..., rng.permutation(3)] / 255) ** np.exp(rng.uniform(-GAMMA, GAMMA))
    middle = values.mean()
    values = middle + rng.uniform(*CONTRAST) * (values - middle)
    return (values.clip(0, 1) * 255).round().astype(np.uint8)


def _resized(image: Pixels, size: int, config: PatchConfig, rng: np.random.Generator) -> Pixels:
    """A square whose area is a uniformly drawn share of the photograph's, resampled with an antialiased triangle
    filter: what torchvision's RandomResizedCrop does for the ratio 1.
    """
    height, width = image.shape[:2]
    for _ in range(TRIES):
        side = round(math.sqrt(height * width * rng.uniform(config.smallest_scale, 1.0)))
        if 0 < side <= min(height, width):
            square = _square(image, side, rng)
            break
    else:
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = image[top : top + side, left : left + side]
    resampled = Image.fromarray(np.ascontiguousarray(square)).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(resampled)


def _square(image: Pixels, side: int, rng: np.random.Generator) -> Pixels:
    """A square at a random place."""
    top, left = (rng.integers(0, length - side + 1) for length in image.shape[:2])
    return image[top : top + side, left : left + side]


def _turn(patch: Pixels, config: PatchConfig, rng: np.random.Generator) -> Pixels:
    """In one of the eight orientations."""
    if config.turn:
        patch = np.rot90(patch, k=int(rng.integers(4)))
        patch = patch[:, ::-1] if rng.integers(2) else patch
    return np.ascontiguousarray(patch)


def draw_quality(config: PatchConfig, rng: np.random.Generator) -> int:
    """A JPEG quality factor, as the config spreads them."""
    count = config.quality_max - config.quality_min + 1
    return config.quality_min + int(count * rng.random() ** config.quality_power)
