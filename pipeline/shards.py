"""What is to be done: an input as a deterministic list of shards, and a Ray Datasource over them.

A shard is the unit of work and of commit. Loose files are grouped in the order of their names; a tar is one shard,
which is not opened before its turn; a row group of a Parquet file is one shard. A shard's id is a digest of what it
holds, so the same input gives the same ids on every machine.
"""

import hashlib
import logging
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from driftrec.errors import DriftRecError, InvalidInput, Reason
from pipeline.collisions import OutputName, Taken
from pipeline.containers import Row, parquet_columns, parquet_keys, parquet_rows, tar_rows, tar_size
from pipeline.inputs import Input, nothing_found, open_input
from pipeline.names import is_image, printable, strip_suffix, suffix, unsafe
from pipeline.store import AccessDenied, LocalStore, NotFound, StorageError, Store
from pipeline.store_file import StoreFile

log = logging.getLogger(__name__)

TARGET_BYTES = 8 * 2**20  # compressed; 4 to 16 MiB a block works best with Ray Data
MAX_IMAGES = 64  # in a shard of loose files: what a kill costs at most
MIN_SHARDS = 16  # a small input is cut finer than that, so that all actors get work and the progress shows
READERS = 8  # parallel reads of loose files from a remote store
TEXTS = ("shard", "key", "reason", "detail")
SCHEMA = pa.schema([*((name, pa.string()) for name in TEXTS), ("data", pa.large_binary())])


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
    limit: int | None = None  # read only so many rows


@dataclass(frozen=True)
class Listing:
    """What an input holds."""

    source: Input
    shards: list[Shard]
    ignored: Counter[str]  # files that are no images, by suffix

    @property
    def images(self) -> int | None:
        """How many images, None while tars are unopened."""
        counts = [shard.images for shard in self.shards]
        return None if None in counts else sum(count or 0 for count in counts)

    @property
    def digest(self) -> str:
        """One digest of all shards: it changes when the input does."""
        return hashlib.sha256("\n".join(shard.id for shard in self.shards).encode()).hexdigest()


def list_shards(
    url: str, target_bytes: int = TARGET_BYTES, max_images: int = MAX_IMAGES, limit: int | None = None
) -> list[Shard]:
    """The shards of an input, without the check of output names (see `list_input`)."""
    return list_input(url, target_bytes, max_images, limit).shards


def list_input(
    url: str,
    target_bytes: int = TARGET_BYTES,
    max_images: int = MAX_IMAGES,
    limit: int | None = None,
    output_name: OutputName | None = None,
) -> Listing:
    """List an input: deterministic, and linear in memory with about 20 bytes an image.

    Args:
        url: folder, tar, Parquet, or a glob; local or any fsspec URL.
        target_bytes: compressed bytes of loose files at which a shard is closed.
        max_images: loose files in a shard, at most; small inputs are cut finer.
        limit: only the first so many images; tars are opened then, to count.
        output_name: name of the output of a key; given, two keys on one output are refused.

    Raises InvalidInput for an input that does not exist, is empty, or has two images on one output name.
    """
    source = open_input(url)
    try:
        listing = _list(source, target_bytes, max_images, limit, output_name)
    except StorageError as error:
        raise InvalidInput(f"INPUT {error}") from None
    if not listing.shards:
        raise nothing_found(source, listing.ignored.total())
    if listing.ignored:
        kinds = ", ".join(f"{count} {kind or 'without suffix'}" for kind, count in listing.ignored.most_common(8))
        log.info("files that are no images, left out: %s", kinds)
    return listing


def _list(
    source: Input, target_bytes: int, max_images: int, limit: int | None, output_name: OutputName | None
) -> Listing:
    ignored: Counter[str] = Counter()
    containers: list[tuple[str, int]] = []

    def loose() -> Iterator[tuple[str, int]]:
        for name, size in source.files():
            if is_image(name):
                yield name, size
            elif suffix(name) in (".tar", ".parquet"):
                containers.append((name, size))
            else:
                ignored[suffix(name)] += 1

    shards = list(_group(source.store, loose(), target_bytes, max_images))
    taken = Taken(output_name) if output_name else None
    if taken:
        taken.add_files(lambda: (name for shard in shards for name, _ in _unpack(shard)))
        taken.check_trees([strip_suffix(name) for name, _ in containers if suffix(name) == ".tar"])
    for name, size in containers:
        if suffix(name) == ".tar":
            shards.append(Shard(_id("tar", name, size), "tar", source.store, name, size, None))
        else:
            shards.extend(_row_groups(source.store, name, size, taken))
    return Listing(source, _limited(shards, limit) if limit else shards, ignored)


