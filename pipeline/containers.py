"""What tar shards (WebDataset) and Parquet row groups hold, as rows of (key, data, reason, detail). Knows no Ray.

A row with a reason has no data: it is an image that fails before anybody looks at it, or a container that was cut.
"""

import io
import tarfile
from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from driftrec.errors import InvalidInput, Reason
from pipeline.names import is_image

IMAGE_COLUMNS = ("image", "jpg", "bytes")
KEY_COLUMNS = ("key", "__key__", "path", "id")
BLOCK = 512  # bytes of a tar record


class Row(NamedTuple):
    """One image as it came in, or the reason why it did not."""

    key: str
    data: bytes | memoryview
    reason: str = ""
    detail: str = ""


class _Member(tarfile.TarInfo):
    """A header whose size or extended header lies cannot send the reader backwards, and so round in circles."""

    def _block(self, count: int) -> int:
        if count < 0:
            raise tarfile.InvalidHeaderError("negative size")
        return super()._block(count)  # type: ignore[misc]


def tar_rows(data: bytes, name: str, stem: str) -> Iterator[Row]:
    """A row per image member of the tar `data`, named "<stem>/<member>"; a last row named `name` if the tar was cut."""
    view, end, complete = memoryview(data), 0, False
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:", tarinfo=_Member) as tar:
            while member := tar.next():
                end = tar.offset
                if row := _member_row(view, member, stem):
                    yield row
            complete = view[end : end + BLOCK] == bytes(BLOCK)
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        yield Row(name, b"", Reason.shard_incomplete, f"broken after byte {end} of {len(data)}: {error}")
        return
    if not complete:
        detail = f"no end-of-archive mark at byte {end} of {len(data)}: the tar was cut, members may be missing"
        yield Row(name, b"", Reason.shard_incomplete, detail)


def _member_row(view: memoryview, member: tarfile.TarInfo, stem: str) -> Row | None:
    """The row of one member, None if it does not promise an image."""
    if member.isdir() or not is_image(member.name):
        return None
    key = f"{stem}/{member.name.removeprefix('./')}"
    if member.issym() or member.islnk():
        return Row(key, b"", Reason.unsafe_name, f"a link to {member.linkname!r} inside the tar, not a file")
    if not member.isreg() or member.issparse():
        return Row(key, b"", Reason.unsupported, "a device, sparse or other special file inside the tar")
    data = view[member.offset_data : member.offset_data + member.size]
    if len(data) < member.size:
        return Row(key, b"", Reason.truncated, f"the tar ends after {len(data)} of its {member.size} bytes")
    return Row(key, data)


def tar_size(data: bytes) -> int:
    """How many rows the tar will give."""
    return sum(1 for _ in tar_rows(data, "", ""))


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
