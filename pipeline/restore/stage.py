"""The restore stage: a shard of compressed images in, files and a ledger part out. Plain Python, testable without Ray.

Three things go on at once: threads decode the next images, this thread runs the network, threads finish, encode and
write what it is done with. The images in flight are bounded in number and in their sum of pixels; a shard's size is not
felt.
"""

import hashlib
import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any, BinaryIO, cast

import numpy as np
import pyarrow as pa
import torch

from driftrec.errors import BadImage, DriftRecError, Failed, InvalidInput, Reason
from driftrec.image import ENCODERS, Picture, encode, not_kept
from driftrec.image.metadata import joined
from driftrec.image.picture import to_8_bits
from driftrec.image.probe import read_header
from driftrec.jpeg.codec import middle
from driftrec.metrics.blockiness import bef_u8
from driftrec.restoration import adaptive
from driftrec.restoration.opening import open_picture
from driftrec.restoration.options import LEFT_OPEN, Sampling
from driftrec.restoration.restorer import Restored, Restorer
from pipeline.inputs.names import copy_name, output_format, output_name
from pipeline.model_source import Weights
from pipeline.restore.settings import RestoreSettings
from pipeline.runs.ledger import FAILED, OK, SKIPPED, RestoreRow, blank
from pipeline.runs.outputs import Outputs, Tar, Tree
from pipeline.runs.settling import WRITE
from pipeline.runs.stage import ShardStage, explain
from pipeline.runs.threads import pooled
from pipeline.storage.base import InTheWay, Store

PIXELS_AHEAD = 32_000_000  # decoded and waiting, and again restored and waiting; one image may be larger
DECODE_S = 60.0  # that a decoder may take, beside its time per megapixel: machines stop for a while
BEF_SIDE = 512  # pixels; of larger images the blocking effect is measured in a window of this side, in their middle