def _group(
    store: Store, files: Iterator[tuple[str, int]], target_bytes: int, max_images: int
) -> Iterator[Shard]:
    """Loose files, in their order, as shards. The first files are looked at together, to cut a small input finer."""
    head = list(islice(files, MIN_SHARDS * max_images))
    most = max(1, min(max_images, -(-len(head) // MIN_SHARDS)))
    group: list[tuple[str, int]] = []
    size = 0
    for item in chain(head, files):
        group.append(item)
        size += item[1]
        if size >= target_bytes or len(group) >= most:
            yield _files_shard(store, group)
            group, size = [], 0
    if group:
        yield _files_shard(store, group)


def _files_shard(store: Store, files: Sequence[tuple[str, int]]) -> Shard:
    packed = "\0".join(f"{size}:{name}" for name, size in files).encode("utf-8", "surrogateescape")
    size = sum(size for _, size in files)
    return Shard(_id("files", packed), "files", store, "", size, len(files), zlib.compress(packed, 1))


def _unpack(shard: Shard) -> list[tuple[str, int]]:
    """(name, bytes) of the loose files of a shard."""
    items = zlib.decompress(shard.files).decode("utf-8", "surrogateescape").split("\0")
    return [(name, int(size)) for size, _, name in (item.partition(":") for item in items)]


def _id(*parts: object) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogateescape")
        digest.update(f"{len(data)}:".encode() + data)
    return digest.hexdigest()


def _row_groups(store: Store, name: str, size: int, taken: Taken | None) -> Iterator[Shard]:
    """One shard a row group; a file whose footer cannot be read is one shard that says so."""
    try:
        file = _open_parquet(store, name)
    except (pa.ArrowException, OSError):
        yield Shard(_id("parquet", name, size), "parquet", store, name, size, 1, group=-1)
        return
    _, key_column = parquet_columns(file.schema_arrow, store.where(name))
    first = 0
    for group in range(file.metadata.num_row_groups):
        info = file.metadata.row_group(group)
        duplicates: frozenset[int] = frozenset()
        if taken:
            duplicates = taken.add(parquet_keys(file, group, key_column, strip_suffix(name), first))
        shard_id = _id("parquet", name, size, group, info.num_rows)
        yield Shard(
            shard_id, "parquet", store, name, info.total_byte_size, info.num_rows, b"", group, first, duplicates
        )
        first += info.num_rows


def _limited(shards: list[Shard], limit: int) -> list[Shard]:
    """The shards that hold the first `limit` images, the last of them cut; its id says so."""
    kept: list[Shard] = []
    for shard in shards:
        images = shard.images if shard.images is not None else tar_size(shard.store.read(shard.name))
        if images > limit:
            kept.append(replace(shard, id=_id(shard.id, limit), limit=limit, images=shard.images and limit))
            break
        kept.append(shard)
        limit -= images
        if limit == 0:
            break
    return kept



def read_shard(shard: Shard, output_name: OutputName | None = None) -> pa.Table:
    """All images of a shard, with SCHEMA: a row has data, or a reason and a detail why there is none.

    Unsafe names, names whose output another row of the shard has taken (only if `output_name` is given), objects that
    storage does not give and cut containers are rows with a reason. Raises StorageError if storage as a whole fails.
    """
    return _table(shard, islice(_checked(shard, _rows(shard), output_name), shard.limit))


def keys_of(shard: Shard) -> list[str]:
    """The keys of a shard's images as they are stored. A tar is read whole for that; of others only names are read."""
    if shard.kind == "files":
        return [name for name, _ in _unpack(shard)]
    if shard.kind == "tar" or shard.group < 0:
        return [row.key for row in _rows(shard)]
    file = _open_parquet(shard.store, shard.name)
    _, key_column = parquet_columns(file.schema_arrow, shard.store.where(shard.name))
    return parquet_keys(file, shard.group, key_column, strip_suffix(shard.name), shard.first_row)


def _rows(shard: Shard) -> Iterator[Row]:
    if shard.kind == "files":
        return _file_rows(shard)
    if shard.kind == "tar":
        data = shard.store.read(shard.name)
        if len(data) < shard.size:  # a connection that was cut looks like a short file
            data = shard.store.read(shard.name)
        return tar_rows(data, shard.name, strip_suffix(shard.name))
    if shard.group < 0:
        detail = "the Parquet footer is missing or broken: the file was cut"
        return iter([Row(shard.name, b"", Reason.shard_incomplete, detail)])
    file = _open_parquet(shard.store, shard.name)
    column, key_column = parquet_columns(file.schema_arrow, shard.store.where(shard.name))
    keys = parquet_keys(file, shard.group, key_column, strip_suffix(shard.name), shard.first_row)
    return parquet_rows(file, shard.group, keys, column)


def _file_rows(shard: Shard) -> Iterator[Row]:
    """Loose files; from a remote store some at a time, because each waits for its answer."""
    files = _unpack(shard)
    if isinstance(shard.store, LocalStore):
        yield from (_file_row(shard.store, *file) for file in files)
        return
    with ThreadPoolExecutor(READERS) as pool:
        yield from pool.map(lambda file: _file_row(shard.store, *file), files)


def _file_row(store: Store, name: str, size: int) -> Row:
    if unsafe(name):
        return Row(name, b"")  # never opened; `_checked` gives the reason
    try:
        data = store.read(name)
        if len(data) < size:
            data = store.read(name)
    except (NotFound, AccessDenied) as error:
        return Row(name, b"", Reason.unreadable, str(error))
    except StorageError as error:
        if not isinstance(store, LocalStore):
            raise  # the network or the service, not this object: the run stops and can go on later
        return Row(name, b"", Reason.unreadable, str(error))
    if len(data) < size:
        return Row(name, b"", Reason.unreadable, f"{len(data)} bytes came, the listing said {size}")
    return Row(name, data)


def _checked(shard: Shard, rows: Iterable[Row], output_name: OutputName | None) -> Iterator[Row]:
    """The rows with unsafe and repeated names turned into reasons, and with keys that are unique in the shard."""
    keys: set[str] = set()
    taken = Taken(output_name) if output_name else None
    for position, row in enumerate(rows, start=shard.first_row):
        why, key = unsafe(row.key), printable(row.key)
        repeated = bool(taken and taken.add([row.key])) or position - shard.first_row in shard.duplicates
        if why:
            row = Row(key, b"", Reason.unsafe_name, why)
        elif repeated and not row.reason:
            detail = f"an earlier image has the output name of {key}"
            row = Row(key, b"", Reason.duplicate_name, detail)
        if key in keys or (repeated and row.reason == Reason.duplicate_name and shard.kind == "parquet"):
            row = row._replace(key=f"{key}#{position}")
        keys.add(row.key)
        yield row


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


def _open_parquet(store: Store, name: str) -> pq.ParquetFile:
    return pq.ParquetFile(StoreFile(store, name))


class ShardSource(Datasource):
    """A Ray Datasource with one read task, and so one block, a shard. Without images a block has one null key."""

    def __init__(self, shards: Sequence[Shard], output_name: OutputName | None = None) -> None:
        super().__init__()
        self._shards = list(shards)
        self._output_name = output_name

    def estimate_inmemory_data_size(self) -> int:
        """Compressed bytes, which is what the blocks hold."""
        return sum(shard.size for shard in self._shards)

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: object = None
    ) -> list[ReadTask]:
        """One task a shard, whatever parallelism is asked for."""
        return [self._task(shard) for shard in self._shards]

    def _task(self, shard: Shard) -> ReadTask:
        output_name = self._output_name
        metadata = BlockMetadata(num_rows=shard.images, size_bytes=shard.size, exec_stats=None, input_files=None)
        return ReadTask(lambda: [_block(shard, output_name)], metadata, schema=SCHEMA)


def _block(shard: Shard, output_name: OutputName | None) -> pa.Table:
    """The shard's table; without images, or if storage fails, one row with a null key (see `unreadable`)."""
    problem = ""
    try:
        table = read_shard(shard, output_name)
        if table.num_rows:
            return table
    except DriftRecError as error:
        problem = str(error)  # as data: Ray would bury an exception in its own
    row = {"shard": [shard.id], "key": [None], "reason": [""], "detail": [problem], "data": [b""]}
    return pa.table(row, schema=SCHEMA)


def unreadable(block: pa.Table) -> str:
    """Why a block of ShardSource could not be read and the run cannot go on; "" if it could."""
    return "" if block["key"][0].is_valid else str(block["detail"][0].as_py())
