"""Pairs to train on: where the damaged partner of a clean image lies, joined by the key without its suffix. Starts no
Ray.

Both sides may be folders, tars or Parquet. A loose partner is found by its name when it is read, one in a tar by the
tar's name, which its key begins with: neither side's images are opened beforehand, as `partners` does for an
evaluation. Only partners in Parquet are indexed when the data is listed. Where both sides are one tar or one Parquet
file, their names may differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from driftrec.errors import Reason
from pipeline.inputs.listing import Listing
from pipeline.inputs.names import SAME_NAMES, Renamed, folders_of, is_image, stem, strip_suffix
from pipeline.inputs.shards import Incoming, Shard, rows_of
from pipeline.storage.base import NotFound, StorageError, Store, is_of_object


@dataclass(frozen=True)
class Pairing:
    """Where the partners of one shard's images are; picklable."""

    store: Store
    suffixes: tuple[str, ...]  # of loose files, as they are spelt
    shards: tuple[Shard, ...]  # tars and row groups, looked into first
    renamed: Renamed = SAME_NAMES  # from the clean side to the damaged one

    def find(self, keys: Sequence[str]) -> list[Incoming]:
        """For each clean key its partner: data, or a reason why there is none. Raises StorageError if storage fails."""
        wanted = [self.renamed.stem(key) for key in keys]
        found: dict[str, Incoming] = {}
        for shard in self.shards:
            for row in rows_of(shard):
                found.setdefault(stem(row.key), row)
        missing = [name for name in dict.fromkeys(wanted) if name not in found]
        found |= zip(missing, self.store.each(self._loose, missing), strict=True)
        return [found[name] for name in wanted]

    def _loose(self, bare: str) -> Incoming:
        """The loose file of this name, whatever its suffix."""
        for suffix in self.suffixes:
            name = bare + suffix
            try:
                return Incoming(name, self.store.read(name))
            except StorageError as error:
                if isinstance(error, NotFound) and suffix != self.suffixes[-1]:
                    continue
                if not is_of_object(self.store, name, error):
                    raise
                if not isinstance(error, NotFound):
                    return Incoming(name, b"", Reason.unreadable, str(error))
        return Incoming(bare, b"", Reason.no_partner, "no damaged image of this name")


def join(clean: Listing, damaged: Listing) -> list[Pairing]:
    """For each shard of the clean images where their partners are."""
    suffixes = {name[len(strip_suffix(name)) :] for name, _ in damaged.source.files() if is_image(name)}
    folders = {shard.folder: shard for shard in damaged.shards if shard.folder}
    listed = (shard for shard in damaged.shards if shard.name and not shard.folder)
    groups = {stem(key): shard for shard in listed for key in shard.all_keys()}
    loose = Pairing(damaged.source.store, tuple(sorted(suffixes)), (), _renamed(clean, damaged))
    if not folders and not groups:
        return [loose] * len(clean.shards)
    joined: list[Pairing] = []
    for shard in clean.shards:
        keys = [f"{shard.folder}/"] if shard.folder and not groups else shard.all_keys()
        stems = [loose.renamed.stem(key) for key in keys]
        places = [folders[folder] for name in stems for folder in folders_of(name) if folder in folders]
        places += [groups[name] for name in stems if name in groups]
        once = {place.id: place for place in places}
        joined.append(Pairing(loose.store, loose.suffixes, tuple(once.values()), loose.renamed))
    return joined


def _renamed(clean: Listing, damaged: Listing) -> Renamed:
    """With one tar or Parquet file on either side its name is no part of what is joined."""
    names = [{shard.name for shard in side.shards} for side in (clean, damaged)]
    if any(len(found) != 1 or "" in found for found in names):
        return SAME_NAMES
    return Renamed(*(f"{strip_suffix(found.pop())}/" for found in names))
