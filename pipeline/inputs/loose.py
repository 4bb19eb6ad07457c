"""Loose files as shards: some names of a folder each, in their order. Knows no Ray."""

import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice

from driftrec.errors import Reason
from pipeline.inputs.names import printable, unsafe
from pipeline.inputs.shards import Incoming, Shard, shard_id, too_large
from pipeline.storage.base import StorageError, Store, is_of_object


@dataclass(frozen=True, kw_only=True)
class LooseFiles(Shard):
    """Some loose files; `name` is empty."""

    packed: bytes = field(repr=False)  # their names and sizes

    def files(self) -> list[tuple[str, int]]:
        """(name, bytes) of each file."""
        items = zlib.decompress(self.packed).decode("utf-8", "surrogateescape").split("\0")
        return [(name, int(size)) for size, _, name in (item.partition(":") for item in items)]

    def stored(self, data: bool = True) -> Iterator[Incoming]:
        return self.store.each(lambda file: _row(self.store, *file, self.max_bytes), self.files())

    def all_keys(self) -> list[str]:
        return [name for name, _ in self.files()]

    def pieces(self) -> list[tuple[str, Shard]]:
        return [(file[0], self._of([file])) for file in self.files()]

    def narrowed(self, keys: Collection[str]) -> "LooseFiles":
        return self._of([file for file in self.files() if printable(file[0]) in keys])

    def _of(self, files: Sequence[tuple[str, int]]) -> "LooseFiles":
        return replace(loose_files(self.store, files), id=self.id, max_bytes=self.max_bytes)


def loose_files(store: Store, files: Sequence[tuple[str, int]]) -> LooseFiles:
    """A shard of these files: (name, bytes) each."""
    packed = "\0".join(f"{size}:{name}" for name, size in files).encode("utf-8", "surrogateescape")
    size = sum(size for _, size in files)
    digest = shard_id("files", packed)
    return LooseFiles(id=digest, store=store, size=size, images=len(files), packed=zlib.compress(packed, 1))


def grouped(
    store: Store, files: Iterator[tuple[str, int]], target_bytes: int, max_images: int, at_least: int
) -> Iterator[LooseFiles]:
    """Loose files, in their order, as shards: at least so many, for which the first files are looked at together."""
    head = list(islice(files, at_least * max_images))
    most = max(1, min(max_images, -(-len(head) // at_least)))
    group: list[tuple[str, int]] = []
    size = 0
    for item in chain(head, files):
        group.append(item)
        size += item[1]
        if size >= target_bytes or len(group) >= most:
            yield loose_files(store, group)
            group, size = [], 0
    if group:
        yield loose_files(store, group)


def not_to_open(store: Store, name: str) -> tuple[Reason, str] | None:
    """Why a loose file is not opened, None if it may be."""
    if why := unsafe(name):
        return Reason.unsafe_name, why
    if store.leads_out(name):
        return Reason.unsafe_name, "a link that leads out of the input: put the file in its place"
    what = store.no_file(name)
    return (Reason.unreadable, f"{what}; put the file in its place") if what else None


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
