"""Reads Enlightenment's EET containers (.edj files), in which its wallpapers lie as JPEG files."""

import struct

MAGIC = 0x1EE70F42  # EET file version 2
HEADER = struct.Struct(">3I")  # magic, number of entries, bytes of the name table
ENTRY = struct.Struct(">6I")  # offset, stored size, unpacked size, name offset, name length, flags


def entries(data: bytes) -> dict[str, bytes]:
    """Every entry of an EET container by name, as stored. Raises ValueError if these bytes are none."""
    if len(data) < HEADER.size or HEADER.unpack_from(data)[0] != MAGIC:
        raise ValueError("not an EET container of version 2 (wrong magic number)")
    _, count, _ = HEADER.unpack_from(data)
    table = data[HEADER.size : HEADER.size + count * ENTRY.size]
    if len(table) < count * ENTRY.size:
        raise ValueError(f"EET container cut inside its table of {count} entries")
    found: dict[str, bytes] = {}
    for offset, size, _, name_at, name_length, _ in ENTRY.iter_unpack(table):
        name = data[name_at : name_at + name_length].rstrip(b"\0").decode()
        stored = data[offset : offset + size]
        if len(stored) < size:
            raise ValueError(f"EET container cut inside its entry {name!r}")
        found[name] = stored
    return found


def photograph(data: bytes) -> bytes:
    """The largest JPEG file among the images of an .edj wallpaper. Raises ValueError if it holds none."""
    images = [
        stored
        for name, stored in entries(data).items()
        if name.startswith("edje/images/") and stored.startswith(b"\xff\xd8\xff")
    ]
    if not images:
        raise ValueError("no JPEG under edje/images/ in this EET container")
    return max(images, key=len)
