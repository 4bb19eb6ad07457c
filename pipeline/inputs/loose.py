"""Loose files as shards: some names of a folder each, in their order. Knows no Ray.

What a shard costs the driver is paid for each of them, so where they would be very many, neighbours become one.
"""

import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from driftrec.errors import Reason
from driftrec.image.sniff import RAW_SUFFIXES
from pipeline.inputs.kinds import RAW
from pipeline.inputs.names import printable, suffix, unsafe
from pipeline.inputs.shards import Incoming, Shard, shard_id, too_large
from pipeline.storage.base import CLOSED_FOLDER, LINKED_FOLDER, StorageError, Store, is_of_object
from pipeline.storage.packed import PackedNames, packed, unpacked

MOST_SHARDS = 40_000  # of an input's loose files, as far as the next two let neighbours be joined
JOINED_BYTES = 128 * 2**20  # that joined neighbours have at most: whoever reads a shard holds its files in memory
JOINED_IMAGES = 1024  # likewise: what a kill costs at most


@dataclass(frozen=True, kw_only=True)
class LooseFiles(Shard):
    """Some loose files; `name` is empty."""

    keys_differ = True
    packed: bytes = field(repr=False)  # their names and sizes

    def files(self) -> list[tuple[str, int]]:
        """(name, bytes) of each file."""
        return unpacked(zlib.decompress(self.packed))[: self.limit]

    def stored(self, data: bool = True) -> Iterator[Incoming]:
        return self.store.each(lambda file: _row(self.store, *file, self.max_bytes), self.files())

    def all_keys(self) -> list[str]:
        return [name for name, _ in self.files()]

    def pieces(self) -> list[tuple[str, Shard]]:
        return [(file[0], self._of([file])) for file in self.files()]

    def narrowed(self, keys: Collection[str]) -> "LooseFiles":
        return self._of([file for file in self.files() if printable(file[0]) in keys])

    def losing(self, keys: frozenset[str]) -> "LooseFiles":
        """The same shard, which knows those of its files whose output another has."""
        return replace(self, lost=keys.intersection(printable(name) for name, _ in self.files()))

    def _of(self, files: Sequence[tuple[str, int]]) -> "LooseFiles":
        return replace(loose_files(self.store, files), id=self.id, max_bytes=self.max_bytes, lost=self.lost)


def loose_files(store: Store, files: Sequence[tuple[str, int]]) -> LooseFiles:
    """A shard of these files: (name, bytes) each."""
    data = packed(files)
    size = sum(size for _, size in files)
    digest = shard_id("files", data)
    return LooseFiles(id=digest, store=store, size=size, images=len(files), packed=zlib.compress(data, 1))


def grouped(
    store: Store, files: PackedNames, target_bytes: int, max_images: int, at_least: int, most_shards: int | None
) -> Iterator[LooseFiles]:
    """Loose files as shards; none is left in `files`.

    Args:
        store: where they lie.
        files: in the order of their names.
        target_bytes: at which a shard is closed.
        max_images: in a shard.
        at_least: so many shards, for which the first files are looked at together.
        most_shards: beyond which neighbours are joined, as many everywhere; None: however many there are.
    """
    looked_at = min(len(files), at_least * max_images)
    most = max(1, min(max_images, -(-looked_at // at_least)))
    together = 1
    if most_shards and len(files) > most_shards:
        together = -(-sum(1 for _ in _cut(files, target_bytes, most)) // most_shards)
    for group in _joined(_cut(files.emptied(), target_bytes, most), together):
        yield loose_files(store, group)


def _cut(files: Iterable[tuple[str, int]], target_bytes: int, most: int) -> Iterator[list[tuple[str, int]]]:
    """The files in groups of `target_bytes` or `most` files, whichever comes first."""
    group: list[tuple[str, int]] = []
    size = 0
    for item in files:
        group.append(item)
        size += item[1]
        if size >= target_bytes or len(group) >= most:
            yield group
            group, size = [], 0
    if group:
        yield group


def _joined(groups: Iterable[list[tuple[str, int]]], together: int) -> Iterator[list[tuple[str, int]]]:
    """So many neighbours as one, fewer where that would be too many bytes or images."""
    joined: list[tuple[str, int]] = []
    count = bytes_ = 0
    for group in groups:
        size = sum(size for _, size in group)
        full = bytes_ + size > JOINED_BYTES or len(joined) + len(group) > JOINED_IMAGES
        if joined and (count == together or full):
            yield joined
            joined, count, bytes_ = [], 0, 0
        joined += group
        count, bytes_ = count + 1, bytes_ + size
    if joined:
        yield joined


def not_to_open(store: Store, name: str) -> tuple[Reason, str] | None:
    """Why a loose file, or a folder in its place, is not opened; None if it may be."""
    if why := unsafe(name):
        return Reason.unsafe_name, why
    what, out = store.no_file(name), store.leads_out(name)
    if out and what == LINKED_FOLDER:
        return Reason.unsafe_name, f"{what} out of the input: put the folder in its place, or give it by its own name"
    if out:
        return Reason.unsafe_name, "a link that leads out of the input: put the file in its place"
    if what == CLOSED_FOLDER:
        return Reason.unreadable, f"{what}: check owner and mode, or leave it out"
    if what:
        return Reason.unreadable, f"{what}; put the file in its place"
    if suffix(name) in RAW_SUFFIXES:
        return RAW
    return None


def _row(store: Store, name: str, size: int, max_bytes: int) -> Incoming:
    if why := not_to_open(store, name):
        return Incoming(name, b"", *why)
    if size > max_bytes:
        return too_large(name, f"the file has {size} bytes", max_bytes)
    try:
        data = store.read(name)
        if len(data) < size:
            data = store.read(name)
    except StorageError as error:
        if not is_of_object(store, name, error):
            raise
        return Incoming(name, b"", Reason.unreadable, str(error))
    if len(data) < size:
        return Incoming(name, b"", Reason.unreadable, f"{len(data)} bytes came, the listing said {size}")
    return Incoming(name, data)
