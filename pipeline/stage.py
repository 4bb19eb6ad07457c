"""The restore stage: a shard of compressed images in, files and a ledger part out. Plain Python, testable without Ray.

Three things go on at once: threads decode the next images, this thread runs the network, threads encode and write what
it has finished. The images in flight are bounded in number and in their sum of pixels; a shard's size is not felt.
"""

import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from driftrec.errors import BadImage, DriftRecError, Failed, InvalidInput, Reason
from driftrec.image import Picture, decode, encode
from driftrec.jpeg import inspect
from driftrec.metrics.blockiness import bef_u8
from driftrec.projection import constraint
from driftrec.restoration import Sampling
from pipeline.ledger import FAILED, IMAGES, OK
from pipeline.names import output_format, output_name
from pipeline.pooled import pooled
from pipeline.settings import RestoreSettings
from pipeline.shard_stage import ShardStage, explain
from pipeline.store import Store
from pipeline.weights import Weights

PIXELS_AHEAD = 32_000_000  # decoded and waiting, and again restored and waiting; one image may be larger
BEF_SIDE = 512  # pixels; of larger images the blocking effect is measured in a window of this side, in their middle


@dataclass(frozen=True)
class Item:
    """One image on its way through the stage, and what is known of it so far."""

    key: str
    seconds: float = 0.0  # spent on it so far
    picture: Picture | None = None  # decoded, later restored; None if it failed
    failed: Failed | None = None
    columns: dict[str, Any] = field(default_factory=dict)  # of its ledger row

    def fail(self, stage: str, error: Exception) -> "Item":
        """The same image as a row with a reason."""
        reason, detail = explain(error)
        return replace(self, picture=None, failed=Failed(self.key, stage, reason, detail))

    @property
    def pixels(self) -> int:
        """Of its picture."""
        return self.picture.width * self.picture.height if self.picture else 0


class RestoreShard(ShardStage):
    """Restores shards, one a call, with one model on one device. A shard with a ledger part is not computed again.

    Args:
        settings: of the run.
        weights: the model.
        store: OUTPUT.
    """

    def __init__(self, settings: RestoreSettings, weights: Weights, store: Store) -> None:
        super().__init__(store)
        torch.set_num_threads(1)  # more actors use more cores; and sums in one order give the same bytes everywhere
        self.settings = settings
        self.sampling = sampling_of(settings)
        self.decoders = ThreadPoolExecutor(settings.codec_threads, "decode")
        self.writers = ThreadPoolExecutor(settings.codec_threads, "write")
        try:
            self.restorer = weights.load()
        except DriftRecError as error:
            self.broken = error

    def rows(self, shard: str, table: pa.Table) -> list[dict[str, Any]]:
        """A ledger row an image, in the order of the shard, whose file is written."""
        size, threads = self.settings.batch_size, self.settings.codec_threads
        listed = (row for row in range(table.num_rows) if table["key"][row].is_valid)
        items = pooled(
            self.decoders,
            lambda row: self._load(table, row),
            listed,
            size + threads,
            lambda row, item: item.pixels if item else 0,
            PIXELS_AHEAD,
        )
        restored = (item for batch in _batches(items, size) for item in self._restore(batch))
        written = pooled(self.writers, self._finish, restored, 2 * threads, lambda item, row: item.pixels, PIXELS_AHEAD)
        return list(written)

    def _load(self, table: pa.Table, row: int) -> Item:
        """Decode one image and measure it as it came."""
        begun = time.perf_counter()
        key, reason = table["key"][row].as_py(), table["reason"][row].as_py()
        if reason:
            return Item(key, failed=Failed(key, "read", Reason(reason), table["detail"][row].as_py()))
        data: bytes = table["data"][row].as_py()
        item = Item(key, columns={"input_sha256": hashlib.sha256(data).hexdigest()})
        try:
            picture = decode(data, key, self.settings.max_pixels)
            if self.settings.projection and picture.source_format == "JPEG":
                picture = replace(picture, constraint=constraint(data))
            columns = {
                "width": picture.width,
                "height": picture.height,
                "detail": picture.note or None,
                "quality": inspect(data).quality if picture.source_format == "JPEG" else None,
                "bef_before": _bef(picture.rgb8),
            }
            item = replace(item, picture=picture, columns=item.columns | columns)
        except Exception as error:
            item = item.fail("decode", error)
        return replace(item, seconds=time.perf_counter() - begun)

    def _restore(self, batch: Sequence[Item]) -> list[Item]:
        """The network's turn. If a batch fails its images go one by one: none can take the others along."""
        waiting = [item for item in batch if item.picture]
        done = {item.key: item for item in batch}
        done |= {item.key: item for item in self._restore_all(waiting)}
        return [done[item.key] for item in batch]

    def _restore_all(self, items: Sequence[Item]) -> list[Item]:
        begun = time.perf_counter()
        pictures, keys = [item.picture for item in items if item.picture], [item.key for item in items]
        try:
            results = self.restorer.restore(pictures, keys, self.settings.seed, self.sampling)
        except DriftRecError:
            raise
        except Exception as error:
            if len(items) > 1:
                return [done for item in items for done in self._restore_all([item])]
            return [item.fail("restore", error) for item in items]
        share = (time.perf_counter() - begun) / max(1, len(items))
        return [
            replace(
                item,
                seconds=item.seconds + share,
                picture=result.picture,
                columns=item.columns | {"nfe": result.nfe, "mode": result.picture.mode},
            )
            for item, result in zip(items, results, strict=True)
        ]

    def _finish(self, item: Item) -> dict[str, Any]:
        """Encode and write one image; its ledger row."""
        begun = time.perf_counter()
        if item.picture:
            try:
                wanted = self.settings.format
                data = encode(item.picture, output_format(item.key, wanted))
                columns = {
                    "output": f"{IMAGES}/{output_name(item.key, wanted)}",
                    "output_sha256": hashlib.sha256(data).hexdigest(),
                    "bef_after": _bef(item.picture.rgb8),
                }
                self.store.put(columns["output"], data)
                item = replace(item, columns=item.columns | columns)
            except DriftRecError as error:
                if not isinstance(error, BadImage):
                    raise
                item = item.fail("encode", error)
            except Exception as error:
                item = item.fail("encode", error)
        row = item.columns | {"key": item.key, "seconds": item.seconds + time.perf_counter() - begun, "status": OK}
        if item.failed:
            failed = item.failed
            row |= {"status": FAILED, "reason": str(failed.reason), "detail": failed.detail, "stage": failed.stage}
        return row


def sampling_of(settings: RestoreSettings) -> Sampling:
    """The settings of sampling as the Restorer takes them. Raises InvalidInput if they do not belong together."""
    try:
        return Sampling(**{field.name: getattr(settings, field.name) for field in fields(Sampling)})
    except ValueError as error:
        raise InvalidInput(str(error)) from None


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Groups of `size` images, fewer where they are large."""
    batch: list[Item] = []
    for item in items:
        batch.append(item)
        if len(batch) == size or sum(each.pixels for each in batch) >= PIXELS_AHEAD:
            yield batch
            batch = []
    if batch:
        yield batch


def _bef(rgb: np.ndarray) -> float:
    """Blocking effect factor of an (H, W, 3) uint8 image, or of a window in its middle that keeps to the 8x8 grid."""
    top, left = (max(0, side - BEF_SIDE) // 16 * 8 for side in rgb.shape[:2])
    return bef_u8(rgb[top : top + BEF_SIDE, left : left + BEF_SIDE])
