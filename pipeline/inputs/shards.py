"""A shard: some images of the input, the unit of work and of commit; and its rows, read. Knows no Ray.

It is a group of loose files, a tar or a piece of one, or a row group of a Parquet file. Its id is a digest of what it
holds, so the same input gives the same ids on every machine.
"""

import hashlib
import logging
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import IO, Literal, cast

import pyarrow as pa
import pyarrow.parquet as pq

from driftrec.errors import BadImage, Reason
from pipeline.inputs.collisions import OutputName, Taken, unsafe_for
from pipeline.inputs.names import printable, strip_suffix, unsafe
from pipeline.inputs.parquet import Row, parquet_columns, parquet_keys, parquet_rows, too_large
from pipeline.inputs.selection import EVERYTHING, Choice
from pipeline.inputs.tars import TarFile, tar_rows
from pipeline.storage.base import StorageError, Store, is_of_object
from pipeline.storage.file import StoreFile
from pipeline.storage.local import LocalStore

log = logging.getLogger(__name__)
MAX_FILE_BYTES = 2**30  # of one image's file, or of what a row group of Parquet unpacks to: larger are not read
READERS = 8  # parallel reads of loose files from a remote store
TEXTS = ("shard", "key", "reason", "detail")
SCHEMA = pa.schema([*((name, pa.string()) for name in TEXTS), ("data", pa.large_binary())])


Source = Callable[["Shard"], Iterator[Row]]  # of the rows of a shard, as they are stored


@dataclass(frozen=True)
class Shard:
    """Some images of the input, described by a few hundred bytes; picklable, and readable anywhere."""

    id: str  # 16 hexadecimal digits
    kind: Literal["files", "tar", "parquet"]
    store: Store = field(repr=False, compare=False)
    name: str  # of the tar or Parquet file in the store; "" for loose files
    size: int  # compressed bytes
    images: int | None  # None for a tar: not known before it is read
    files: bytes = field(default=b"", repr=False)  # packed names and sizes of loose files
    group: int = 0  # row group of a Parquet file; -1 where the file has no readable footer
    first_row: int = 0  # of the row group, counted through the file
    duplicates: frozenset[int] = frozenset()  # rows of the group whose output name an earlier row has taken
    lost: frozenset[str] = frozenset()  # keys that an earlier shard has, or whose output name it has taken
    start: int = 0  # byte of the tar at which a piece begins
    stop: int | None = None  # and where it ends; None for the end of the tar
    choice: Choice = EVERYTHING  # patterns of the keys that are meant
    kept: frozenset[int] | None = None  # rows that are meant, where they are known; from 0 in the shard
    limit: int | None = None  # read only so many rows
    max_bytes: int = MAX_FILE_BYTES  # of one file in it; larger ones are not read


def files_of(shard: Shard) -> list[tuple[str, int]]:
    """(name, bytes) of the loose files of a shard."""
    items = zlib.decompress(shard.files).decode("utf-8", "surrogateescape").split("\0")
    return [(name, int(size)) for size, _, name in (item.partition(":") for item in items)]


def read_shard(shard: Shard, output_name: OutputName | None = None, source: Source | None = None) -> pa.Table:
    """All images of a shard, with SCHEMA: a row has data, or a reason and a detail why there is none.

    Unsafe names, names whose output another row of the shard has taken (only if `output_name` is given), objects that
    storage does not give and cut containers are rows with a reason. Raises StorageError if storage as a whole fails.
    """
    return _table(shard, rows_of(shard, output_name, source))


def rows_of(shard: Shard, output_name: OutputName | None = None, source: Source | None = None) -> Iterator[Row]:
    """The rows of `read_shard`, one by one."""
    return islice(_given(shard, output_name, source or stored_rows), shard.limit)


def pieces(shard: Shard) -> list[tuple[str, Shard]]:
    """(name, shard) of what can be read on its own: each loose file, or the whole of a container's shard."""
    if shard.kind != "files":
        return [(shard.name, shard)]
    return [
        (file[0], replace(files_shard(shard.store, [file]), id=shard.id, max_bytes=shard.max_bytes))
        for file in files_of(shard)
    ]


