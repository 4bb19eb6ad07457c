"""Before and after: the same piece of an input and of its restored image, small enough to travel inside a page."""

import base64
import hashlib
import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from driftrec.errors import BadImage, DriftRecError
from driftrec.image import decode
from pipeline.inputs.names import log_tags
from pipeline.inputs.shards import Shard, read_shard
from pipeline.runs.ledger import RestoreRow
from pipeline.runs.outputs import read_output
from pipeline.storage.base import Store

log = logging.getLogger(__name__)

PAGE_BYTES = 4_200_000  # of all pieces together; base64 makes 5.6 MB of it
WIDTHS = (640, 512, 448, 384, 320, 256, 192)  # of a piece, the widest that fits its share of the page; 4:3
LOSSLESS = {"lossless": True, "quality": 50, "method": 2}  # WEBP: nearly the smallest, at a third of the time
NEAR = {"quality": 95, "subsampling": "4:4:4", "optimize": True}  # JPEG whose own damage is far below what is compared


@dataclass(frozen=True)
class Piece:
    """The same rectangle of two pictures, as data URIs."""

    before: str  # lossless
    after: str  # JPEG of quality 95, 4:4:4
    box: tuple[int, int, int, int]  # left, top, right, bottom in pixels of the picture
    reference: str = ""  # what both should look like, JPEG as well; empty where that is not known

    def describe(self, width: int, height: int) -> str:
        """What part of a picture of this size is shown."""
        left, top, right, bottom = self.box
        if (right - left, bottom - top) == (width, height):
            return "whole image"
        return f"{right - left} × {bottom - top} from the middle"


def load_pieces(
    shards: Mapping[str, Shard], output: Store, rows: Sequence[tuple[str, RestoreRow]]
) -> list[tuple[RestoreRow, Piece]]:
    """Pieces for (shard, ledger row) pairs, in their order; what cannot be read again is left out and logged."""
    inputs = _inputs(shards, rows)
    share = PAGE_BYTES // max(1, len(rows))
    pieces: list[tuple[RestoreRow, Piece]] = []
    for shard, row in rows:
        about = log_tags(shard=shard, key=row["key"])
        if row["key"] not in inputs:
            log.info("report: no before and after: the input is gone or has changed %s", about)
            continue
        try:
            most = (row["width"] or 0) * (row["height"] or 0)  # as it was restored: none is larger
            before = decode(inputs[row["key"]], row["key"], most).rgb8
            after = decode(read_output(output, row["output"] or ""), max_pixels=most).rgb8
        except (BadImage, DriftRecError) as error:
            log.info("report: no before and after: %s %s", error, about)
            continue
        if before.shape == after.shape:
            pieces.append((row, cut(before, after, share)))
    return pieces


def _inputs(shards: Mapping[str, Shard], rows: Sequence[tuple[str, RestoreRow]]) -> dict[str, bytes]:
    """Bytes of the inputs by key, as far as they are still what was restored; one shard in memory at a time."""
    wanted: dict[str, dict[str, str]] = {}
    for shard, row in rows:
        wanted.setdefault(shard, {})[row["key"]] = row["input_sha256"] or ""
    found: dict[str, bytes] = {}
    for shard in wanted.keys() & shards.keys():
        try:
            images = read_shard(shards[shard]).select(["key", "data"]).to_pylist()
        except DriftRecError as error:
            log.warning("report: %s", error)
            continue
        for image in images:
            if hashlib.sha256(image["data"]).hexdigest() == wanted[shard].get(image["key"]):
                found[image["key"]] = image["data"]
    return found


def cut(
    before: np.ndarray,
    after: np.ndarray,
    max_bytes: int,
    reference: np.ndarray | None = None,
    widths: Sequence[int] = WIDTHS,
) -> Piece:
    """The widest middle piece of (H, W, 3) uint8 pictures whose files fit `max_bytes` together, else the narrowest."""
    box = _middle(before.shape[1], before.shape[0], widths[0])
    near = [after] if reference is None else [after, reference]
    files = [_file(before, box, "WEBP", LOSSLESS), *(_file(side, box, "JPEG", NEAR) for side in near)]
    if sum(map(len, files)) > max_bytes and len(widths) > 1:
        return cut(before, after, max_bytes, reference, widths[1:])
    uris = [_data_uri(files[0], "webp"), *(_data_uri(file, "jpeg") for file in files[1:]), ""]
    return Piece(uris[0], uris[1], box, uris[2])


def _middle(width: int, height: int, widest: int) -> tuple[int, int, int, int]:
    """The middle rectangle of at most `widest`, in the proportion 4:3 unless that would hide most of the picture."""
    wide, high = min(width, widest), min(height, widest * 3 // 4)
    trimmed = min(wide, high * 4 // 3), min(high, wide * 3 // 4)
    if 2 * trimmed[0] * trimmed[1] >= wide * high:
        wide, high = trimmed
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high


def _file(rgb: np.ndarray, box: tuple[int, int, int, int], kind: str, options: Mapping[str, Any]) -> bytes:
    left, top, right, bottom = box
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(rgb[top:bottom, left:right])).save(buffer, kind, **options)
    return buffer.getvalue()


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
