"""Many names and their sizes in memory, packed: some ten bytes each. Knows no store."""

import zlib
from collections import deque
from collections.abc import Iterator, Sequence

CHUNK = 1024  # names that are packed together


class PackedNames:
    """(name, bytes) of many files, in the order in which they are added. Names hold no zero byte."""

    def __init__(self) -> None:
        self._chunks: deque[bytes] = deque()
        self._open: list[tuple[str, int]] = []  # not packed yet
        self._count, self._last = 0, ""
        self.in_order = True  # whether each came after the one before

    def __len__(self) -> int:
        return self._count

    def add(self, name: str, size: int) -> None:
        """Take in one more."""
        self.in_order = self.in_order and self._last <= name
        self._last = name
        self._count += 1
        self._open.append((name, size))
        if len(self._open) == CHUNK:
            self._chunks.append(zlib.compress(packed(self._open), 1))
            self._open = []

    def __iter__(self) -> Iterator[tuple[str, int]]:
        for chunk in self._chunks:
            yield from unpacked(zlib.decompress(chunk))
        yield from self._open

    def emptied(self) -> Iterator[tuple[str, int]]:
        """All of them, in the order of the names, and none stays here."""
        if not self.in_order:
            yield from sorted(self)
            return
        while self._chunks:
            yield from unpacked(zlib.decompress(self._chunks.popleft()))
        yield from self._open


def packed(files: Sequence[tuple[str, int]]) -> bytes:
    """Names and sizes as bytes."""
    return "\0".join(f"{size}:{name}" for name, size in files).encode("utf-8", "surrogateescape")


def unpacked(data: bytes) -> list[tuple[str, int]]:
    """What was packed."""
    items = data.decode("utf-8", "surrogateescape").split("\0")
    return [(name, int(size)) for size, _, name in (item.partition(":") for item in items)]
