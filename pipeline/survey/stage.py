"""The survey stage: a shard's files looked at, its ledger part written. Plain Python, testable without Ray.

Of a loose file the first and the last bytes are read, and all of it only where it is among those that are decoded. What
lies in a tar or a Parquet file comes with its container.
"""

import io
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import BinaryIO, NamedTuple, cast

import numpy as np

from driftrec.errors import DriftRecError, Failed, Reason
from driftrec.image import decode, jxl
from driftrec.image.probe import Header, read_header
from driftrec.jpeg.codec import middle
from driftrec.jpeg.double_compression import LEAST, earlier_in, once_jpeg
from driftrec.jpeg.ending import mended
from pipeline.inputs.loose import LooseFiles, not_to_open
from pipeline.inputs.names import name_digest, printable
from pipeline.inputs.shards import Incoming, Shard, rows_of
from pipeline.runs.ledger import (
    OK,
    Bool,
    Float32,
    Float64,
    Int8,
    Int16,
    Int32,
    Int64,
    Row,
    Text,
    blank,
    failure,
    schema_of,
)
from pipeline.runs.stage import Stage, explain
from pipeline.storage.base import StorageError, Store, is_of_object
from pipeline.storage.file import StoreFile
from pipeline.survey.settings import SurveySettings

NEAR, FAR = 1 << 13, 1 << 16  # bytes asked for at once: of a local disk, of a remote store
SIDE = 512  # pixels; of larger images blocking is measured in a window of this side, in their middle


class SurveyRow(Row):
    """A row of the ledger; `stage` is where it showed: read, header, decode."""

    bytes: Int64  # of the file
    format: Text  # by content; null where it is none that is known
    width: Int32  # pixels, as stored
    height: Int32
    mode: Text  # as stored: L, LA, RGB, RGBA, P, CMYK
    depth: Int16  # bits per sample
    components: Int16  # samples per pixel
    progressive: Bool  # JPEG only, as are the next three
    subsampling: Text
    quality: Int16  # estimated from the quantisation tables, 1 to 100
    exact: Bool  # whether these are libjpeg's of that quality
    orientation: Int8  # EXIF's, 1 to 8; null without EXIF
    exif: Bool  # whether there is any, as the next three; not looked for behind a PNG's pixels
    gps: Bool
    xmp: Bool
    icc: Bool
    decoded: Bool  # whether the pixels were looked at
    bef: Float64  # raw; times 65,025 in squared grey levels; null, as all below, if not decoded
    earlier: Text  # a compression before its file was written shows: "aligned", "shifted", or "" for no
    earlier_quality: Int16  # of that compression
    aligned: Float32  # evidence of it on this grid, as the next, in a JPEG; more than 1 is a verdict
    shifted: Float32


SCHEMA = schema_of(SurveyRow)
OF_HEADER = [name for name in SCHEMA.names[SCHEMA.get_field_index("format") :] if name in Header.__dataclass_fields__]


class Look(NamedTuple):
    """One file, not looked at yet."""

    key: str
    size: int  # bytes
    row: Callable[[], SurveyRow]  # looks at it


