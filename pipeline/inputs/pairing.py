"""Pairs to train on: where the damaged partner of a clean image lies, joined by the key without its suffix. Starts no
Ray.

Both sides may be folders, tars or Parquet. A loose partner is found by its name when it is read, one in a tar by the
tar's name, which its key begins with: neither side's images are opened beforehand, as `partners` does for an
evaluation. Only partners in Parquet are indexed when the data is listed. Where both sides are one tar or one Parquet
file, their names may differ.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa

from driftrec.errors import Reason
from pipeline.inputs.listing import Listing
from pipeline.inputs.names import is_image, strip_suffix
from pipeline.inputs.parquet import Row
from pipeline.inputs.shards import READERS, Shard, keys_of, read_shard
from pipeline.storage.base import NotFound, StorageError, Store, is_of_object
from pipeline.storage.local import LocalStore


@dataclass(frozen=True)
class Pairing:
    """Where the partners of one shard's images are; picklable."""

    store: Store
    suffixes: tuple[str, ...]  # of loose files, as they are spelt
    shards: tuple[Shard, ...]  # tars and row groups, looked into first
    renamed: tuple[str, str] = ("", "")  # what a key begins with on the clean side, and there

    def find(self, keys: Sequence[str]) -> list[Row]:
        """For each clean key its partner: data, or a reason why there is none. Raises StorageError if storage fails."""
        wanted = [self.there(key) for key in keys]
        found: dict[str, Row] = {}
        for shard in self.shards:
            for row in rows_of(read_shard(shard)):
                found.setdefault(stem_of(row.key), row)
        missing = [stem for stem in dict.fromkeys(wanted) if stem not in found]
        if isinstance(self.store, LocalStore):
            found |= zip(missing, map(self._loose, missing), strict=True)
        else:
            with ThreadPoolExecutor(READERS) as pool:
                found |= zip(missing, pool.map(self._loose, missing), strict=True)
        return [found[stem] for stem in wanted]

    def there(self, key: str) -> str:
        """What the partner of a clean key is called, without its suffix."""
        here, there = self.renamed
        return stem_of(there + key.removeprefix(here) if key.startswith(here) else key)

    def _loose(self, stem: str) -> Row:
        """The loose file of this name, whatever its suffix."""
        for suffix in self.suffixes:
            name = stem + suffix
            try:
                return Row(name, self.store.read(name))
            except StorageError as error:
                if isinstance(error, NotFound) and suffix != self.suffixes[-1]:
                    continue
                if not is_of_object(self.store, name, error):
                    raise
                if not isinstance(error, NotFound):
                    return Row(name, b"", Reason.unreadable, str(error))
        return Row(stem, b"", Reason.no_partner, "no damaged image of this name")


def join(clean: Listing, damaged: Listing) -> list[Pairing]:
    """For each shard of the clean images where their partners are."""
    suffixes = {name[len(strip_suffix(name)) :] for name, _ in damaged.source.files() if is_image(name)}
    tars = {strip_suffix(shard.name): shard for shard in damaged.shards if shard.kind == "tar"}
    groups = {stem_of(key): shard for shard in damaged.shards if shard.kind == "parquet" for key in keys_of(shard)}
    loose = Pairing(damaged.source.store, tuple(sorted(suffixes)), (), _renamed(clean, damaged))
    if not tars and not groups:
        return [loose] * len(clean.shards)
    joined: list[Pairing] = []
    for shard in clean.shards:
        keys = [strip_suffix(shard.name) + "/"] if shard.kind == "tar" and not groups else keys_of(shard)
        stems = [loose.there(key) for key in keys]
        places = [tars[folder] for stem in stems for folder in _folders(stem) if folder in tars]
        places += [groups[stem] for stem in stems if stem in groups]
        once = {place.id: place for place in places}
        joined.append(Pairing(loose.store, loose.suffixes, tuple(once.values()), loose.renamed))
    return joined


def rows_of(table: pa.Table) -> list[Row]:
    """The rows of what `read_shard` gives."""
    return [Row(row["key"], row["data"], row["reason"], row["detail"]) for row in table.to_pylist()]


def stem_of(key: str) -> str:
    """What both sides of a pair share: the key without an image's suffix."""
    return strip_suffix(key) if is_image(key) else key


def _folders(key: str) -> Iterator[str]:
    """The key a/b/c lies in a and in a/b."""
    return (key[:i] for i, sign in enumerate(key) if sign == "/")


def _renamed(clean: Listing, damaged: Listing) -> tuple[str, str]:
    """With one tar or Parquet file on either side its name is no part of what is joined."""
    names = [{shard.name for shard in side.shards} for side in (clean, damaged)]
    if any(len(found) != 1 or "" in found for found in names):
        return "", ""
    here, there = (f"{strip_suffix(found.pop())}/" for found in names)
    return here, there
