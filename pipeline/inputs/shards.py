"""What is to be done: an input as a deterministic list of shards, and what they hold. Knows no Ray.

A shard is the unit of work and of commit. Loose files are grouped in the order of their names; a tar is one shard, or
cut into several, and not opened before its turn; a row group of a Parquet file is one shard. A shard's id is a digest
of what it holds, so the same input gives the same ids on every machine.
"""

import hashlib
import logging
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from driftrec.errors import BadImage, InvalidInput, Reason
from pipeline.inputs.collisions import OutputName, Taken
from pipeline.inputs.location import Input, nothing_found, open_input
from pipeline.inputs.names import is_image, printable, strip_suffix, suffix, unsafe
from pipeline.inputs.parquet import Row, parquet_columns, parquet_keys, parquet_rows, too_large
from pipeline.inputs.selection import EVERYTHING, Choice, Selection
from pipeline.inputs.tars import TarFile, tar_rows
from pipeline.storage.base import StorageError, Store, is_of_object
from pipeline.storage.file import StoreFile
from pipeline.storage.local import LocalStore

log = logging.getLogger(__name__)

TARGET_BYTES = 8 * 2**20  # compressed; 4 to 16 MiB a block works best with Ray Data
MAX_IMAGES = 64  # in a shard of loose files: what a kill costs at most
MIN_SHARDS = 16  # a small input is cut finer than that, so that all actors get work and the progress shows
MIN_PIECE = 2**20  # bytes of a tar, when small tars are cut finer for the same reason
RECORD = 20 * 512  # bytes that tar writes at once: no piece is smaller
MAX_PIECES = 100_000  # of all tars together: what lies in more than 800 GB of tars is cut less finely
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
    lost: frozenset[str] = frozenset()  # keys of a piece of a tar whose output name an earlier piece has taken
    start: int = 0  # byte of the tar at which a piece begins
    stop: int | None = None  # and where it ends; None for the end of the tar
    choice: Choice = EVERYTHING  # patterns of the keys that are meant
    kept: frozenset[int] | None = None  # rows that are meant, where they are known; from 0 in the shard
    limit: int | None = None  # read only so many rows
    max_bytes: int = MAX_FILE_BYTES  # of one file in it; larger ones are not read


@dataclass(frozen=True)
class Listing:
    """What an input holds."""

    source: Input
    shards: list[Shard]
    ignored: Counter[str]  # files that are no images, by suffix
    left_out: int = 0  # loose files and rows of Parquet files that the choice leaves out

    def bounded(self, max_bytes: int) -> "Listing":
        """The same listing, of whose files none larger than this is read."""
        return replace(self, shards=[replace(shard, max_bytes=max_bytes) for shard in self.shards])

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
    choice: Choice = EVERYTHING,
    cut_tars: bool = False,
) -> Listing:
    """List an input: deterministic, and linear in memory with about 20 bytes an image.

    Args:
        url: folder, tar, Parquet, or a glob; local or any fsspec URL.
        target_bytes: compressed bytes of loose files at which a shard is closed.
        max_images: loose files in a shard, at most; small inputs are cut finer.
        limit: only the first so many images; tars are opened then, to count.
        output_name: name of the output of a key; given, two keys on one output are refused.
        choice: of the images; with a list of keys, tars that may hold some of them are opened.
        cut_tars: whether a tar is cut into shards of `target_bytes`, or is one shard and read whole. Two members on one
            output name may then be in two shards, which only their ledger parts show (`pipeline.runs.redo`).

    Raises InvalidInput for an input that does not exist, is empty, or has two images on one output name; for a choice
    that leaves nothing, or names keys that are not there.
    """
    source = open_input(url)
    try:
        listing = _list(source, target_bytes, max_images, output_name, choice, cut_tars)
        if limit:
            listing = replace(listing, shards=_limited(listing.shards, limit))
    except StorageError as error:
        raise InvalidInput(f"INPUT {error}") from None
    if not listing.shards and listing.left_out:
        raise InvalidInput(f"INPUT {source.url}: --include, --exclude and --only-listed leave none of its images")
    if not listing.shards:
        raise nothing_found(source, listing.ignored.total())
    if listing.ignored:
        kinds = ", ".join(f"{count} {kind or 'without suffix'}" for kind, count in listing.ignored.most_common(8))
        log.info("files that are no images, left out: %s", kinds)
    return listing


