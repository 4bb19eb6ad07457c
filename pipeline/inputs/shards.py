"""A shard: some images of the input, the unit of work and of commit; and its rows, read. Knows no Ray.

Here is what all kinds share; `loose`, `tars` and `parquet` are the kinds. A shard's id is a digest of what it holds, so
the same input gives the same ids on every machine.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import ClassVar, NamedTuple, TypeVar

import pyarrow as pa

from driftrec.errors import BadImage, Reason
from pipeline.inputs.collisions import OutputName, Taken, unsafe_for
from pipeline.inputs.names import printable
from pipeline.inputs.selection import EVERYTHING, Choice, Selection
from pipeline.storage.base import StorageError, Store, is_of_object

MAX_FILE_BYTES = 2**30  # of one image's file, or of what a row group of Parquet unpacks to: larger are not read
TEXTS = ("shard", "key", "reason", "detail")
BESIDE = pa.map_(pa.string(), pa.large_binary())
SCHEMA = pa.schema([*((name, pa.string()) for name in TEXTS), ("data", pa.large_binary()), ("beside", BESIDE)])


class Incoming(NamedTuple):
    """One image as it came in, or the reason why it did not: then nobody has looked at it, and it has no data."""

    key: str
    data: bytes | memoryview
    reason: str = ""
    detail: str = ""
    beside: Mapping[str, bytes] = {}  # by their names, what goes with it where the shard `carries` that


class Cutting(NamedTuple):
    """What a container is cut into shards by."""

    selection: Selection  # of the images that are meant
    taken: Taken | None  # names of outputs, where there are any
    piece_bytes: int | None  # of what can be read in pieces; None: it is one shard
    image_column: str | None = None  # of Parquet files; None: by its name, or the only one that can be it


S = TypeVar("S", bound="Shard")


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Some images of the input, described by a few hundred bytes; picklable, and readable anywhere."""

    id: str  # 16 hexadecimal digits
    store: Store = field(repr=False, compare=False)
    name: str = ""  # of the container in the store; "" for loose files
    size: int  # compressed bytes
    images: int | None  # None where that is not known before it is read
    first: int = 0  # where it begins in its container: a byte of a tar, a row of a Parquet file
    lost: frozenset[str] = frozenset()  # keys that an earlier shard has, or whose output name it has taken
    duplicates: frozenset[int] = frozenset()  # rows, from 0 in the shard, whose output name an earlier row has taken
    choice: Choice = EVERYTHING  # patterns of the keys that are meant
    kept: frozenset[int] | None = None  # rows that are meant, where they are known; from 0 in the shard
    limit: int | None = None  # read only so many rows
    max_bytes: int = MAX_FILE_BYTES  # of one file in it; larger ones are not read
    carries: bool = False  # whether what lies beside an image in its container is read, too

    keys_differ: ClassVar[bool] = False  # whether no key of it, or of another of its kind, can come twice
    numbers_repeated: ClassVar[bool] = False  # whether a repeated key of it is told apart by its place

    @property
    def folder(self) -> str:
        """That all its keys lie in; "" where that is not known before they are read."""
        return ""

    def stored(self, data: bool = True) -> Iterator[Incoming]:
        """The rows as they are stored; without `data` their keys alone need be right. Raises StorageError, and
        BadImage for a container that cannot be read.
        """
        raise NotImplementedError

    def all_keys(self) -> list[str]:
        """The keys of all images as they are stored, of those that are not meant as well; where they cannot be read
        the container's own name stands for all of them.
        """
        return [row.key for row in self.stored(data=False)]

    def pieces(self) -> "list[tuple[str, Shard]]":
        """(name, shard) of what can be read on its own."""
        return [(self.name, self)]

    def narrowed(self, keys: Collection[str]) -> "Shard":
        """The same shard, where it can be with these of its images only. Keys are those of the ledger."""
        return self


def chosen(shard: S, selection: Selection) -> Iterator[S]:
    """A shard of a container that is not opened before its turn, which knows what of it is meant; none where that is
    nothing. With a list of keys it is opened, to see which.
    """
    choice = selection.choice
    if not choice:
        yield shard
    elif selection.may_take_of(shard.name):
        shard = replace(shard, id=shard_id(shard.id, choice.digest()), choice=choice.patterns)
        kept = None if choice.listed is None else selection.rows(shard.all_keys(), shard.name, shard.first)
        if kept is None or kept:
            yield replace(shard, kept=kept)


Source = Callable[[Shard], Iterator[Incoming]]  # of the rows of a shard, as they are stored


