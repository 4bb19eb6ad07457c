"""The order of training data, and the patches drawn from it: functions of (seed, data, workers). Starts no Ray.

The data is an endless stream of items: all shards, epoch by epoch, in an order drawn from (seed, epoch). Worker r of w
takes the items r, r + w, r + 2w, ... of it, so that all get the same share even of a single shard. A worker gathers
items until it has `shuffle_buffer` patches: that is a window. Its patches are shuffled and cut into batches; fewer than
a batch, left over at its end, are dropped. So a `Position` of two numbers says where a worker is, and going back there
costs one window, whatever the data's size.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from driftrec.errors import BadImage, InvalidInput, Reason
from driftrec.image import decode
from driftrec.random import generator_for
from driftrec.training.patches import PatchConfig, draw_paired, draw_patches
from pipeline.inputs.pairing import Pairing
from pipeline.inputs.shards import Incoming, Shard, rows_of

Pixels = NDArray[np.uint8]
Pair = tuple[Tensor, Tensor]  # clean and damaged patches, (B, 3, size, size) uint8


@dataclass(frozen=True)
class Position:
    """Where a worker is in its stream."""

    item: int = 0  # the first item of its window, counted over the worker's own items
    batch: int = 0  # batches of this window already taken


@dataclass(frozen=True)
class Drawing:
    """How patches are drawn from images; goes to every task."""

    patches: PatchConfig
    seed: int
    max_pixels: int

    @property
    def bytes_per_image(self) -> int:
        """Of the clean patches of one image, and again of the damaged ones."""
        return self.patches.per_image * self.patches.size**2 * 3


@lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, shards: int) -> NDArray[np.int64]:
    """The order of the shards in an epoch."""
    return generator_for("shards", seed, epoch).permutation(shards)


def locate(item: int, rank: int, world: int, seed: int, shards: int) -> tuple[int, int]:
    """(epoch, shard) of an item of one worker."""
    epoch, place = divmod(item * world + rank, shards)
    return epoch, int(epoch_order(seed, epoch, shards)[place])


def draw_shard(shard: Shard, epoch: int, item: int, drawing: Drawing, pairing: Pairing | None = None) -> pa.Table:
    """Patches of all images of a shard: one row per image, at least one; a row with a reason has no patches.

    Columns: item, key, reason, detail, clean and damaged (per_image * size * size * 3 bytes each, or null). With
    `pairing` the damaged patches are cut from what it finds.
    """
    rows: dict[str, list[Any]] = {name: [] for name in ("item", "key", "reason", "detail", "clean", "damaged")}
    images = list(rows_of(shard))
    partners = pairing.find([image.key for image in images]) if pairing else [None] * len(images)
    for image, partner in zip(images, partners, strict=True):
        drawn = (item, image.key, *_draw(image, partner, epoch, drawing))
        for column, value in zip(rows.values(), drawn, strict=True):
            column.append(value)
    if not rows["key"]:
        empty = (item, shard.name, Reason.empty, "no image in it", None, None)
        for column, value in zip(rows.values(), empty, strict=True):
            column.append(value)
    binary, text = pa.binary(drawing.bytes_per_image), pa.string()
    return pa.table(rows, pa.schema(zip(rows, (pa.int64(), text, text, text, binary, binary), strict=True)))


def _draw(
    image: Incoming, partner: Incoming | None, epoch: int, drawing: Drawing
) -> tuple[str, str, bytes | None, bytes | None]:
    """(reason, detail, clean, damaged) of one image."""
    try:
        pixels = decode_row(image, drawing.max_pixels)
        other = None if partner is None else decode_row(partner, drawing.max_pixels, "its partner: ")
    except BadImage as error:
        return error.reason, error.detail, None, None
    size = drawing.patches.size
    if not drawing.patches.fits(*pixels.shape[:2]):
        return Reason.too_small, f"smaller than a patch of {size}x{size}", None, None
    if other is None:
        clean, damaged = draw_patches(pixels, drawing.patches, drawing.seed, epoch, image.key)
    elif other.shape != pixels.shape:
        sizes = (f"{p.shape[1]}x{p.shape[0]}" for p in (other, pixels))
        return Reason.size_mismatch, "its partner has {} pixels, it has {}".format(*sizes), None, None
    else:
        clean, damaged = draw_paired(pixels, other, drawing.patches, drawing.seed, epoch, image.key)
    return "", "", clean.tobytes(), damaged.tobytes()


def decode_row(image: Incoming, max_pixels: int, whose: str = "") -> Pixels:
    """(H, W, 3) uint8. Raises BadImage with the reason that the row has, or that its bytes give."""
    try:
        if image.reason:
            raise BadImage(Reason(image.reason), image.detail)
        return decode(bytes(image.data), image.key, max_pixels).rgb8
    except BadImage as error:
        raise BadImage(error.reason, whose + error.detail) from None


@dataclass(frozen=True)
class Looked:
    """What an item held."""

    images: int
    skipped: dict[str, str]  # key: why it gave no patches


@dataclass(frozen=True)
class Window:
    """Patches that are mixed with each other."""

    first: int  # item
    following: int  # the item with which the next window starts
    clean: list[Pixels]  # one array per image: (per_image, size, size, 3)
    damaged: list[Pixels]
    looked_at: dict[int, Looked]  # by item

    def batches(self, batch_size: int, seed: int) -> list[NDArray[np.int64]]:
        """Whole batches as (B, 2) indices (image, patch of it), in the order of training.

        One patch of every image comes before the second of any: patches of one image hardly ever share a batch.
        """
        rng = generator_for("window", seed, self.first)
        images, per_image = len(self.clean), len(self.clean[0]) if self.clean else 0
        rounds = [np.stack([rng.permutation(images), np.full(images, patch)], axis=1) for patch in range(per_image)]
        order = np.concatenate([np.empty((0, 2), np.int64), *rounds])
        return [order[i : i + batch_size] for i in range(0, len(order) - batch_size + 1, batch_size)]

    def take(self, indices: NDArray[np.int64]) -> Pair:
        """The patches of one batch."""
        clean, damaged = (np.stack([arrays[i][k] for i, k in indices]) for arrays in (self.clean, self.damaged))
        return torch.from_numpy(clean).permute(0, 3, 1, 2), torch.from_numpy(damaged).permute(0, 3, 1, 2)


def gather_windows(tables: Iterable[pa.Table], patches: int, drawing: Drawing, shards: int) -> Iterator[Window]:
    """Gather the tables of successive items until there are at least `patches` patches, again and again.

    Raises InvalidInput when twice as many items as there are shards have given none.
    """
    window: Window | None = None
    for table in tables:
        item = table["item"][0].as_py()
        window = window or Window(item, item, [], [], {})
        clean, damaged = (_patches_of(table[name], drawing) for name in ("clean", "damaged"))
        looked_at = window.looked_at | {item: Looked(len(table), why_skipped(table))}
        window = Window(window.first, item + 1, window.clean + clean, window.damaged + damaged, looked_at)
        if len(window.clean) * drawing.patches.per_image >= patches:
            yield window
            window = None
        elif not window.clean and item - window.first >= 2 * shards:
            raise no_patches({key: why for looked in looked_at.values() for key, why in looked.skipped.items()})


def why_skipped(table: pa.Table) -> dict[str, str]:
    """{key: "reason: detail"} of the images that gave no patches."""
    rows = table.select(["key", "reason", "detail"]).to_pylist()
    return {row["key"]: f"{row['reason']}: {row['detail']}" for row in rows if row["reason"]}


def _patches_of(column: "pa.ChunkedArray[Any]", drawing: Drawing) -> list[Pixels]:
    """Views of the patches, one array per image that has some."""
    size, found = drawing.patches.size, []
    for chunk in column.chunks:
        data = cast(bytes, chunk.buffers()[1] or b"")  # a Buffer is one to NumPy, if not by type
        flat = np.frombuffer(data, np.uint8)
        rows = flat.reshape(-1, drawing.patches.per_image, size, size, 3)[chunk.offset : chunk.offset + len(chunk)]
        found += [row for row, valid in zip(rows, chunk.is_valid().to_pylist(), strict=True) if valid]
    return found


def no_patches(skipped: dict[str, str]) -> InvalidInput:
    """The error for data of which nothing can be used."""
    (reason, count), *_ = Counter(skipped.values()).most_common(1)
    example = next(key for key, why in skipped.items() if why == reason)
    return InvalidInput(
        f"no image of DATA can be used: {len(skipped)} were looked at; of {count} the reason is {reason} (the first is "
        f"{example}); give other DATA, or smaller patches by patches.size"
    )
