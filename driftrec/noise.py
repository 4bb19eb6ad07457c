"""Noise that belongs to an image: a function of (seed, key, sample, step, pixel position), never of batch, tile,
worker or order.

Each block of 64x64 pixels at an absolute position has its own stream of a counter-based generator, so any region of an
image can be drawn alone and fits its neighbours.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from driftrec.random import philox_key

BLOCK = 64  # side of a block, pixels


def gaussian(
    height: int,
    width: int,
    *,
    seed: int,
    key: str,
    step: int = 0,
    sample: int = 0,
    top: int = 0,
    left: int = 0,
    channels: int = 3,
) -> Tensor:
    """Standard normal noise for the region (top, left, height, width) of the image `key`: (channels, height, width)
    float32.
    """
    rows = range(top // BLOCK, -(-(top + height) // BLOCK))
    columns = range(left // BLOCK, -(-(left + width) // BLOCK))
    stream = philox_key(seed, key)
    blocks = [[_block(stream, (sample << 32) + step, row, column, channels) for column in columns] for row in rows]
    whole = np.concatenate([np.concatenate(line, axis=2) for line in blocks], axis=1)
    y, x = top - rows.start * BLOCK, left - columns.start * BLOCK
    return torch.from_numpy(np.ascontiguousarray(whole[:, y : y + height, x : x + width]))


def _block(stream: int, step: int, row: int, column: int, channels: int) -> np.ndarray:
    counter = np.array([0, step, row, column], dtype=np.uint64)  # the first word counts the draws
    generator = np.random.Generator(np.random.Philox(key=stream, counter=counter))
    return generator.standard_normal((channels, BLOCK, BLOCK), dtype=np.float32)