def narrowed(shard: Shard, keys: Collection[str]) -> Shard:
    """The same shard, where it can be with these of its images only. Keys are those of the ledger."""
    if shard.kind != "files":
        return shard
    files = [file for file in files_of(shard) if printable(file[0]) in keys]
    return replace(files_shard(shard.store, files), id=shard.id, max_bytes=shard.max_bytes)


def keys_of(shard: Shard) -> list[str]:
    """The keys of all images of a shard as they are stored, of those that are not meant as well.

    A tar is read for that; of others only names are read. Where they cannot be read the container's own name stands for
    all of them.
    """
    if shard.kind == "files":
        return [name for name, _ in files_of(shard)]
    if shard.kind == "tar" or shard.group < 0:
        return [row.key for row in stored_rows(shard, data=False)]
    file = open_parquet(shard.store, shard.name)
    _, key_column = parquet_columns(file.schema_arrow, shard.store.where(shard.name))
    try:
        return parquet_keys(file, shard.group, key_column, strip_suffix(shard.name), shard.first_row)
    except BadImage:
        return [shard.name]


def stored_rows(shard: Shard, data: bool = True) -> Iterator[Row]:
    """The rows as they are stored: what `read_shard` looks at."""
    if shard.kind == "files":
        return _file_rows(shard)
    if shard.kind == "tar":
        near = shard.stop if data or not isinstance(shard.store, LocalStore) else shard.start
        tar = TarFile(shard.store, shard.name, shard.start, near)
        bounds = (shard.start, shard.stop, shard.max_bytes if data else 0)
        return tar_rows(tar, shard.name, strip_suffix(shard.name), *bounds)
    if shard.group < 0:
        detail = "the Parquet footer is missing or broken: the file was cut"
        return iter([Row(shard.name, b"", Reason.shard_incomplete, detail)])
    file = open_parquet(shard.store, shard.name)
    column, key_column = parquet_columns(file.schema_arrow, shard.store.where(shard.name))
    keys = parquet_keys(file, shard.group, key_column, strip_suffix(shard.name), shard.first_row)
    return parquet_rows(file, shard.group, keys, column, shard.max_bytes)


def _given(shard: Shard, output_name: OutputName | None, source: Source) -> Iterator[Row]:
    """The rows. Where this container alone is refused by storage, or not to be read, there are rows for the rest."""
    keys: set[str] = set()  # as many as rows
    try:
        for row in checked(shard, source(shard), output_name):
            keys.add(row.key)
            yield row
    except StorageError as error:
        if not is_of_object(shard.store, shard.name, error):
            raise
        yield from _rest(shard, keys, Reason.shard_incomplete, str(error))
    except BadImage as error:
        yield from _rest(shard, keys, error.reason, error.detail)


def _rest(shard: Shard, given: set[str], reason: Reason, detail: str) -> Iterator[Row]:
    """A row for each image of a container that was not given, whose keys nobody knows; one for all of them if nobody
    knows how many.
    """
    for number in range(len(given), len(given) + 1 if shard.images is None else shard.images):
        place = shard.start + shard.first_row + number
        key = printable(f"{shard.name}#{place}" if place else shard.name)
        if key in given or key in shard.lost:
            key = _own_key(shard, key, number, given)
        yield Row(key, b"", reason, detail)


def _file_rows(shard: Shard) -> Iterator[Row]:
    """Loose files; from a remote store some at a time, because each waits for its answer."""
    files = files_of(shard)
    if isinstance(shard.store, LocalStore):
        yield from (_file_row(shard.store, *file, shard.max_bytes) for file in files)
        return

    def row(file: tuple[str, int]) -> Row:
        return _file_row(shard.store, *file, shard.max_bytes)

    with ThreadPoolExecutor(READERS) as pool:
        yield from pool.map(row, files)


def not_to_open(store: Store, name: str) -> tuple[Reason, str] | None:
    """Why a loose file is not opened, None if it may be."""
    if not isinstance(store, LocalStore):
        return None
    if store.leads_out(name):
        return Reason.unsafe_name, "a link that leads out of the input: put the file in its place"
    what = store.no_file(name)
    return (Reason.unreadable, f"{what}; put the file in its place") if what else None


