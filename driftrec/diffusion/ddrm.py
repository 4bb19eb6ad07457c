"""DDRM-JPEG (Kawar, Song, Ermon, Elad 2022): a diffusion that never saw a JPEG restores one, held in each step to what
its code says. The quality is known: the code is D(E(x)), what is left of an image that is encoded and decoded.

    ddrm(estimate, y, code, noise, levels) -> image        all images: (B, 3, H, W) in [-1, 1]

`estimate(x, i)` gives the noise in x, whose share of a clean image is sqrt(levels[i]); `noise(step)` standard normal
noise like y. Two codes: `published`, in the terms of the authors' public code, and `of_file`, which is libjpeg itself
with a file's own tables and subsampling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from driftrec.diffusion.process import Process
from driftrec.jpeg.codec import degrade_by, subsampling_code
from driftrec.jpeg.headers import standard_tables
from driftrec.networks.block_dct import blocks, joined, to_coefficients, to_samples

Code = Callable[[Tensor], Tensor]  # (B, 3, H, W) in [-1, 1] -> the same

STEPS, FROM, TRAINED = 20, 300, 1000  # steps of a sample; it starts below this one of the steps that were trained
THEIR_YCC = ((0.299, 0.587, 0.114), (-0.1687, -0.3313, 0.5), (0.5, -0.4187, -0.0813))  # as their code rounds it


def times(steps: int = STEPS, start: int = FROM) -> list[int]:
    """Indices of trained steps, falling: 285, 270, ..., 0 for 20 steps from 300. Raises ValueError for steps that do
    not divide the start.
    """
    if steps < 1 or start % steps:
        raise ValueError(f"steps must divide the start, got {steps} and {start}")
    return list(range(0, start, start // steps))[::-1]


def linear_levels(indices: Sequence[int], first: float = 1e-4, last: float = 0.02) -> Tensor:
    """Products of 1 - beta up to these steps, beta linear from first to last (Ho et al. 2020); float64."""
    kept = (1 - torch.linspace(first, last, TRAINED, dtype=torch.float64)).cumprod(0)
    return kept[list(indices)]


def of_denoiser(
    denoise: Callable[[Tensor, Tensor, Tensor], Tensor], process: Process, indices: Sequence[int]
) -> tuple[Callable[[Tensor, int], Tensor], Tensor]:
    """(estimate, levels) of a model of ours that was trained on clean images alone: with grey in place of the JPEG, and
    a process that keeps none of it (`conditional`).
    """
    moments = (torch.tensor(indices, dtype=torch.float64) + 1) / TRAINED
    levels = process.mean_coefficient(moments) ** 2

    def estimate(x: Tensor, i: int) -> Tensor:
        pixels = (x + 1) / 2
        x0 = 2 * denoise(pixels, torch.full_like(pixels, 0.5), moments[i]) - 1
        return (x - levels[i].sqrt().to(x) * x0) / (1 - levels[i]).sqrt().to(x)

    return estimate, levels


def ddrm(
    estimate: Callable[[Tensor, int], Tensor],
    y: Tensor,
    code: Code,
    noise: Callable[[int], Tensor],
    levels: Tensor,
    *,
    eta: float = 1.0,
    eta_b: float = 0.4,
) -> Tensor:
    """Their sampler: y is the decoded file. Each step estimates x0, moves that by eta_b towards an image with the
    file's code, and adds noise anew (eta) and as estimated (1 - eta). One evaluation a level; clamped at the very end.
    """
    kept, lost = levels.sqrt().to(y), (1 - levels).sqrt().to(y)
    x = kept[0] * y + lost[0] * noise(0)
    for i in range(len(levels)):
        e = estimate(x, i)
        x0 = (x - lost[i] * e) / kept[i]
        agreed = x0 - code(x0) + y
        x = eta_b * agreed + (1 - eta_b) * x0
        if i + 1 < len(levels):
            x = kept[i + 1] * x + lost[i + 1] * (eta * noise(i + 1) + (1 - eta) * e)
    return x.clamp(-1, 1)


def published(quality: int) -> Code:
    """Their operators at this quality: chroma of every second pixel, doubled by repetition; nothing is clipped. Sides
    are multiples of 16.
    """
    tables = [torch.tensor(table, dtype=torch.float64).reshape(8, 8) for table in standard_tables(quality)]
    return partial(_published, tables=(tables[0], tables[1], tables[1]))


def _published(x: Tensor, tables: Sequence[Tensor]) -> Tensor:
    if x.shape[-1] % 16 or x.shape[-2] % 16:
        raise ValueError(f"the published operators take sides that are multiples of 16, got {tuple(x.shape[-2:])}")
    mix = torch.tensor(THEIR_YCC, dtype=torch.float64)
    ycc = torch.einsum("pc,bchw->bphw", mix.to(x), (x + 1) * 127.5)
    planes = [ycc[:, :1] - 128, ycc[:, 1:2, ::2, ::2], ycc[:, 2:, ::2, ::2]]  # chroma's offset, taken away again
    decoded = [to_samples(_quantised(plane, table)) for plane, table in zip(planes, tables, strict=True)]
    chroma = [plane.repeat_interleave(2, -1).repeat_interleave(2, -2) for plane in decoded[1:]]
    rgb = torch.einsum("cp,bphw->bchw", mix.inverse().to(x), torch.cat([decoded[0] + 128, *chroma], dim=1))
    return rgb / 127.5 - 1


def _quantised(samples: Tensor, table: Tensor) -> Tensor:
    """Coefficients of a plane, each rounded to a multiple of its step."""
    steps = table.to(samples)
    return joined((blocks(to_coefficients(samples)) / steps).round() * steps)


def of_file(tables: Sequence[Sequence[int]], subsampling: str) -> Code:
    """libjpeg's own, with these tables (of 64 steps each, row by row; luma and chroma). Raises InvalidInput for a
    subsampling that it does not write.
    """
    subsampling_code(subsampling)  # is one that it writes

    def encoded_and_decoded(x: Tensor) -> Tensor:
        pixels = ((x.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        decoded = np.stack([degrade_by(one, tables, subsampling) for one in pixels])
        return torch.from_numpy(decoded).permute(0, 3, 1, 2).to(x) / 127.5 - 1

    return encoded_and_decoded