def read_shard(shard: Shard, output_name: OutputName | None = None, source: Source | None = None) -> pa.Table:
    """All images of a shard, with SCHEMA: a row has data, or a reason and a detail why there is none.

    Unsafe names, names whose output another row of the shard has taken (only if `output_name` is given), objects that
    storage does not give and cut containers are rows with a reason. Raises StorageError if storage as a whole fails.
    """
    return _table(shard, rows_of(shard, output_name, source))


def rows_of(shard: Shard, output_name: OutputName | None = None, source: Source | None = None) -> Iterator[Incoming]:
    """The rows of `read_shard`, one by one."""
    return islice(_given(shard, output_name, source), shard.limit)


def _given(shard: Shard, output_name: OutputName | None, source: Source | None) -> Iterator[Incoming]:
    """The rows. Where this container alone is refused by storage, or not to be read, there are rows for the rest."""
    keys: set[str] = set()  # as many as rows
    try:
        rows = source(shard) if source else shard.stored()
        for row in checked(shard, rows, output_name):
            keys.add(row.key)
            yield row
    except StorageError as error:
        if not is_of_object(shard.store, shard.name, error):
            raise
        yield from _rest(shard, keys, Reason.shard_incomplete, str(error))
    except BadImage as error:
        yield from _rest(shard, keys, error.reason, error.detail)


def _rest(shard: Shard, given: set[str], reason: Reason, detail: str) -> Iterator[Incoming]:
    """A row for each image of a container that was not given, whose keys nobody knows; one for all of them if nobody
    knows how many.
    """
    for number in range(len(given), len(given) + 1 if shard.images is None else shard.images):
        place = shard.first + number
        key = printable(f"{shard.name}#{place}" if place else shard.name)
        if key in given or key in shard.lost:
            key = _own_key(shard, key, number, given)
        yield Incoming(key, b"", reason, detail)


def checked(shard: Shard, rows: Iterable[Incoming], output_name: OutputName | None) -> Iterator[Incoming]:
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
            row = Incoming(key, b"", Reason.unsafe_name, why)
        elif repeated and not row.reason:
            detail = f"an earlier image has the output name of {key}, or one needs a folder where the other is a file"
            row = Incoming(key, b"", Reason.duplicate_name, detail)
        numbered = repeated and row.reason == Reason.duplicate_name and shard.numbers_repeated
        if key in keys or (elsewhere and not shard.keys_differ) or numbered:
            row = row._replace(key=_own_key(shard, key, place, keys))
        keys.add(row.key)
        yield row


def _own_key(shard: Shard, key: str, place: int, keys: Collection[str]) -> str:
    """A key for the row at this place, whose own key another row has."""
    own = f"{key}#{shard.first + place}"
    while own in keys or own in shard.lost:
        own = f"{own}#{shard.id}"
    return own


def _is_nameless(shard: Shard, row: Incoming) -> bool:
    """Whether no output will ever be named after this row."""
    return row.reason == Reason.unsafe_name or tells_of_container(shard.name, row.key, row.reason)


def tells_of_container(name: str, key: str, reason: str | None) -> bool:
    """Whether a row tells of the tar or Parquet file `name`, and of no image that it names."""
    return reason == Reason.shard_incomplete and (key == printable(name) or key.startswith(f"{printable(name)}#"))


def _is_meant(shard: Shard, place: int, row: Incoming) -> bool:
    """Whether the choice takes this row of the shard; what tells of a cut container always stays."""
    if row.reason == Reason.shard_incomplete and row.key == shard.name:
        return True
    return shard.choice.takes(row.key) if shard.kept is None else place in shard.kept


def _table(shard: Shard, rows: Iterable[Incoming]) -> pa.Table:
    listed = list(rows)
    columns = {
        "shard": [shard.id] * len(listed),
        "key": [row.key for row in listed],
        "reason": [str(row.reason) for row in listed],
        "detail": [row.detail for row in listed],
        "data": [row.data for row in listed],
        "beside": [list(row.beside.items()) or None for row in listed],
    }
    return pa.table(columns, schema=SCHEMA)


def too_large(key: str, what: str, max_bytes: int) -> Incoming:
    """An image that is not read, for its size in bytes."""
    detail = f"{what}, max_file_bytes is {max_bytes}: raise it if you trust the file"
    return Incoming(key, b"", Reason.too_large, detail)


def shard_id(*parts: object) -> str:
    """16 hexadecimal digits of what a shard holds."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogateescape")
        digest.update(f"{len(data)}:".encode() + data)
    return digest.hexdigest()
