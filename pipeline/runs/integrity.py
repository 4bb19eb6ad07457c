"""Whether the outputs that ledger rows name are there, and are what the rows say. Knows a store; no pixels, no Ray.

Outputs are looked at by size, or read and hashed too, a few MiB of one at a time. In a tar, members are.
"""

import hashlib
import io
import tarfile
from array import array
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, cast

import numpy as np

from pipeline.inputs.names import stem
from pipeline.runs.ledger import container, member_of, name_digest
from pipeline.runs.outputs import least_bytes
from pipeline.storage.base import StorageError, Store, is_of_object
from pipeline.storage.file import StoreFile

CHUNK = 4 * 2**20  # bytes read at once
MISSING, CHANGED, EXTRA = "missing", "changed", "extra"

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Fault:
    """One output that is not as its row says, or that has none."""

    kind: str  # MISSING, CHANGED or EXTRA
    output: str
    key: str | None = None  # of its image; None where no row names it


class Files:
    """Names and sizes of all that lies below some folders, in 16 bytes of memory a file; and which were asked for."""

    def __init__(self, store: Store, folders: Sequence[str]) -> None:
        self._store, self._folders = store, folders
        digests, sizes = array("Q"), array("q")
        for name, size in self._listed():
            digests.append(name_digest(name))
            sizes.append(size)
        order = np.argsort(np.frombuffer(digests, np.uint64))
        self._digests = np.frombuffer(digests, np.uint64)[order]
        self._sizes = np.frombuffer(sizes, np.int64)[order]
        self._asked = np.zeros(len(order), bool)

    def size(self, name: str) -> int | None:
        """Bytes of a file, None if there is none."""
        at = self._place(name)
        if at is None:
            return None
        self._asked[at] = True
        return int(self._sizes[at])

    def not_asked(self) -> Iterator[str]:
        """The files that nobody asked for: they are listed once more."""
        if self._asked.all():
            return
        for name, _ in self._listed():
            at = self._place(name)
            if at is not None and not self._asked[at]:
                yield name

    def _listed(self) -> Iterator[tuple[str, int]]:
        for folder in self._folders:
            yield from self._store.list(folder)

    def _place(self, name: str) -> int | None:
        digest = np.uint64(name_digest(name))
        at = int(np.searchsorted(self._digests, digest))
        return at if at < len(self._digests) and self._digests[at] == digest else None


def faults(
    store: Store, rows: Iterable[Row], quick: bool = False, size_of: Callable[[str], int | None] | None = None
) -> list[Fault]:
    """What is wrong with the outputs of one ledger part.

    Args:
        store: OUTPUT.
        rows: all of the part; of older versions they lack sizes.
        quick: look at sizes only; of a tar that is too short the tar is named, and no key.
        size_of: bytes of a file by its name, None if there is none; by default storage is asked.

    What storage does not give while it gives others is missing. Raises StorageError if storage as a whole fails.
    """
    size_of = size_of or store.size
    files: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.get("output"):
            files[container(row["output"])].append(row)
    tars = {name: found for name, found in files.items() if name != found[0]["output"]}
    loose = (row for name, found in files.items() if name not in tars for row in found)
    wrong = [fault for row in loose if (fault := _loose(store, row, size_of(row["output"]), quick))]
    stems = {stem(member_of(row["output"])) for found in tars.values() for row in found}
    for name, found in tars.items():
        size = size_of(name)
        if size is None:
            wrong += [Fault(MISSING, row["output"], row["key"]) for row in found]
        elif quick:
            least = least_bytes(bytes_of(row) or 0 for row in found)
            wrong += [Fault(CHANGED, name)] if size < least else []
        else:
            wrong += _in_tar(store, name, size, found, stems)
    return wrong


def keys_at_fault(store: Store, rows: Sequence[Row]) -> frozenset[str]:
    """The keys of a ledger part whose output is missing or not what the row says; all outputs are read."""
    return frozenset(fault.key for fault in faults(store, rows) if fault.key is not None)


def bytes_of(row: Row) -> int | None:
    """Of a row's output; None if the row does not say."""
    size = row.get("output_bytes")
    return row.get("bytes") if size is None else size


def sha256_of(store: Store, name: str, size: int) -> str:
    """Of a file of so many bytes, which is not held in memory. Raises NotFound, StorageError."""
    return _sha256(StoreFile(store, name, size))


def _loose(store: Store, row: Row, size: int | None, quick: bool) -> Fault | None:
    name, told = row["output"], bytes_of(row)
    if size is None:
        return Fault(MISSING, name, row["key"])
    if told is not None and told != size:
        return Fault(CHANGED, name, row["key"])
    if quick:
        return None
    try:
        same = sha256_of(store, name, size) == row["output_sha256"]
    except StorageError as error:  # gone since it was listed, or refused
        if not is_of_object(store, name, error):
            raise
        return Fault(MISSING, name, row["key"])
    return None if same else Fault(CHANGED, name, row["key"])


def _in_tar(store: Store, name: str, size: int, rows: Sequence[Row], stems: Collection[str]) -> Iterator[Fault]:
    """Of the members of one tar. `stems`: of all members that the shard's rows name. Where the tar of an earlier
    attempt holds another output of such an image, that is none too many: what is done again goes into another tar.
    """
    there: dict[str, set[str]] = defaultdict(set)
    for member, digest in _tar_digests(store, name, size):
        there[member].add(digest)
    for row in rows:
        digests = there.pop(member_of(row["output"]), None)
        if digests is None:
            yield Fault(MISSING, row["output"], row["key"])
        elif digests != {row["output_sha256"]}:
            yield Fault(CHANGED, row["output"], row["key"])
    yield from (Fault(EXTRA, f"{name}#{member}") for member in there if stem(member) not in stems)


def _tar_digests(store: Store, name: str, size: int) -> Iterator[tuple[str, str]]:
    """(name, sha256) of the members of a tar, as far as it can be read."""
    file = io.BufferedReader(StoreFile(store, name, size), CHUNK)
    try:
        with tarfile.open(fileobj=cast(IO[bytes], file), mode="r:") as tar:
            for member in tar:
                if content := tar.extractfile(member):
                    yield member.name, _sha256(content)
    except (tarfile.TarError, EOFError, ValueError, OverflowError):
        return  # what lies behind is missing
    except StorageError as error:
        if not is_of_object(store, name, error):
            raise


def _sha256(file: Any) -> str:
    digest = hashlib.sha256()
    while data := file.read(CHUNK):
        digest.update(data)
    return digest.hexdigest()