def _list(
    source: Input,
    target_bytes: int,
    max_images: int,
    output_name: OutputName | None,
    choice: Choice,
    cut_tars: bool,
) -> Listing:
    ignored: Counter[str] = Counter()
    containers: list[tuple[str, int]] = []
    selection = Selection(choice)

    def loose() -> Iterator[tuple[str, int]]:
        for name, size in source.files():
            if is_image(name):
                if selection.takes(name):
                    yield name, size
            elif suffix(name) in (".tar", ".parquet"):
                containers.append((name, size))
            else:
                ignored[suffix(name)] += 1

    shards = list(_group(source.store, loose(), target_bytes, max_images))
    taken = Taken(output_name) if output_name else None
    if taken:
        taken.add_files(lambda: (name for shard in shards for name, _ in files_of(shard)))
        taken.check_trees([strip_suffix(name) for name, _ in containers if suffix(name) == ".tar"])
    tars = sum(size for name, size in containers if suffix(name) == ".tar")
    length = max(RECORD, tars // MAX_PIECES, min(target_bytes, max(MIN_PIECE, tars // MIN_SHARDS)))
    for name, size in containers:
        if suffix(name) == ".tar":
            shards += _pieces(source.store, name, size, length if cut_tars else None, selection)
        else:
            shards += _row_groups(source.store, name, size, taken, selection)
    selection.check_found()
    return Listing(source, shards, ignored, selection.left_out)


def _pieces(store: Store, name: str, size: int, length: int | None, selection: Selection) -> Iterator[Shard]:
    """A tar as shards of about `length` bytes. It is opened only if some of its keys may have been asked for."""
    if not selection.may_take_below(strip_suffix(name)):
        return
    starts = range(0, max(1, size), length or max(1, size))
    choice = selection.choice
    for start in starts:
        stop = None if start == starts[-1] else start + starts.step
        parts = ("tar", name, size) if len(starts) == 1 else ("tar", name, size, start, stop)
        shard_id = _id(*parts, choice.digest()) if choice else _id(*parts)
        length = min(size, stop or size) - start
        piece = Shard(shard_id, "tar", store, name, length, None, start=start, stop=stop, choice=choice.patterns)
        if choice.listed is not None:
            kept = selection.rows(keys_of(piece))
            if not kept:
                continue
            piece = replace(piece, kept=kept)
        yield piece


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


def files_of(shard: Shard) -> list[tuple[str, int]]:
    """(name, bytes) of the loose files of a shard."""
    items = zlib.decompress(shard.files).decode("utf-8", "surrogateescape").split("\0")
    return [(name, int(size)) for size, _, name in (item.partition(":") for item in items)]


def _id(*parts: object) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogateescape")
        digest.update(f"{len(data)}:".encode() + data)
    return digest.hexdigest()


def _row_groups(store: Store, name: str, size: int, taken: Taken | None, selection: Selection) -> Iterator[Shard]:
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
        shard_id = _id("parquet", name, size, group, info.num_rows)
        shard = Shard(shard_id, "parquet", store, name, info.total_byte_size, info.num_rows, b"", group, first)
        keys = parquet_keys(file, group, key_column, strip_suffix(name), first) if taken or selection.choice else []
        if selection.choice:
            kept = selection.rows(keys)
            shard = replace(shard, id=_id(shard_id, selection.choice.digest()), images=len(kept), kept=kept)
        if taken:
            rows = sorted(shard.kept) if shard.kept is not None else range(info.num_rows)
            repeated = taken.add([keys[row] for row in rows])
            shard = replace(shard, duplicates=frozenset(rows[place] for place in repeated))
        if shard.images or not selection.choice:
            yield shard
        first += info.num_rows


def _limited(shards: list[Shard], limit: int) -> list[Shard]:
    """The shards that hold the first `limit` images, the last of them cut; its id says so."""
    kept: list[Shard] = []
    for shard in shards:
        images = shard.images if shard.images is not None else sum(1 for _ in _checked(shard, stored_rows(shard), None))
        if images > limit:
            kept.append(replace(shard, id=_id(shard.id, limit), limit=limit, images=shard.images and limit))
            break
        kept.append(shard)
        limit -= images
        if limit == 0:
            break
    return kept


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
        (file[0], replace(_files_shard(shard.store, [file]), id=shard.id, max_bytes=shard.max_bytes))
        for file in files_of(shard)
    ]


