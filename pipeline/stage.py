"""The restore stage: a shard of compressed images in, files and a ledger part out. Plain Python, testable without Ray.

Three things go on at once: threads decode the next images, this thread runs the network, threads encode and write what
it has finished. The images in flight are bounded in number and in their sum of pixels; a shard's size is not felt.
"""

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from driftrec.errors import BadImage, DriftRecError, Failed, InvalidInput, Reason, StorageFull
from driftrec.image import Picture, decode, encode
from driftrec.jpeg import inspect
from driftrec.metrics.blockiness import bef_u8
from driftrec.projection import constraint
from driftrec.restoration import Sampling
from pipeline.ledger import FAILED, IMAGES, OK, Ledger
from pipeline.names import output_format, output_name
from pipeline.pooled import pooled
from pipeline.settings import RestoreSettings
from pipeline.shards import unreadable
from pipeline.store import Store
from pipeline.weights import Weights

log = logging.getLogger(__name__)

PIXELS_AHEAD = 32_000_000  # decoded and waiting, and again restored and waiting; one image may be larger
BEF_SIDE = 512  # pixels; of larger images the blocking effect is measured in a window of this side, in their middle
SUMMARY = pa.schema(
    [
        ("shard", pa.string()),
        ("computed", pa.bool_()),  # false where a part was there already
        (OK, pa.int64()),  # images
        (FAILED, pa.int64()),
        ("pixels", pa.int64()),
        ("seconds", pa.float64()),
        ("error", pa.string()),  # why the run cannot go on; null if it can. Ray would bury an exception in its own
        ("full", pa.bool_()),  # whether that is for want of room
    ]
)


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
        reason, detail = _explain(error)
        return replace(self, picture=None, failed=Failed(self.key, stage, reason, detail))

    @property
    def pixels(self) -> int:
        """Of its picture."""
        return self.picture.width * self.picture.height if self.picture else 0


class RestoreShard:
    """Restores shards, one a call, with one model on one device. A shard with a ledger part is not computed again.

    Args:
        settings: of the run.
        weights: the model.
        store: OUTPUT.
    """

    def __init__(self, settings: RestoreSettings, weights: Weights, store: Store) -> None:
        torch.set_num_threads(1)  # more actors use more cores; and sums in one order give the same bytes everywhere
        self.settings, self.store, self.ledger = settings, store, Ledger(store)
        self.sampling = sampling_of(settings)
        self.decoders = ThreadPoolExecutor(settings.codec_threads, "decode")
        self.writers = ThreadPoolExecutor(settings.codec_threads, "write")
        self.broken: DriftRecError | None = None
        try:
            self.restorer = weights.load()
        except DriftRecError as error:
            self.broken = error

    def __call__(self, table: pa.Table) -> pa.Table:
        """Restore one shard (a block of `pipeline.shards`) and write its part. Gives one row of SUMMARY.

        A bad image is a row of the part; what the run cannot survive is the summary's `error`, and there is no part.
        """
        begun = time.perf_counter()
        shard = table["shard"][0].as_py()
        summary: dict[str, Any] = {"shard": shard, "computed": False, OK: 0, FAILED: 0, "pixels": 0}
        try:
            summary |= self._shard(shard, table)
        except DriftRecError as error:
            summary |= {"error": str(error), "full": isinstance(error, StorageFull)}
        return pa.Table.from_pylist([summary | {"seconds": time.perf_counter() - begun}], schema=SUMMARY)

    def _shard(self, shard: str, table: pa.Table) -> dict[str, Any]:
        """The shard's columns of the summary. Raises DriftRecError if the run cannot go on."""
        if self.broken:
            raise self.broken
        if self.ledger.has(shard):
            return {"computed": False}
        if problem := unreadable(table):
            raise DriftRecError(problem)
        rows = list(self._rows(table))
        self.ledger.commit(shard, rows)
        counts = Counter(row["status"] for row in rows)
        pixels = sum(row.get("width", 0) * row.get("height", 0) for row in rows)
        return {"computed": True, OK: counts[OK], FAILED: counts[FAILED], "pixels": pixels}

    def _rows(self, table: pa.Table) -> Iterator[dict[str, Any]]:
        """A ledger row an image, in the order of the shard."""
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
        return pooled(self.writers, self._finish, restored, 2 * threads, lambda item, row: item.pixels, PIXELS_AHEAD)

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
                "bef_before": _bef(picture.rgb),
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
                    "bef_after": _bef(item.picture.rgb),
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


def _explain(error: Exception) -> tuple[Reason, str]:
    """(reason, one line) of what went wrong with one image."""
    if isinstance(error, BadImage):
        return error.reason, error.detail
    text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "not enough memory" in text:
        return Reason.out_of_memory, text
    log.error("an image failed with %s", text, exc_info=error)
    return Reason.internal, text
