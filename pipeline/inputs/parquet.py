"""Parquet files as shards, one per row group. Knows no Ray."""

import base64
import json
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from driftrec.errors import BadImage, InvalidInput, Reason, one_line
from pipeline.inputs.names import stem, strip_suffix
from pipeline.inputs.shards import Cutting, Incoming, Shard, shard_id, too_large
from pipeline.storage.base import Store
from pipeline.storage.file import StoreFile

IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp", "bytes")
ROWS = 1  # of Parquet that are unpacked at once: of photographs more are not quicker, and of a bomb each is large
KEY_COLUMNS = ("key", "__key__", "path", "id")
CAPTIONS = ("caption", "txt", "text", "TEXT")  # columns of text about the image, in this order

log = logging.getLogger(__name__)


class NoImages(InvalidInput):
    """A Parquet file in which no column can hold images, such as the metadata that img2dataset lays beside its tars."""


@dataclass(frozen=True, kw_only=True)
class RowGroup(Shard):
    """A row group of a Parquet file; `first` is its first row, counted through the file."""

    numbers_repeated = True
    group: int
    column: str | None = None  # of the images, where it was named

    def stored(self, data: bool = True) -> Iterator[Incoming]:
        file, column, keys = self._opened()
        rows = parquet_rows(file, self.group, keys, column, self.max_bytes)
        return with_columns(rows, file, self.group, column) if data and self.carries else rows

    def all_keys(self) -> list[str]:
        try:
            return self._opened()[2]
        except BadImage:
            return [self.name]

    def _opened(self) -> tuple[pq.ParquetFile, str, list[str]]:
        """The file, its column of images, and the keys of the group."""
        file = open_parquet(self.store, self.name)
        column, key_column = parquet_columns(file.schema_arrow, self.store.where(self.name), self.column)
        return file, column, parquet_keys(file, self.group, key_column, strip_suffix(self.name), self.first)


@dataclass(frozen=True, kw_only=True)
class BrokenParquet(Shard):
    """A file without a footer that can be read: one row that says so."""

    def stored(self, data: bool = True) -> Iterator[Incoming]:
        detail = "the Parquet footer is missing or broken: the file was cut"
        return iter([Incoming(self.name, b"", Reason.shard_incomplete, detail)])


def parquet_shards(store: Store, name: str, size: int, cutting: Cutting) -> Iterator[Shard]:
    """One shard per row group; a file whose footer cannot be read is one shard that says so. Raises NoImages."""
    try:
        file = open_parquet(store, name)
        schema = file.schema_arrow
    except (pa.ArrowException, OSError):
        cutting.selection.takes_all(name)
        yield BrokenParquet(id=shard_id("parquet", name, size), store=store, name=name, size=size, images=1)
        return
    parquet_columns(schema, store.where(name), cutting.image_column)
    first = 0
    for group in range(file.metadata.num_row_groups):
        info = file.metadata.row_group(group)
        shard = RowGroup(
            id=shard_id("parquet", name, size, group, info.num_rows),
            store=store,
            name=name,
            size=info.total_byte_size,
            images=info.num_rows,
            first=first,
            group=group,
            column=cutting.image_column,
        )
        first += info.num_rows
        if chosen := _chosen(shard, cutting, file):
            yield chosen


def _chosen(shard: RowGroup, cutting: Cutting, file: pq.ParquetFile) -> RowGroup | None:
    """The shard with what is known of its rows: which are meant, and which have a name that is taken. None if the
    choice leaves nothing of it.
    """
    selection, taken = cutting.selection, cutting.taken
    if not selection.choice and not taken:
        return shard
    _, key_column = parquet_columns(file.schema_arrow, shard.name, shard.column)
    try:
        keys = parquet_keys(file, shard.group, key_column, strip_suffix(shard.name), shard.first)
    except BadImage:  # it will tell of itself, whatever is meant
        selection.takes_all(shard.name)
        return shard
    rows: Sequence[int] = range(len(keys))
    if selection.choice:
        kept = selection.rows(keys, shard.name, shard.first)
        shard = replace(shard, id=shard_id(shard.id, selection.choice.digest()), images=len(kept), kept=kept)
        rows = sorted(kept)
    if taken:
        repeated = taken.add([keys[row] for row in rows])
        shard = replace(shard, duplicates=frozenset(rows[place] for place in repeated))
    return shard if rows or not selection.choice else None


def open_parquet(store: Store, name: str) -> pq.ParquetFile:
    """The file, read where it lies."""
    return pq.ParquetFile(cast(IO[bytes], StoreFile(store, name)))  # it takes any file; its types say less


def parquet_columns(schema: pa.Schema, name: str, image_column: str | None = None) -> tuple[str, str | None]:
    """(image column, key column or None) of a Parquet file: of the columns that can hold images the one that is asked
    for, else one that is called so, or the only one. Raises NoImages if there is none.
    """
    able = [field.name for field in schema if _holds_bytes(field.type)]
    if image_column and image_column not in able:
        there = ", ".join(able) or "none"
        raise NoImages(f"{name}: no image column {image_column!r}; of its columns these hold bytes: {there}")
    called = [image_column] if image_column else [column for column in IMAGE_COLUMNS if column in able]
    if not called and len(able) != 1:
        raise NoImages(
            f"{name}: no image column; give --image-column, or name one {' | '.join(IMAGE_COLUMNS)}: binary or a "
            f"struct with bytes (it has {', '.join(schema.names) or 'none'})"
        )
    column = (called or able)[0]
    keys = [key for key in KEY_COLUMNS if key in schema.names and _is_key(schema.field(key).type)]
    return column, keys[0] if keys else None