def narrowed(shard: Shard, keys: Collection[str]) -> Shard:
    """The same shard, where it can be with these of its images only. Keys are those of the ledger."""
    if shard.kind != "files":
        return shard
    files = [file for file in files_of(shard) if printable(file[0]) in keys]
    return replace(_files_shard(shard.store, files), id=shard.id, max_bytes=shard.max_bytes)


def keys_of(shard: Shard) -> list[str]:
    """The keys of all images of a shard as they are stored, of those that are not meant as well.

    A tar is read for that; of others only names are read.
    """
    if shard.kind == "files":
        return [name for name, _ in files_of(shard)]
    if shard.kind == "tar" or shard.group < 0:
        return [row.key for row in stored_rows(shard, data=False)]
    file = _open_parquet(shard.store, shard.name)
    _, key_column = parquet_columns(file.schema_arrow, shard.store.where(shard.name))
    return parquet_keys(file, shard.group, key_column, strip_suffix(shard.name), shard.first_row)


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
    file = _open_parquet(shard.store, shard.name)
    column, key_column = parquet_columns(file.schema_arrow, shard.store.where(shard.name))
    keys = parquet_keys(file, shard.group, key_column, strip_suffix(shard.name), shard.first_row)
    return parquet_rows(file, shard.group, keys, column, shard.max_bytes)


def _given(shard: Shard, output_name: OutputName | None, source: Source) -> Iterator[Row]:
    """The rows. Where this container alone is refused by storage, or not to be read, there are rows for the rest."""
    given = 0
    try:
        for row in _checked(shard, source(shard), output_name):
            yield row
            given += 1
    except StorageError as error:
        if not is_of_object(shard.store, shard.name, error):
            raise
        yield from _rest(shard, given, Reason.shard_incomplete, str(error))
    except BadImage as error:
        yield from _rest(shard, given, error.reason, error.detail)


def _rest(shard: Shard, given: int, reason: Reason, detail: str) -> Iterator[Row]:
    """A row for each image of a container that was not given, whose keys nobody knows; one for all of them if nobody
    knows how many.
    """
    for number in range(given, given + 1 if shard.images is None else shard.images):
        place = shard.start + shard.first_row + number
        yield Row(printable(f"{shard.name}#{place}" if place else shard.name), b"", reason, detail)


def _file_rows(shard: Shard) -> Iterator[Row]:
    """Loose files; from a remote store some at a time, because each waits for its answer."""
    files = files_of(shard)
    if isinstance(shard.store, LocalStore):
        yield from (_file_row(shard.store, *file, shard.max_bytes) for file in files)
        return
    with ThreadPoolExecutor(READERS) as pool:
        yield from pool.map(lambda file: _file_row(shard.store, *file, shard.max_bytes), files)


def _file_row(store: Store, name: str, size: int, max_bytes: int) -> Row:
    if unsafe(name):
        return Row(name, b"")  # never opened; `_checked` gives the reason
    if isinstance(store, LocalStore) and store.leads_out(name):
        return Row(name, b"", Reason.unsafe_name, "a link that leads out of the input: put the file in its place")
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


def _checked(shard: Shard, rows: Iterable[Row], output_name: OutputName | None) -> Iterator[Row]:
    """The rows with unsafe and repeated names turned into reasons, and with keys that are unique in the shard."""
    keys: set[str] = set()
    taken = Taken(output_name) if output_name else None
    for position, row in enumerate(rows, start=shard.first_row):
        if not _is_meant(shard, position - shard.first_row, row):
            continue
        why, key = unsafe(row.key), printable(row.key)
        lost = key in shard.lost
        repeated = bool(taken and taken.add([row.key])) or lost or position - shard.first_row in shard.duplicates
        if why:
            row = Row(key, b"", Reason.unsafe_name, why)
        elif repeated and not row.reason:
            detail = f"an earlier image has the output name of {key}"
            row = Row(key, b"", Reason.duplicate_name, detail)
        elsewhere = lost or (repeated and row.reason == Reason.duplicate_name and shard.kind == "parquet")
        if key in keys or elsewhere:
            row = row._replace(key=f"{key}#{shard.start + position}")
        keys.add(row.key)
        yield row


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


def _open_parquet(store: Store, name: str) -> pq.ParquetFile:
    return pq.ParquetFile(StoreFile(store, name))
