"""Qt's binary resource files (.rcc): a tree of names, and the files' bytes behind it. Reads what is stored plain or
with zlib. Format: rcc's writer, RCCResourceLibrary in qtbase.
"""

import struct
import zlib
from collections.abc import Iterator

COMPRESSED, FOLDER, ZSTD = 1, 2, 4  # flags of a node


def entries(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Every file: its path, and its bytes. Raises ValueError for what is no such file, or cut."""
    try:
        yield from _entries(data)
    except (struct.error, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"not a whole Qt resource file: {error}") from error


def _entries(data: bytes) -> Iterator[tuple[str, bytes]]:
    magic, version, tree, contents, names = struct.unpack_from(">4s4i", data)
    if magic != b"qres":
        raise ValueError(f"not a Qt resource file: it begins with {magic!r}")
    size = 22 if version >= 2 else 14  # bytes of a node: later versions add the time

    def name(at: int) -> str:
        length, _hash = struct.unpack_from(">HI", data, names + at)
        return data[names + at + 6 : names + at + 6 + 2 * length].decode("utf-16-be")

    def walk(node: int, path: str) -> Iterator[tuple[str, bytes]]:
        at = tree + node * size
        name_at, flags = struct.unpack_from(">IH", data, at)
        path = f"{path}/{name(name_at)}" if node else path
        if flags & FOLDER:
            count, first = struct.unpack_from(">II", data, at + 6)
            for child in range(first, first + count):
                yield from walk(child, path)
        elif not flags & ZSTD:
            (offset,) = struct.unpack_from(">I", data, at + 10)
            (length,) = struct.unpack_from(">I", data, contents + offset)
            stored = data[contents + offset + 4 : contents + offset + 4 + length]
            if len(stored) < length:
                raise ValueError(f"not a whole Qt resource file: {path} is cut")
            if ".." in path.split("/"):
                raise ValueError(f"a Qt resource file that names {path}: fetch it again")
            yield path.removeprefix("/"), zlib.decompress(stored[4:]) if flags & COMPRESSED else stored

    yield from walk(0, "")