def parquet_keys(file: pq.ParquetFile, group: int, column: str | None, stem: str, first: int) -> list[str]:
    """Keys of one row group: the key column's values, or "<stem>/<row>" where there is none. Raises BadImage if they
    cannot be read.
    """
    numbers = range(first, first + file.metadata.row_group(group).num_rows)
    if column is None:
        return [f"{stem}/{number}" for number in numbers]
    try:
        values = file.read_row_group(group, columns=[column]).column(column)
        keys = _texts(values)
        return [f"{stem}/{number}" if key is None else relative(key) for number, key in zip(numbers, keys, strict=True)]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BadImage(Reason.shard_incomplete, _broken(group, error)) from None


def relative(key: str) -> str:
    """A path or URL as a path below OUTPUT: without a scheme and what it begins with, as tar takes a leading / off."""
    place = re.sub(r"^\w[\w+.-]*://+", "", key).lstrip("/")
    return re.sub(r"//+", "/", place).removeprefix("./") or key


def _texts(values: "pa.ChunkedArray[Any]") -> list[str | None]:
    """What is no UTF-8 is kept as file names keep it, and found unsafe later."""
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    try:
        return [None if value is None else str(value) for value in values.to_pylist()]
    except UnicodeDecodeError:
        found = (value.as_buffer() for value in values)
        return [None if text is None else text.to_pybytes().decode("utf-8", "surrogateescape") for text in found]


def _broken(group: int, error: Exception) -> str:
    return f"row group {group} cannot be read: {one_line(error)}"


def parquet_rows(
    file: pq.ParquetFile, group: int, keys: list[str], column: str, max_bytes: int
) -> Iterator[Incoming]:
    """A row per image of one row group. A group that cannot be read gives its rows the reason shard_incomplete; what
    it unpacks to beyond max_bytes gives the rest of them too_large.
    """
    info = file.metadata.row_group(group)
    stored = [info.column(i) for i in range(info.num_columns)]
    stored = [part for part in stored if part.path_in_schema.split(".")[0] == column]
    images = _values(file, group, column) if sum(part.total_uncompressed_size for part in stored) <= max_bytes else None
    unpacked = 0
    for number, key in enumerate(keys):
        try:
            value = next(images) if images else None
        except (pa.ArrowException, OSError, StopIteration) as error:
            detail = _broken(group, error)
            yield from (Incoming(key, b"", Reason.shard_incomplete, detail) for key in keys[number:])
            return
        data = value.get("bytes") if isinstance(value, dict) else value
        unpacked += len(data or b"")
        if images is None or unpacked > max_bytes:
            images = None
            yield too_large(key, f"row group {group} unpacks to more bytes than may be read at once", max_bytes)
        elif data is None:
            yield Incoming(key, b"", Reason.empty, f"no bytes in column {column}")
        else:
            yield Incoming(key, data)


def with_columns(rows: Iterable[Incoming], file: pq.ParquetFile, group: int, column: str) -> Iterator[Incoming]:
    """The rows of a group, beside each all other columns as JSON, and its caption as text, as WebDataset has them."""
    names = [name for name in file.schema_arrow.names if name != column]
    for row, values in zip(rows, _dicts(file, group, names), strict=False):
        name = stem(row.key)
        beside = {f"{name}.json": json.dumps(values, ensure_ascii=False, default=_as_json).encode()}
        caption = next((values[name] for name in CAPTIONS if isinstance(values.get(name), str)), None)
        yield row._replace(beside=beside | ({} if caption is None else {f"{name}.txt": caption.encode()}))


def _dicts(file: pq.ParquetFile, group: int, columns: list[str]) -> Iterator[dict[str, Any]]:
    """The rows of a group, without end where they cannot be read: the images are what counts."""
    try:
        for batch in file.iter_batches(ROWS, row_groups=[group], columns=columns):
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        log.warning("the columns beside the images of row group %d are left out: %s", group, one_line(error))
    yield from repeat({})


def _as_json(value: Any) -> str:
    """What JSON has no word for: bytes in base64, all else as its text."""
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def _values(file: pq.ParquetFile, group: int, column: str) -> Iterator[Any]:
    """The values of a column, one at a time: repeated ones may unpack to a thousand times what is stored."""
    for batch in file.iter_batches(ROWS, row_groups=[group], columns=[column]):
        yield from (value.as_py() for value in batch.column(0))


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _holds_bytes(kind.value_type)
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_bytes(kind.field("bytes").type)
    sized = pa.types.is_fixed_size_binary(kind)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind) or sized


def _is_key(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_key(kind.value_type)
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    return text or pa.types.is_integer(kind)
