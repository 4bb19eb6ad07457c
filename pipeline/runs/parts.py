"""The file of a ledger's part: Parquet, with a note of the run and shard that it is of, sealed by a digest of all else
in it. Knows bytes and tables; no store, no columns.
"""

import hashlib
import io
import json
import re
from collections.abc import Collection

import pyarrow as pa
import pyarrow.parquet as pq

from driftrec.errors import DriftRecError, one_line

NOTE = "driftrec"  # name of the note in the file's footer
BLANK = b"0" * 32  # stands where the seal will be
NOTED = re.compile(rb'\{"run": "([0-9a-f]*)", "shard": "([0-9a-f]*)", "seal": "([0-9a-f]{32})"\}')


class BrokenPart(DriftRecError):
    """A ledger part is not whole, or was changed."""


class ForeignPart(DriftRecError):
    """A ledger part belongs to another run or shard than its place says."""


def pack(table: pa.Table, run: str, shard: str) -> bytes:
    """The rows of a shard as a part of the run with this fingerprint."""
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, table.schema, compression="zstd") as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({NOTE: json.dumps({"run": run, "shard": shard, "seal": BLANK.decode()})})
    data = sink.getvalue()
    note = _noted(data)
    assert note
    return data[: note.start(3)] + _seal(data, note) + data[note.end(3) :]


def unpack(
    data: bytes, runs: Collection[str], shard: str, noted: bool = True, columns: list[str] | None = None
) -> pa.Table:
    """The rows of a part; all its columns, or some.

    Args:
        data: the file.
        runs: fingerprints of the run that it should be of.
        shard: id of the shard that it should be of.
        noted: whether it must say so: parts of older versions say nothing.
        columns: None for all.

    Raises BrokenPart or ForeignPart, with the reason in a few words.
    """
    if not data:
        raise BrokenPart("it is empty")
    note = _noted(data)
    if note:
        if _seal(data, note) != note[3]:
            raise BrokenPart("it is not whole, or was changed")
        if note[1].decode() not in runs:
            raise ForeignPart("it is of another run")
        if note[2].decode() != shard:
            raise ForeignPart(f"it is the part of shard {note[2].decode()} under another name")
    table = rows_of_any(data, columns)
    if noted and not note:
        raise ForeignPart("it does not say of which run it is")
    return table


def rows_of_any(data: bytes, columns: list[str] | None = None) -> pa.Table:
    """The rows of a part, whosever it is, and if it was changed. Raises BrokenPart if it cannot be read."""
    try:
        return pq.read_table(io.BytesIO(data), columns=columns).replace_schema_metadata(None)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BrokenPart(f"it cannot be read: {one_line(error, 100)}") from None


def _noted(data: bytes) -> re.Match[bytes] | None:
    """The last note: rows may hold anything, and lie before it."""
    start = data.rfind(b'{"run": "')
    return NOTED.match(data, start) if start >= 0 else None


def _seal(data: bytes, note: re.Match[bytes]) -> bytes:
    unsealed = data[: note.start(3)] + BLANK + data[note.end(3) :]
    return hashlib.blake2b(unsealed, digest_size=16).hexdigest().encode()
