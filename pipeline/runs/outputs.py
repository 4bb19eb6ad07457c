"""Where the outputs of a shard go: a file each below images/, or all into one tar below shards/ (WebDataset).

A tar's bytes are a function of its members: they lie in the order of their names, and no header tells of the run. It is
gathered on the local disk and put as a whole before the shard's ledger part. Knows no pixels, no Ray.
"""

import errno
import tarfile
import tempfile
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from driftrec.errors import StorageFull
from pipeline.inputs.names import is_image, sample_of
from pipeline.inputs.tars import BLOCK, TarFile
from pipeline.runs.ledger import IMAGES, MEMBER, SHARDS, container, member_of
from pipeline.storage.base import FREE_ROOM, FULL, NotFound, Store


class Outputs(Protocol):
    """The outputs of one shard."""

    def put(self, name: str, data: bytes, beside: Mapping[str, bytes] = {}) -> str:
        """Take one output, from any thread, and what lies beside it, by its names; gives the output's name for the
        ledger. Raises StorageFull, StorageError.
        """
        ...

    def close(self) -> None:
        """All are taken: on return every output exists under its name."""
        ...


class Tree:
    """Files below images/, written at once."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def put(self, name: str, data: bytes, beside: Mapping[str, bytes] = {}) -> str:
        """Write one file; nothing goes with it."""
        self._store.put(f"{IMAGES}/{name}", data)
        return f"{IMAGES}/{name}"

    def close(self) -> None:
        """Nothing is left to do."""


class Tar:
    """Members of shards/<name>.tar, which is written when it is closed; without members there is none."""

    def __init__(self, store: Store, name: str) -> None:
        self._store, self._tar = store, f"{SHARDS}/{name}"
        self._lock = threading.Lock()
        self._spool = tempfile.TemporaryFile()  # noqa: SIM115
        self._places: dict[str, tuple[int, int]] = {}  # of the members: where in the spool, how many bytes

    def put(self, name: str, data: bytes, beside: Mapping[str, bytes] = {}) -> str:
        """Keep one member, and others beside it."""
        with self._lock:
            fresh = {member: content for member, content in beside.items() if member not in self._places}
            for member, content in ((name, data), *fresh.items()):
                try:
                    start = self._spool.seek(0, 2)
                    self._spool.write(content)
                except OSError as error:
                    raise _failed(error) from None
                self._places[member] = (start, len(content))
        return f"{self._tar}{MEMBER}{name}"

    def close(self) -> None:
        """Write the tar."""
        with self._spool as spool, tempfile.NamedTemporaryFile() as whole:
            if not self._places:
                return
            try:
                with tarfile.open(fileobj=whole, mode="w", format=tarfile.PAX_FORMAT) as tar:
                    for name, (start, size) in sorted(self._places.items()):
                        spool.seek(start)
                        tar.addfile(_header(name, size), spool)
                whole.flush()
            except OSError as error:
                raise _failed(error) from None
            self._store.put_file(f"{self._tar}.tar", Path(whole.name))


def read_output(store: Store, output: str) -> bytes:
    """The bytes of an output by its name in the ledger. Raises NotFound, StorageError."""
    name = container(output)
    if name == output:
        return store.read(output)
    member = member_of(output)
    file = TarFile(store, name, stop=0)
    with tarfile.open(fileobj=file, mode="r:") as tar:  # type: ignore[call-overload]
        while found := tar.next():
            if found.name == member:
                file.seek(found.offset_data)
                return file.read(found.size)
    raise NotFound(f"{store.where(output)} does not exist: the tar holds no such member")


def read_beside(store: Store, output: str) -> dict[str, bytes]:
    """What lies beside an output in its tar, by its names. Raises NotFound, StorageError."""
    sample, found = sample_of(member_of(output)), dict[str, bytes]()
    file = TarFile(store, container(output), stop=0)
    with tarfile.open(fileobj=file, mode="r:") as tar:  # type: ignore[call-overload]
        while member := tar.next():
            if is_beside(member.name) and sample_of(member.name) == sample:
                file.seek(member.offset_data)
                found[member.name] = file.read(member.size)
    return found


def is_beside(member: str) -> bool:
    """Whether a member of a tar is no output, but goes with one."""
    return not is_image(member)


def least_bytes(sizes: Iterable[int]) -> int:
    """Bytes that a tar has at least, whose members have these."""
    return sum(BLOCK + -(-size // BLOCK) * BLOCK for size in sizes)


def _header(name: str, size: int) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.size, header.mode = size, 0o644
    return header


def _failed(error: OSError) -> Exception:
    if error.errno in FULL | {errno.EFBIG}:
        return StorageFull(f"no room left in the temporary folder {tempfile.gettempdir()}; {FREE_ROOM}")
    return error
