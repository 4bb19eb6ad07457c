"""Batches of training pairs from the tiles that `recipes.photos` leaves. A batch is a function of its number alone, so
that a run goes on where it was, whoever draws: this process, or workers beside it. Knows nothing of networks.
"""

from __future__ import annotations

import io
import signal
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from driftrec.random import generator_for
from driftrec.training.patches import PatchConfig, draw_patches

Pixels = NDArray[np.uint8]  # (H, W, 3)
Batch = tuple[Tensor, Tensor]  # clean, damaged: (B, 3, size, size) uint8

SEEN = 16  # tiles that batches draw from, whose scores stand beside those
AHEAD = 4  # batches that each worker draws in advance


@dataclass(frozen=True)
class Photographs:
    """Tiles by name."""

    train: dict[str, Pixels]
    held_out: dict[str, Pixels]  # no batch draws from these: scores along the way are of them

    def seen(self, count: int = SEEN) -> dict[str, Pixels]:
        """So many of those trained on, from all over."""
        names = sorted(self.train)
        return {name: self.train[name] for name in names[:: max(1, len(names) // count)][:count]}


def read_photographs(data: Path) -> Photographs:
    """The tiles under DATA/train, and those under DATA/held_out, which are of other photographs.

    Raises FileNotFoundError naming the folder that has none.
    """
    found = {folder: dict(read_tiles(data / folder)) for folder in ("train", "held_out")}
    for folder, of in found.items():
        if not of:
            raise FileNotFoundError(f"{data / folder}: no tiles; make them with: python -m recipes.photos {data}")
    return Photographs(found["train"], dict(sorted(found["held_out"].items())))


def read_tiles(folder: Path) -> Iterator[tuple[str, Pixels]]:
    """Name and pixels of each image in the tars of a folder."""
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as archive:
            for member in archive:
                file = archive.extractfile(member)
                if file is not None:
                    yield member.name, np.asarray(Image.open(io.BytesIO(file.read())).convert("RGB"))


class Batches(Dataset[Batch]):
    """Batch number n, for any n: `size` patches, each of another tile, in an order of its own every epoch."""

    def __init__(self, tiles: dict[str, Pixels], patches: PatchConfig, size: int, seed: int = 0) -> None:
        self.tiles = {name: pixels for name, pixels in sorted(tiles.items()) if patches.fits(*pixels.shape[:2])}
        self.names = list(self.tiles)
        self.patches, self.size, self.seed = patches, size, seed

    def __getitem__(self, number: int) -> Batch:
        pairs = [self._pair(number * self.size + i) for i in range(self.size)]
        clean, damaged = (torch.from_numpy(np.stack(side)).permute(0, 3, 1, 2) for side in zip(*pairs, strict=True))
        return clean, damaged

    def _pair(self, item: int) -> tuple[Pixels, Pixels]:
        epoch, place = divmod(item, len(self.names))
        name = self.names[int(generator_for("order", self.seed, epoch).permutation(len(self.names))[place])]
        clean, damaged = draw_patches(self.tiles[name], self.patches, self.seed, epoch, name)
        return clean[0], damaged[0]

    def since(self, number: int, workers: int) -> Iterator[Batch]:
        """Batches from this number on, without end, drawn by so many processes beside this one."""
        ahead = AHEAD if workers else None
        numbers = range(number, sys.maxsize)
        return iter(
            DataLoader(
                self,
                batch_size=None,
                sampler=numbers,
                num_workers=workers,
                prefetch_factor=ahead,
                worker_init_fn=heedless,
            )
        )


def heedless(worker: int) -> None:  # noqa: ARG001
    """Signals are for the process that trains, which ends its workers after its last step; a terminal, timeout and
    systemd send theirs to both.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