def _file_row(store: Store, name: str, size: int, max_bytes: int) -> Row:
    if unsafe(name):
        return Row(name, b"")  # never opened; `checked` gives the reason
    if why := not_to_open(store, name):
        return Row(name, b"", *why)
    if size > max_bytes:
        return too_large(name, f"the file has {size} bytes", max_bytes)
    try:
        data = store.read(name)
        if len(data) < size:
            data = store.read(name)
    except StorageError as error:
        if not is_of_object(store, name, error):
            raise
        return Row(name, b"", Reason.unreadable, str(error))
    if len(data) < size:
        return Row(name, b"", Reason.unreadable, f"{len(data)} bytes came, the listing said {size}")
    return Row(name, data)


def checked(shard: Shard, rows: Iterable[Row], output_name: OutputName | None) -> Iterator[Row]:
    """The rows with unsafe and repeated names turned into reasons, and with keys that are unique in the shard."""
    keys: set[str] = set()
    taken = Taken(output_name) if output_name else None
    for place, row in enumerate(rows):
        if not _is_meant(shard, place, row):
            continue
        why, key = unsafe_for(output_name, row.key), printable(row.key)
        elsewhere = key in shard.lost or place in shard.duplicates
        claims = None if why or _is_nameless(shard, row) else taken
        repeated = bool(claims and (claims.add([row.key]) or key in keys)) or elsewhere
        if why:
            row = Row(key, b"", Reason.unsafe_name, why)
        elif repeated and not row.reason:
            detail = f"an earlier image has the output name of {key}, or one needs a folder where the other is a file"
            row = Row(key, b"", Reason.duplicate_name, detail)
        numbered = repeated and row.reason == Reason.duplicate_name and shard.kind == "parquet"
        if key in keys or elsewhere or numbered:
            row = row._replace(key=_own_key(shard, key, place, keys))
        keys.add(row.key)
        yield row


def _own_key(shard: Shard, key: str, place: int, keys: Collection[str]) -> str:
    """A key for the row at this place, whose own key another row has."""
    own = f"{key}#{shard.start + shard.first_row + place}"
    while own in keys or own in shard.lost:
        own = f"{own}#{shard.id}"
    return own


def _is_nameless(shard: Shard, row: Row) -> bool:
    """Whether no output will ever be named after this row."""
    return row.reason == Reason.unsafe_name or tells_of_container(shard.name, row.key, row.reason)


def tells_of_container(name: str, key: str, reason: str | None) -> bool:
    """Whether a row tells of the tar or Parquet file `name`, and of no image that it names."""
    return reason == Reason.shard_incomplete and (key == printable(name) or key.startswith(f"{printable(name)}#"))


def _is_meant(shard: Shard, place: int, row: Row) -> bool:
    """Whether the choice takes this row of the shard; what tells of a cut container always stays."""
    if row.reason == Reason.shard_incomplete and row.key == shard.name:
        return True
    return shard.choice.takes(row.key) if shard.kept is None else place in shard.kept


def _table(shard: Shard, rows: Iterable[Row]) -> pa.Table:
    listed = list(rows)
    columns = {
        "shard": [shard.id] * len(listed),
        "key": [row.key for row in listed],
        "reason": [str(row.reason) for row in listed],
        "detail": [row.detail for row in listed],
        "data": [row.data for row in listed],
    }
    return pa.table(columns, schema=SCHEMA)


def open_parquet(store: Store, name: str) -> pq.ParquetFile:
    """The file, read where it lies."""
    return pq.ParquetFile(cast(IO[bytes], StoreFile(store, name)))  # it takes any file; its types say less


def files_shard(store: Store, files: Sequence[tuple[str, int]]) -> Shard:
    """A shard of these loose files: (name, bytes) each."""
    packed = "\0".join(f"{size}:{name}" for name, size in files).encode("utf-8", "surrogateescape")
    size = sum(size for _, size in files)
    return Shard(shard_id("files", packed), "files", store, "", size, len(files), zlib.compress(packed, 1))


def shard_id(*parts: object) -> str:
    """16 hexadecimal digits of what a shard holds."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogateescape")
        digest.update(f"{len(data)}:".encode() + data)
    return digest.hexdigest()
