"""Whether the outputs that ledger rows name are there, and are what the rows say. Knows a store; no pixels, no Ray.

Outputs are looked at by size, or read and hashed too, a few MiB of one at a time. In a tar, members are.
"""

import hashlib
import io
import math
import tarfile
from array import array
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, TypedDict, cast

import numpy as np

from pipeline.inputs.names import name_digest, place_among, sample_of, stem
from pipeline.runs.ledger import AnyRow, container, member_of
from pipeline.runs.outputs import is_beside, least_bytes
from pipeline.storage.base import NO_FILE, StorageError, Store, is_of_object
from pipeline.storage.file import StoreFile

CHUNK = 4 * 2**20  # bytes read at once
MISSING, CHANGED, EXTRA = "missing", "changed", "extra"



@dataclass(frozen=True)
class Fault:
    """One output that is not as its row says, or that has none."""

    kind: str  # MISSING, CHANGED or EXTRA
    output: str
    key: str | None = None  # of its image; None where no row names it


class Files:
    """Names and sizes of all that lies below some folders, in 16 bytes of memory a file; and which were asked for.

    What is neither a file nor a folder is no file. A link to a folder is followed for a name that is asked for.
    """

    def __init__(self, store: Store, folders: Sequence[str]) -> None:
        self._store, self._folders = store, folders
        self._odd: dict[str, bool] = {}  # what is no file: whether a file below it was asked for
        digests, sizes = array("Q"), array("q")
        for name, size in self._listed():
            if size == NO_FILE:
                self._odd[name] = False
                continue
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
            return self._behind_link(name) if self._odd else None
        self._asked[at] = True
        return int(self._sizes[at])

    def _behind_link(self, name: str) -> int | None:
        if name in self._odd:
            self._odd[name] = True  # its row tells of it
            return None
        link = next((folder for folder in _folders_above(name) if folder in self._odd), None)
        size = self._store.size(name) if link else None
        if link and size is not None:
            self._odd[link] = True
        return size

    def not_asked(self) -> Iterator[str]:
        """What nobody asked for: the files are listed once more."""
        yield from (name for name, asked in self._odd.items() if not asked)
        if self._asked.all():
            return
        for name, size in self._listed():
            at = None if size == NO_FILE else self._place(name)
            if at is not None and not self._asked[at]:
                yield name

    def _listed(self) -> Iterator[tuple[str, int]]:
        for folder in self._folders:
            yield from self._store.entries(folder, patient=True)

    def _place(self, name: str) -> int | None:
        return place_among(self._digests, name_digest(name))


