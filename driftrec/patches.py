"""Training pairs: native-scale crops of clean photographs and their JPEGs, drawn from a generator keyed by (seed,
epoch, key).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from driftrec.jpeg import degrade

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class PatchConfig:
    """What is drawn from each photograph, and how it is damaged."""

    size: int = 64  # side of a patch, pixels; a multiple of 16 keeps whole 4:2:0 blocks
    per_image: int = 8  # patches drawn from a photograph each epoch
    quality_min: int = 5  # JPEG quality factor, 0..100
    quality_max: int = 95
    quality_power: float = 2.0  # quality = min + (max - min) u^power: above 1, more of the low ones
    share_444: float = 0.25  # without chroma subsampling; the rest is 4:2:0
    share_grey: float = 0.05
    share_double: float = 0.1  # compressed before, at another quality and an unaligned grid

    def __post_init__(self) -> None:
        if self.size < 16 or self.per_image < 1:
            raise ValueError(f"need size >= 16 and per_image >= 1, got {self.size} and {self.per_image}")
        if not 0 <= self.quality_min <= self.quality_max <= 100:
            raise ValueError(
                f"need 0 <= quality_min <= quality_max <= 100, got {self.quality_min} and {self.quality_max}"
            )


def generator_for(*key: str | int) -> np.random.Generator:
    """The same key gives the same draws, whatever the process, worker or order."""
    digest = hashlib.sha256("\0".join(map(str, key)).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def draw_patches(image: Pixels, config: PatchConfig, seed: int, epoch: int, key: str) -> tuple[Pixels, Pixels]:
    """(H, W, 3) uint8 -> clean and damaged (N, size, size, 3) uint8. Raises ValueError for an image smaller than a
    patch.
    """
    rng = generator_for("patches", seed, epoch, key)
    if min(image.shape[:2]) < config.size:
        raise ValueError(
            f"{key}: {image.shape[1]}x{image.shape[0]} is smaller than a patch of {config.size}x{config.size}"
        )
    pairs = [_draw_pair(image, config, rng) for _ in range(config.per_image)]
    return np.stack([clean for clean, _ in pairs]), np.stack([damaged for _, damaged in pairs])


def _draw_pair(image: Pixels, config: PatchConfig, rng: np.random.Generator) -> tuple[Pixels, Pixels]:
    doubled = rng.random() < config.share_double and min(image.shape[:2]) >= config.size + 8
    margin = 8 if doubled else 0  # room for the first grid's shift
    clean = _crop(image, config.size + margin, rng)
    if rng.random() < config.share_grey:
        luma = clean @ np.array([0.299, 0.587, 0.114])  # BT.601
        clean = np.repeat(luma.round().astype(np.uint8)[..., None], 3, axis=2)
    subsampling = "4:4:4" if rng.random() < config.share_444 else "4:2:0"
    damaged = clean
    if doubled:
        damaged = degrade(damaged, _draw_quality(config, rng), subsampling)
        top, left = rng.integers(0, margin, size=2)
        inner = np.s_[top : top + config.size, left : left + config.size]
        clean, damaged = clean[inner], np.ascontiguousarray(damaged[inner])
    return clean, degrade(damaged, _draw_quality(config, rng), subsampling)


def _crop(image: Pixels, size: int, rng: np.random.Generator) -> Pixels:
    """A random square in one of its eight orientations."""
    top, left = (rng.integers(0, side - size + 1) for side in image.shape[:2])
    patch = np.rot90(image[top : top + size, left : left + size], k=int(rng.integers(4)))
    return np.ascontiguousarray(patch[:, ::-1] if rng.integers(2) else patch)


def _draw_quality(config: PatchConfig, rng: np.random.Generator) -> int:
    span = config.quality_max - config.quality_min
    return config.quality_min + round(span * rng.random() ** config.quality_power)
