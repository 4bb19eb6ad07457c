"""Noise that belongs to an image: a function of (seed, key, sample, step, pixel position), never of batch, tile,
worker or order.

Drawn in one of two ways, each with values of its own. By NumPy, on the CPU: each block of 64x64 pixels at an absolute
position has its own stream of a counter-based generator, so any region of an image can be drawn alone and fits its
neighbours. Or where the network computes: a counter-based generator in integers, whose counter is the position, and a
table; what rounds is one addition, so that every device draws the same values.
"""

from __future__ import annotations

from functools import lru_cache
from statistics import NormalDist
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from driftrec.random import philox_key

BLOCK = 64  # side of a block, pixels
CHANNELS = 3

# Philox4x32-10 (Salmon et al., SC 2011): multipliers of the first and third word, what is added to the key's words in
# every round, and rounds.
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
WORD = 0xFFFFFFFF  # the 32 bits of a word, which stands in an int64 whose products wrap
HALF = 16  # bits of a word by which the table is asked
Noise = Literal["cpu", "device"]  # where it is drawn
Words = tuple[Tensor, Tensor, Tensor, Tensor]


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
    device: torch.device | None = None,
) -> Tensor:
    """Standard normal noise for the region (top, left, height, width) of the image `key`: (3, height, width) float32.
    By NumPy, or with other values on a device, the same on all: sums of two of 65536 quantiles, at most 6.12.
    """
    stream = philox_key(seed, key)
    if device is not None:
        return _on_device(height, width, stream, step, sample, top, left, device)
    rows = range(top // BLOCK, -(-(top + height) // BLOCK))
    columns = range(left // BLOCK, -(-(left + width) // BLOCK))
    blocks = [[_block(stream, (sample << 32) + step, row, column) for column in columns] for row in rows]
    whole = np.concatenate([np.concatenate(line, axis=2) for line in blocks], axis=1)
    y, x = top - rows.start * BLOCK, left - columns.start * BLOCK
    return torch.from_numpy(np.ascontiguousarray(whole[:, y : y + height, x : x + width]))


def _block(stream: int, step: int, row: int, column: int) -> np.ndarray:
    counter = np.array([0, step, row, column], dtype=np.uint64)  # the first word counts the draws
    generator = np.random.Generator(np.random.Philox(key=stream, counter=counter))
    return generator.standard_normal((CHANNELS, BLOCK, BLOCK), dtype=np.float32)


def _on_device(
    height: int, width: int, stream: int, step: int, sample: int, top: int, left: int, device: torch.device
) -> Tensor:
    rows = torch.arange(top, top + height, device=device)[:, None].expand(height, width)
    columns = torch.arange(left, left + width, device=device).expand(height, width)
    words = philox((columns, rows, torch.full_like(rows, step), torch.full_like(rows, sample)), stream)
    table = quantiles(device)
    return torch.stack([table[word & (2**HALF - 1)] + table[word >> HALF] for word in words[:CHANNELS]])


def philox(counter: Words, key: int) -> Words:
    """Four words of 32 random bits for each counter of four such words, all int64; of the key the lowest 64 bits."""
    a, b, c, d = counter
    first, second = key & WORD, key >> 32 & WORD
    for _ in range(ROUNDS):
        of_a, of_c = a * MULTIPLIERS[0], c * MULTIPLIERS[1]
        a, b, c, d = (of_c >> 32 & WORD) ^ b ^ first, of_c & WORD, (of_a >> 32 & WORD) ^ d ^ second, of_a & WORD
        first, second = first + WEYL[0] & WORD, second + WEYL[1] & WORD
    return a, b, c, d


@lru_cache(maxsize=16)
def quantiles(device: torch.device) -> Tensor:
    """The normal distribution's, in the middles of 65536 equal parts, scaled to a variance of 1/2: float32."""
    parts = 2**HALF
    lower = np.array([NormalDist().inv_cdf((part + 0.5) / parts) for part in range(parts // 2)])
    both = np.concatenate([lower, -lower[::-1]])
    return torch.from_numpy((both / np.sqrt(2 * both.var())).astype(np.float32)).to(device)
