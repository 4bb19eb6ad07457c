"""A folder or an object-store prefix as a place to list, read, put and create. Knows no images, no shards, no Ray.

Two kinds: `LocalStore` on a file system, `RemoteStore` on any fsspec URL. Both are cheap to pickle; file system
clients are made where they are used. Puts are whole: a name either holds all its bytes or does not exist. No
message ever holds a credential.
"""

import errno
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import TypeVar

from driftrec.errors import DriftRecError
from driftrec.urls import redact

log = logging.getLogger(__name__)

PART_PREFIX, PART_SUFFIX = ".driftrec-", ".part"  # a put that is not finished, on a local disk
FULL = {errno.ENOSPC, errno.EDQUOT}
FREE_ROOM = "free some and run the same command again"
NO_FILE = -1  # in place of the bytes of a name that is no file
LINKED_FOLDER = "a link to a folder"  # what a name may be that is no file
CLOSED_FOLDER = "a folder that may not be listed"
SOME = 10  # objects that are tried to see whether a store gives any
READERS = 16  # objects of a remote store that are read at once: each waits for its answer
WORD_S, SEVERAL = 10.0, 100  # seconds between two words of a long listing; names between two looks at the clock

T = TypeVar("T")
U = TypeVar("U")


class StorageError(DriftRecError):
    """Storage did not do what was asked, after all retries."""


class NotFound(StorageError):
    """The named object or folder does not exist."""


class InTheWay(StorageError):
    """Among the files of one folder a folder lies where a file is wanted, or a file where a folder is."""


class AccessDenied(StorageError):
    """Access was denied: missing credentials, or no permission for this."""


def is_of_object(store: "Store", name: str, error: StorageError) -> bool:
    """Whether an error of reading is that one object's: then the store still gives others. Else it is the network's,
    the service's, the mount's or our access's: the run stops, and can go on later.
    """
    return (isinstance(error, NotFound | AccessDenied) or store.errors_are_of_files) and store.gives_others(name)


def telling(url: str, names: Iterable[T]) -> Iterator[T]:
    """The same; where it takes long, how many there are so far is logged now and then."""
    said = time.monotonic()
    for number, name in enumerate(names):
        if number % SEVERAL == 0 and number and time.monotonic() - said >= WORD_S:
            log.info("listing %s: %d names so far", url, number)
            said = time.monotonic()
        yield name


class Store:
    """One root; names are relative to it, with forward slashes."""

    url: str  # of the root, without credentials: fit for messages and run.json
    local = False  # whether it is a folder of this machine, where reading a little costs little
    errors_are_of_files = False  # whether any error of reading may be that of one file, and not the whole store's
    latest: tuple[float, str] | None = None  # seconds since 1970 and name: of all that was listed, what changed last
    _given: tuple[str, ...] = ()  # the names last read, by whichever thread

    def where(self, name: str) -> str:
        """The full URL or path of a name, for messages; of a signed URL without its query."""
        return redact(f"{self.url}/{name}") if name else self.url

    @property
    def place(self) -> str:
        """What is equal for two stores of one place."""
        return self.url

    def unwritable(self) -> str:
        """Why nothing can be put here, as far as can be known without trying; "" if nothing speaks against it."""
        return ""

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """(name, bytes) of all that lies below `prefix` (a folder), in the order of the names. Notes `latest`."""
        raise NotImplementedError

    def found(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """All of `list` in whatever order it comes; none of it is held."""
        return self.list(prefix)

    def entries(self, prefix: str = "", patient: bool = False) -> Iterator[tuple[str, int]]:
        """All of `list`, and in their places with NO_FILE bytes the names that are no files, nor folders with files:
        links that lead nowhere or to a folder (none is entered), pipes, sockets, devices.

        patient: a folder that cannot be listed is such a name, too, and no StorageError.
        """
        return self.list(prefix)

    def is_folder(self) -> bool:
        """Whether the root is known to be a folder: a prefix of an object store is none."""
        return False

    def leads_out(self, name: str) -> bool:
        """Whether a name is a link to something that is not in this folder."""
        return False

    def no_file(self, name: str) -> str:
        """What a name is that is no file, in words such as LINKED_FOLDER; "" for a file, or where only files have
        names.
        """
        return ""

    def each(self, read: Callable[[T], U], items: Iterable[T]) -> Iterator[U]:
        """`read` of each item, in their order; some at a time, because each waits for its answer."""
        with ThreadPoolExecutor(READERS) as pool:
            yield from pool.map(read, items)

    def _note(self, changed: float, name: str) -> None:
        self.latest = max(self.latest or (changed, name), (changed, name))

    def size(self, name: str) -> int | None:
        """Bytes of one object, None if there is none."""
        raise NotImplementedError

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """The bytes of one object, or a part of them (fewer at its end). Raises NotFound, StorageError."""
        data = self._read(name, offset, length)
        self._given = (name, *(other for other in self._given[:2] if other != name))[:2]
        return data

    def _read(self, name: str, offset: int, length: int | None) -> bytes:
        raise NotImplementedError

    def gives_others(self, name: str) -> bool:
        """Whether the store still gives us another object than this, which it does not. If not, the trouble is the
        run's: a token has expired, a key was revoked, a bucket or a mount has gone.
        """
        try:
            return any(self._gives(other) for other in chain(self._given, self._some()) if other != name)
        except StorageError:  # of the listing
            return False

    def _gives(self, name: str) -> bool:
        try:
            self._read(name, 0, 1)
        except StorageError:
            return False
        return True

    def _some(self) -> Iterator[str]:
        """The first names below the root, SOME at most."""
        raise NotImplementedError

    def put(self, name: str, data: bytes) -> None:
        """Write one whole object, over an older one if there is one. Raises StorageFull, StorageError."""
        raise NotImplementedError

    def put_file(self, name: str, path: Path) -> None:
        """`put` of a local file's content, which is not held in memory."""
        raise NotImplementedError

    def create(self, name: str, data: bytes) -> bool:
        """Write one whole object only if the name is free: True if it is ours now, False if it was taken."""
        raise NotImplementedError

    def remove(self, name: str) -> None:
        """Remove one object; none there is fine."""
        raise NotImplementedError

    def exists(self, name: str) -> bool:
        """Whether there is an object of this name."""
        return self.size(name) is not None