class SurveyShard(Stage[Shard | Look]):
    """Looks at shards, one per call; a shard with a ledger part is not looked at again.

    Args:
        settings: of the run.
        share: of the files that are decoded, 0 to 1.
        store: OUTPUT.
    """

    def __init__(self, settings: SurveySettings, share: float, store: Store) -> None:
        super().__init__(store, SCHEMA)
        self.settings, self.share = settings, share

    def shard_of(self, work: Shard | Look) -> str:
        return work.id if isinstance(work, Shard) else ""

    def rows(self, shard: str, work: Shard | Look) -> list[SurveyRow]:
        """The rows of a shard, in the order of its images. Raises StorageError if storage as a whole fails."""
        if isinstance(work, Look):
            return [work.row()]
        looks, each = self._looks(work), work.store.each if isinstance(work, LooseFiles) else map
        return list(each(lambda look: look.row(), looks))

    def singly(self, work: Shard | Look) -> Iterator[tuple[str, Look]]:
        looks = [work] if isinstance(work, Look) else self._looks(work)
        return ((look.key, look) for look in looks)

    def condemned(self, image: Shard | Look, reason: Reason, detail: str) -> Look:
        assert isinstance(image, Look)
        return image._replace(row=partial(_failed, image.key, image.size, "decode", reason, detail))

    def _looks(self, shard: Shard) -> Iterator[Look]:
        """Each file of a shard."""
        if isinstance(shard, LooseFiles):
            for name, size in islice(shard.files(), shard.limit):
                yield Look(printable(name), size, partial(self._file, shard.store, name, size))
            return
        for row in rows_of(shard):
            yield Look(row.key, len(row.data), partial(self._member, row))

    def _member(self, row: Incoming) -> SurveyRow:
        """The row of what came with its container."""
        if row.reason:
            return _failed(row.key, len(row.data), "read", Reason(row.reason), row.detail)
        return self._look(row.key, io.BytesIO(row.data), len(row.data))

    def _file(self, store: Store, name: str, size: int) -> SurveyRow:
        """The row of a loose file."""
        key = printable(name)
        if refused := not_to_open(store, name):
            return _failed(key, size, "read", *refused)
        try:
            return self._look(key, io.BufferedReader(StoreFile(store, name, size), NEAR if store.local else FAR), size)
        except StorageError as error:
            if not is_of_object(store, name, error):
                raise
            return _failed(key, size, "read", Reason.unreadable, str(error))

    def _look(self, key: str, file: BinaryIO, size: int) -> SurveyRow:
        """The row of a file. Raises StorageError."""
        header = read_header(file, size, self.settings.max_pixels)
        known = cast(SurveyRow, {**blank(SurveyRow), **{name: getattr(header, name) for name in OF_HEADER}})
        row: SurveyRow = {**known, "key": key, "bytes": size, "status": OK, "decoded": False}
        if header.reason:
            return failure(row, Failed(key, "header", header.reason, header.detail))
        if not self._is_chosen(key):
            return row
        file.seek(0)
        data = file.read()
        try:
            return _with_pixels(row, data, self.settings.max_pixels)
        except DriftRecError:
            raise
        except Exception as error:
            return failure(row, Failed(key, "decode", *explain(error, key)))

    def _is_chosen(self, key: str) -> bool:
        """Whether its pixels are looked at: a function of the key and the seed."""
        return name_digest(f"{self.settings.seed} {key}") < self.share * 2**64


def _with_pixels(row: SurveyRow, data: bytes, max_pixels: int) -> SurveyRow:
    """The row of a file, decoded. Raises BadImage, or what a defect raises."""
    from driftrec.metrics.blockiness import bef_u8  # brings PyTorch, which headers do not need

    rgb = decode(data, row["key"], max_pixels).in_8_bits().stored
    row = {**row, "decoded": True, "bef": bef_u8(np.ascontiguousarray(rgb[middle(rgb.shape, SIDE)]))}
    if row["format"] != "JPEG":  # what a restore goes by
        if min(rgb.shape[:2]) >= LEAST:
            found = once_jpeg(rgb)
            row["earlier"], row["earlier_quality"] = (found.found, found.quality) if found else ("", None)
    elif found := earlier_in(mended(jxl.jpeg_within(data) or data, max_pixels)[0]):
        row["earlier"], row["earlier_quality"] = found.found, found.quality
        row["aligned"], row["shifted"] = found.aligned, found.shifted
    return row


def _failed(key: str, size: int, stage: str, reason: Reason, detail: str) -> SurveyRow:
    row: SurveyRow = {**blank(SurveyRow), "key": key, "bytes": size, "decoded": False}
    return failure(row, Failed(key, stage, reason, detail))
