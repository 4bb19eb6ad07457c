"""What containers hold, as rows of (key, data, reason, detail); here Parquet row groups. Knows no Ray.

A row with a reason has no data: it is an image that fails before anybody looks at it, or a container that was cut.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from driftrec.errors import BadImage, InvalidInput, Reason

IMAGE_COLUMNS = ("image", "jpg", "bytes")
ROWS = 16  # of Parquet that are unpacked at once
KEY_COLUMNS = ("key", "__key__", "path", "id")


class Row(NamedTuple):
    """One image as it came in, or the reason why it did not."""

    key: str
    data: bytes | memoryview
    reason: str = ""
    detail: str = ""


def parquet_columns(schema: pa.Schema, name: str) -> tuple[str, str | None]:
    """(image column, key column or None) of a Parquet file. Raises InvalidInput if no column can hold images."""
    for column in IMAGE_COLUMNS:
        if column in schema.names and _holds_bytes(schema.field(column).type):
            break
    else:
        raise InvalidInput(
            f"{name}: no image column; name one of its columns {' | '.join(IMAGE_COLUMNS)}, binary or a struct with "
            f"bytes (it has {', '.join(schema.names) or 'none'})"
        )
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
        return [f"{stem}/{number}" if key is None else key for number, key in zip(numbers, keys, strict=True)]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BadImage(Reason.shard_incomplete, _broken(group, error)) from None


def _texts(values: "pa.ChunkedArray[Any]") -> list[str | None]:
    """What is no UTF-8 is kept as file names keep it, and found unsafe later."""
    try:
        return [None if value is None else str(value) for value in values.to_pylist()]
    except UnicodeDecodeError:
        found = (value.as_buffer() for value in values)
        return [None if text is None else text.to_pybytes().decode("utf-8", "surrogateescape") for text in found]


def _broken(group: int, error: Exception) -> str:
    return f"row group {group} cannot be read: {' '.join(str(error).split())[:200]}"


def too_large(key: str, what: str, max_bytes: int) -> Row:
    """An image that is not read, for its size in bytes."""
    return Row(key, b"", Reason.too_large, f"{what}, max_file_bytes is {max_bytes}: raise it if you trust the file")


def parquet_rows(
    file: pq.ParquetFile, group: int, keys: list[str], column: str, max_bytes: int
) -> Iterator[Row]:
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
            yield from (Row(key, b"", Reason.shard_incomplete, detail) for key in keys[number:])
            return
        data = value.get("bytes") if isinstance(value, dict) else value
        unpacked += len(data or b"")
        if images is None or unpacked > max_bytes:
            images = None
            yield too_large(key, f"row group {group} unpacks to more bytes than may be read at once", max_bytes)
        elif data is None:
            yield Row(key, b"", Reason.empty, f"no bytes in column {column}")
        else:
            yield Row(key, data)


def _values(file: pq.ParquetFile, group: int, column: str) -> Iterator[Any]:
    """The values of a column, a few at a time: repeated ones may unpack to a thousand times what is stored."""
    for batch in file.iter_batches(ROWS, row_groups=[group], columns=[column]):
        yield from (value.as_py() for value in batch.column(0))


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_bytes(kind.field("bytes").type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _is_key(kind: pa.DataType) -> bool:
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    return text or pa.types.is_integer(kind)