def faults(
    store: Store, rows: Iterable[AnyRow], quick: bool = False, size_of: Callable[[str], int | None] | None = None
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
    files: dict[str, list[AnyRow]] = defaultdict(list)
    wrong: list[Fault] = []
    for row in rows:
        if row.get("output") and _leads_out(row["output"]):
            wrong.append(Fault(MISSING, row["output"], row["key"]))
        elif row.get("output"):
            files[container(row["output"])].append(row)
    tars = {name: found for name, found in files.items() if name != found[0]["output"]}
    loose = (row for name, found in files.items() if name not in tars for row in found)
    wrong += [fault for row in loose if (fault := _loose(store, row, size_of(row["output"]), quick))]
    for name, found in tars.items():
        size = size_of(name)
        if size is None:
            wrong += [Fault(MISSING, row["output"], row["key"]) for row in found]
        elif quick:
            least = least_bytes(bytes_of(row) or 0 for row in found)
            wrong += [Fault(CHANGED, name)] if size < least else []
        else:
            elsewhere = (row for other in tars if other != name for row in tars[other])
            wrong += _in_tar(store, name, size, found, {stem(member_of(row["output"])) for row in elsewhere})
    return wrong


class Noted(TypedDict):
    """What a result says of a file."""

    bytes: int
    sha256: str


def noted(store: Store, name: str) -> Noted:
    """What a result says of a file that the run leaves. Raises NotFound, StorageError."""
    file = StoreFile(store, name)
    return {"bytes": file.seek(0, 2), "sha256": sha256_of(store, name, file.tell())}


def fault_of(store: Store, name: str, recorded: object, quick: bool) -> str:
    """What is wrong with a file of which a result says `recorded`, or nothing: MISSING, CHANGED, or "" for nothing."""
    recorded = cast(dict[str, Any], recorded) if isinstance(recorded, dict) else {}
    try:
        size = store.size(name)
        if size is None:
            return MISSING
        store.read(name, 0, 1)
        same = recorded.get("bytes") in (None, size)
        if same and not quick and recorded.get("sha256") is not None:
            same = sha256_of(store, name, size) == recorded["sha256"]
    except StorageError as error:  # gone by now, refused, or no file
        if not is_of_object(store, name, error):
            raise
        return MISSING
    return "" if same else CHANGED


def keys_at_fault(store: Store, rows: Sequence[AnyRow]) -> frozenset[str]:
    """The keys of a ledger part whose output is missing or not what the row says; all outputs are read."""
    return frozenset(fault.key for fault in faults(store, rows) if fault.key is not None)


def bytes_of(row: AnyRow) -> int | None:
    """Of a row's output; None if the row does not say."""
    size = row.get("output_bytes")
    return row.get("bytes") if size is None else size


def sha256_of(store: Store, name: str, size: int) -> str:
    """Of a file of so many bytes, which is not held in memory. Raises NotFound, StorageError."""
    return _sha256(StoreFile(store, name, size))


def _loose(store: Store, row: AnyRow, size: int | None, quick: bool) -> Fault | None:
    name, recorded = row["output"], bytes_of(row)
    if size is None:
        return Fault(MISSING, name, row["key"])
    if recorded is not None and recorded != size:
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


def _in_tar(store: Store, name: str, size: int, rows: Sequence[AnyRow], elsewhere: Collection[str]) -> Iterator[Fault]:
    """Of the members of one tar. `elsewhere`: stems of the shard's outputs in other tars. Where the tar of an earlier
    attempt holds another output of such an image, that is none too many: what is done again goes into another tar.
    """
    tar = _Tar()
    try:
        tar.read(StoreFile(store, name, size), size)
    except StorageError as error:  # what lies behind is missing
        if not is_of_object(store, name, error):
            raise
    for row in rows:
        digests = tar.members.pop(member_of(row["output"]), [])
        if not digests:
            yield Fault(MISSING, row["output"], row["key"])
        elif tar.cut or set(digests) != {row["output_sha256"]}:
            yield Fault(CHANGED, row["output"], row["key"])
        elif len(digests) > 1:
            yield Fault(EXTRA, row["output"])
    samples = {sample_of(member_of(row["output"])) for row in rows}
    beside = [name for name in tar.members if is_beside(name) and sample_of(name) in samples]
    strange = [name for name in tar.members if stem(name) not in elsewhere and name not in beside] + tar.odd
    yield from (Fault(EXTRA, f"{name}#{member}") for member in strange)
    if tar.more:
        yield Fault(EXTRA, name)


@dataclass
class _Tar:
    """What a tar holds, whatever was done to it, as far as it can be read."""

    members: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # sha256 of those of each name
    odd: list[str] = field(default_factory=list)  # members that are no files, as no run makes them
    cut: bool = True  # whether its end is missing
    more: bool = False  # whether something lies behind its end

    def read(self, raw: StoreFile, size: int) -> None:
        """Take in all. Raises StorageError."""
        file, end = cast(IO[bytes], io.BufferedReader(raw, CHUNK)), 0
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                while (member := tar.next()) and tar.offset > end:  # a header may lead back, and round in circles
                    end = tar.offset
                    self._take(member, file)
        except (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError, MemoryError):
            pass  # what lies behind is missing
        stop = -(-(end + 2 * tarfile.BLOCKSIZE) // tarfile.RECORDSIZE) * tarfile.RECORDSIZE
        self.cut = size < stop
        file.seek(end)
        self.more = size > stop or any(data.strip(b"\0") for data in iter(lambda: file.read(CHUNK), b""))

    def _take(self, member: tarfile.TarInfo, file: IO[bytes]) -> None:
        if member.isreg() and not member.issparse():
            file.seek(member.offset_data)
            self.members[member.name].append(_sha256(file, member.size))
        else:
            self.odd.append(member.name)


def _leads_out(output: str) -> bool:
    """Whether a name is none that a run gives, and should not be looked for."""
    return "\0" in output or ".." in output.split("/") or output.startswith("/")


def _folders_above(name: str) -> Iterator[str]:
    """ "a/b/c" -> "a/b", "a"."""
    while "/" in name:
        name = name.rpartition("/")[0]
        yield name


def _sha256(file: Any, size: int | None = None) -> str:
    """Of the rest of a file, or of so many bytes."""
    digest, left = hashlib.sha256(), math.inf if size is None else size
    while left > 0 and (data := file.read(int(min(CHUNK, left)))):
        digest.update(data)
        left -= len(data)
    return digest.hexdigest()