@dataclass(frozen=True)
class Item:
    """One image on its way through the stage, and what is known of it so far."""

    key: str
    seconds: float = 0.0  # spent on it so far
    picture: Picture | None = None  # decoded, later restored; None if it failed or is left as it is
    rest: Callable[[], Restored] | None = None  # what is left to do where the network has had its turn
    failed: Failed | None = None
    skipped: bool = False  # left as it is; `failed` says why
    beside: Mapping[str, bytes] = field(default_factory=dict[str, bytes])  # what goes with its output
    copy: bytes | None = None  # the file itself, if it may become an output
    record: dict[str, Any] | None = None  # of what was done, for the output
    row: RestoreRow = field(default_factory=lambda: blank(RestoreRow))  # of the ledger

    def fail(self, stage: str, error: Exception) -> "Item":
        """The same image as a row with a reason."""
        reason, detail = explain(error, self.key)
        return replace(self, picture=None, skipped=False, failed=Failed(self.key, stage, reason, detail))

    def give_way(self, error: InTheWay) -> "Item":
        """The same image, whose place another's output has taken; `runs.settling` says in the end whose it is."""
        return self.fail(WRITE, BadImage(Reason.duplicate_name, str(error)))

    def skip(self, reason: Reason, detail: str) -> "Item":
        """The same image, left as it is."""
        return replace(self, picture=None, skipped=True, failed=Failed(self.key, "decode", reason, detail))

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
        restorer: with these weights; without one they are loaded.
        encode: what turns a picture into bytes.
    """

    def __init__(
        self,
        settings: RestoreSettings,
        weights: Weights,
        store: Store,
        restorer: Restorer | None = None,
        encode: Callable[..., bytes] = encode,
    ) -> None:
        limit_s, retry, repair = settings.image_timeout_s, settings.retry_failed, settings.repair
        super().__init__(store, image_timeout_s=limit_s, retry=retry, repair=repair)
        self.outputs: Outputs = Tree(store)
        torch.set_num_threads(1)  # more actors use more cores; and sums in one order give the same bytes everywhere
        self.settings, self.encode = settings, encode
        self.sampling = sampling_of(settings)
        self.whole = settings.on_clash == "suffix"  # names of inputs stay whole in those of outputs
        self.decoders = ThreadPoolExecutor(settings.codec_threads, "decode")
        self.writers = ThreadPoolExecutor(settings.codec_threads, "write")
        try:
            self.restorer = restorer or weights.load(settings.device)
        except DriftRecError as error:
            self.broken = error
            return
        # what a file says of its coefficients takes longer than its pixels, and a model that changes nothing asks not
        asked = self.restorer.checkpoint is not None or settings.skip_above is not None
        self.projection = settings.projection and asked

    def begin(self, shard: str, again: Collection[str]) -> None:
        """What is done again goes into a tar of its own: those that are there stay as they are."""
        if self.settings.layout != "tree":
            digest = hashlib.blake2b("\0".join(sorted(again)).encode(), digest_size=8).hexdigest()
            self.outputs = Tar(self.store, f"{shard}-{digest}" if again else shard)

    def end(self) -> None:
        self.outputs.close()

    def rows(self, shard: str, table: pa.Table) -> list[RestoreRow]:
        """A ledger row an image, in the order of the shard, whose file is written. Images of one size are restored one
        after the other, so that they share the network's batches.
        """
        size, threads, limit = self.settings.batch_size, self.settings.codec_threads, self.settings.max_pixels
        sizes = {row: _declared(table, row, limit) for row in range(table.num_rows) if table["key"][row].is_valid}
        order = sorted(sizes, key=lambda row: sizes[row])
        items = pooled(
            self.decoders,
            lambda row: self._load(table, row, math.prod(sizes[row])),
            order,
            size + threads,
            lambda row, item: item.pixels if item else math.prod(sizes[row]),
            PIXELS_AHEAD,
        )
        restored = (item for batch in _batches(items, size) for item in self._restore(batch))
        written = pooled(self.writers, self._finish, restored, 2 * threads, lambda item, row: item.pixels, PIXELS_AHEAD)
        rows = dict(zip(order, written, strict=True))
        return [rows[row] for row in sizes]

    def _load(self, table: pa.Table, row: int, pixels: int) -> Item:
        """Decode one image, of so many pixels by its header, and measure it as it came."""
        begun = time.perf_counter()
        key, reason = table["key"][row].as_py(), table["reason"][row].as_py()
        data: bytes = table["data"][row].as_py()
        known: RestoreRow = {**blank(RestoreRow), "input_sha256": hashlib.sha256(data).hexdigest()}
        beside = dict(table["beside"][row].as_py() or ())
        item = Item(key, beside=beside, copy=data, row={**known, "input_bytes": len(data)})
        if reason:
            item = item if data else Item(key)
            where = "" if reason in (Reason.crashed, Reason.timeout) else "read"
            return replace(item, failed=Failed(key, where, Reason(reason), table["detail"][row].as_py()))
        try:
            with self.watchdog.watch(at_most=DECODE_S + self.settings.decode_s_per_megapixel * pixels / 1e6):
                limit, frames = self.settings.max_pixels, self.settings.frames
                picture = open_picture(data, key, limit, frames, self.projection)
            known = {
                **item.row,
                "width": picture.width,
                "height": picture.height,
                "detail": picture.note or None,
                "mode": picture.mode,
                "quality": picture.quality,
            }
            item = replace(item, picture=picture, row=known)
            if self._is_good_enough(picture):
                item = item.skip(Reason.good_enough, f"quality {picture.quality}, and no older damage shows")
            else:
                known["bef_before"] = _bef(picture)
        except BadImage as error:
            animated = error.reason == Reason.animated
            item = item.skip(error.reason, error.detail) if animated else item.fail("decode", error)
        except Exception as error:
            item = item.fail("decode", error)
        copied = data if self.settings.copy_failed or item.skipped else None
        return replace(item, copy=copied, seconds=time.perf_counter() - begun)

    def _is_good_enough(self, picture: Picture) -> bool:
        """Whether the settings leave such a picture as it is."""
        limit = self.settings.skip_above
        if limit is None or picture.quality is None or picture.quality < limit:
            return False
        return not adaptive.history(picture).older

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
            with self.watchdog.watch(len(items)):
                rests = self.restorer.begin(pictures, keys, self.settings.seed, self.sampling)
        except DriftRecError:
            raise
        except Exception as error:
            if len(items) > 1:
                return [done for item in items for done in self._restore_all([item])]
            return [item.fail("restore", error) for item in items]
        share = (time.perf_counter() - begun) / max(1, len(items))
        pairs = zip(items, rests, strict=True)
        return [replace(item, rest=rest, seconds=item.seconds + share) for item, rest in pairs]

    def _restored(self, item: Item, rest: Callable[[], Restored]) -> Item:
        """The image with its result, if that is a restoration."""
        try:
            result = rest()
        except DriftRecError:
            raise
        except Exception as error:
            return item.fail("restore", error)
        if result.fault:
            return item.fail("restore", BadImage(Reason.implausible, result.fault))
        record = self.restorer.record(result, self.settings.seed)
        return replace(item, picture=result.picture, rest=None, record=record, row={**item.row, "nfe": result.nfe})

    def _finish(self, item: Item) -> RestoreRow:
        """Do what is left of one image and write it, restored or as it is; its ledger row."""
        begun = time.perf_counter()
        try:
            with self.watchdog.watch():
                item = self._restored(item, item.rest) if item.rest else item
                item = self._write(item, item.picture) if item.picture else item
        except InTheWay as error:
            item = item.give_way(error)
        except DriftRecError:
            raise
        except Exception as error:
            item = item.fail("encode", error)
        copies = self.settings.skipped == "copy" if item.skipped else self.settings.copy_failed
        if item.failed and copies and item.copy is not None:
            item = self._copy(item, item.copy)
        seconds, now = item.seconds + time.perf_counter() - begun, datetime.now(UTC).replace(microsecond=0)
        row: RestoreRow = {**item.row, "key": item.key, "seconds": seconds, "done": now, "status": OK}
        if not item.failed:
            return row
        row = {**row, "reason": str(item.failed.reason), "detail": item.failed.detail}
        if item.skipped:
            return {**row, "status": SKIPPED, "nfe": 0}
        return {**row, "status": FAILED, "stage": item.failed.stage or None}

    def _copy(self, item: Item, data: bytes) -> Item:
        """Put the file itself where its output would be."""
        try:
            name = self.outputs.put(copy_name(item.key, self.settings.format, self.whole), data, item.beside)
        except InTheWay as error:
            return item.give_way(error)
        digest = item.row["input_sha256"]
        return replace(item, row={**item.row, "output": name, "output_sha256": digest, "output_bytes": len(data)})

    def _write(self, item: Item, picture: Picture) -> Item:
        """Encode and put a restored picture."""
        settings = self.settings
        kind = output_format(item.key, settings.format)
        data = self.encode(
            picture,
            kind,
            png_level=settings.png_level,
            jpeg_quality=settings.jpeg_quality,
            jpeg_subsampling=settings.jpeg_subsampling,
            webp_quality=settings.webp_quality,
            record=item.record,
        )
        name = self.outputs.put(output_name(item.key, settings.format, self.whole), data, item.beside)
        row: RestoreRow = {
            **item.row,
            "output": name,
            "output_sha256": hashlib.sha256(data).hexdigest(),
            "output_bytes": len(data),
            "depth": picture.depth if ENCODERS[kind].deep else 8,
            "detail": joined(picture.note, not_kept(picture, kind, item.record)) or None,
            "bef_after": _bef(picture),
        }
        return replace(item, row=row)


def sampling_of(settings: RestoreSettings) -> Sampling:
    """The settings of sampling as the Restorer takes them. Raises InvalidInput if they do not belong together."""
    try:
        return Sampling(**{field.name: getattr(settings, field.name) for field in fields(Sampling)})
    except ValueError as error:
        raise InvalidInput(str(error)) from None


def resolve(settings: RestoreSettings, weights: Weights) -> RestoreSettings:
    """The settings with the model's recommendations where the user gave none. Raises InvalidInput if the model cannot
    be sampled so.
    """
    sampling = weights.resolve(sampling_of(settings))
    return settings.model_copy(update={name: getattr(sampling, name) for name in LEFT_OPEN})


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


def _declared(table: pa.Table, row: int, max_pixels: int) -> tuple[int, int]:
    """Height and width of an image that is not decoded yet, as far as its header tells."""
    data = table["data"][row]
    if not data.is_valid:
        return 0, 0
    file = cast(BinaryIO, pa.BufferReader(data.as_buffer()))  # it is one in all but its type
    header = read_header(file, len(data.as_buffer()), max_pixels)
    return header.height or 0, header.width or 0


def _bef(picture: Picture) -> float:
    """Blocking effect factor of a picture as stored, or of a window in its middle that keeps to the 8x8 grid."""
    window = picture.stored[middle(picture.stored.shape, BEF_SIDE)]
    return bef_u8(to_8_bits(np.ascontiguousarray(window)))
