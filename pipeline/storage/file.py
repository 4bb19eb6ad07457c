"""One object of a store as a file: for readers that take parts of it, or on this node's disk."""

import io
import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.storage.base import NotFound, Store


class StoreFile(io.RawIOBase):
    """A seekable, read-only file over one object, for readers such as Parquet's that take parts of it.

    Args:
        store: where it lies.
        name: of the object.
        size: its bytes, if the caller knows them; else storage is asked.
    """

    def __init__(self, store: Store, name: str, size: int | None = None) -> None:
        size = store.size(name) if size is None else size
        if size is None:
            raise NotFound(f"{store.where(name)} does not exist; check the path")
        self._store, self._name, self._size, self._at = store, name, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        """Position in bytes."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a position; the new one."""
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer from here, with one read of the store."""
        length = min(len(buffer), self._size - self._at)
        data = self._store.read(self._name, self._at, length) if length > 0 else b""
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def readall(self) -> bytes:
        """All from here, with one read of the store; the standard library's would make one of every 8 KiB."""
        data = self._store.read(self._name, self._at) if self._at < self._size else b""
        self._at += len(data)
        return data


@contextmanager
def local_copy(store: Store, name: str) -> Generator[Path]:
    """A file of the same name on this node, as long as the context lasts."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / Path(name.partition("?")[0]).name
        path.write_bytes(store.read(name))
        yield path
