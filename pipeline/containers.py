"""What containers hold, as rows of (key, data, reason, detail); here Parquet row groups. Knows no Ray.

A row with a reason has no data: it is an image that fails before anybody looks at it, or a container that was cut.
"""

from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from driftrec.errors import InvalidInput, Reason

IMAGE_COLUMNS = ("image", "jpg", "bytes")
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
    """Keys of one row group: the key column's values, or "<stem>/<row>" where there is none."""
    numbers = range(first, first + file.metadata.row_group(group).num_rows)
    if column is None:
        return [f"{stem}/{number}" for number in numbers]
    values = file.read_row_group(group, columns=[column]).column(column)
    return [
        f"{stem}/{number}" if value is None else str(value)
        for number, value in zip(numbers, values.to_pylist(), strict=True)
    ]


def parquet_rows(file: pq.ParquetFile, group: int, keys: list[str], column: str) -> Iterator[Row]:
    """A row per image of one row group. A group that cannot be read gives its rows the reason shard_incomplete."""
    try:
        images = file.read_row_group(group, columns=[column]).column(column)
    except (pa.ArrowException, OSError) as error:
        detail = f"row group {group} cannot be read: {' '.join(str(error).split())[:200]}"
        yield from (Row(key, b"", Reason.shard_incomplete, detail) for key in keys)
        return
    for key, image in zip(keys, images, strict=True):
        value = image.as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if data is None:
            yield Row(key, b"", Reason.empty, f"no bytes in column {column}")
        else:
            yield Row(key, data)


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_bytes(kind.field("bytes").type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _is_key(kind: pa.DataType) -> bool:
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    return text or pa.types.is_integer(kind)
