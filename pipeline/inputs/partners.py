"""The other side of a pair: files that belong to the keys of another input, wherever a tool has put them.

A file belongs to the key that has its name, whatever the two suffixes: `a/cat.png` to the key `a/cat.jpg`. In tars the
member counts as below the tar's own name, as it does in keys; of one tar, given by its name, the name does not count.
"""

import hashlib
import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from driftrec.errors import InvalidInput
from pipeline.inputs.location import Input, nothing_found, open_input
from pipeline.inputs.names import (
    SAME_NAMES,
    Renamed,
    is_image,
    name_digest,
    name_digests,
    place_among,
    strip_suffix,
    suffix,
)
from pipeline.storage.base import NotFound, StorageError, Store, is_of_object

NAMED = 10  # names that are told of many


@dataclass(frozen=True, eq=False)
class Partners:
    """Files by the name of their key without its suffix; picklable, and readable anywhere.

    Of loose files only the suffixes are known, a tar's members are known by digest: 16 bytes and a few a member.
    """

    store: Store = field(repr=False)
    source: Input = field(repr=False)
    digest: str  # of all names and sizes
    suffixes: tuple[str, ...]  # of the loose files, as written
    tars: tuple[str, ...] = ()
    members: np.ndarray = field(default_factory=lambda: np.empty((4, 0), np.uint64))  # stem digest, tar, offset, size
    renamed: Renamed = SAME_NAMES  # from the keys to their partners

    def read(self, key: str) -> bytes | None:
        """The bytes of the key's partner, None if it has none. Raises StorageError."""
        wanted = self.renamed.stem(key)
        at = place_among(self.members[0], name_digest(wanted))
        if at is not None:
            _, tar, offset, size = (int(value) for value in self.members[:, at])
            return self.store.read(self.tars[tar], offset, size)
        for ending in self.suffixes:
            try:
                return self.store.read(wanted + ending)
            except NotFound as error:
                if ending == self.suffixes[-1] and not is_of_object(self.store, wanted + ending, error):
                    raise
        return None

    def without_key(self, stems: np.ndarray) -> tuple[int, list[str]]:
        """How many files belong to no key, and the first of them. `stems`: sorted digests of all keys' partners."""
        count, named = 0, []
        for bare, name in _stems(self.source):
            if place_among(stems, name_digest(bare)) is None:
                count += 1
                if len(named) < NAMED:
                    named.append(name)
        return count, named


def find_partners(url: str, references: Input, flag: str) -> Partners:
    """List what another tool has restored: a folder, tars, or a glob. Raises InvalidInput, beginning with `flag`."""
    try:
        source = open_input(url)
        return replace(_list(source), renamed=_renamed(references, source))
    except StorageError as error:
        raise InvalidInput(f"{flag}: {error}") from None
    except InvalidInput as error:
        raise InvalidInput(f"{flag}: {str(error).removeprefix('INPUT ')}") from None


def _renamed(references: Input, source: Input) -> Renamed:
    """How names change between a tar, or loose files, and one tar."""
    if not source.name or suffix(source.name) != ".tar":
        return SAME_NAMES
    here = references.name if references.name and suffix(references.name) == ".tar" else ""
    return Renamed(f"{strip_suffix(here)}/" if here else "", f"{strip_suffix(source.name)}/")


def _list(source: Input) -> Partners:
    digest, suffixes, tars, others = hashlib.sha256(), dict[str, None](), list[str](), 0
    for name, size in source.files():
        if is_image(name):
            suffixes[name[len(strip_suffix(name)) :]] = None
        elif suffix(name) == ".tar":
            tars.append(name)
        else:
            others += 1
            continue
        digest.update(f"{size}:{name}\0".encode("utf-8", "surrogateescape"))
    if not suffixes and not tars:
        raise nothing_found(source, others)
    members = _index(source.store, tars)
    if len(suffixes) > 1 or tars:
        _refuse_repeated(source, members)
    return Partners(source.store, source, digest.hexdigest(), tuple(sorted(suffixes)), tuple(tars), members)


def _index(store: Store, tars: list[str]) -> np.ndarray:
    """(4, N): stem digest, tar, offset and size of every image in the tars, sorted. Each tar is read once."""
    rows = [
        (name_digest(f"{strip_suffix(tar)}/{strip_suffix(name)}"), number, offset, size)
        for number, tar in enumerate(tars)
        for name, offset, size in tar_members(store.read(tar))
    ]
    members = np.array(rows, np.uint64).reshape(-1, 4)
    return np.ascontiguousarray(members[np.argsort(members[:, 0], kind="stable")].T)


def tar_members(data: bytes) -> Iterator[tuple[str, int, int]]:
    """(name, offset, size) of the images in a tar. Raises InvalidInput if it is cut or broken."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            for member in tar:
                if member.isreg() and is_image(member.name):
                    if member.offset_data + member.size > len(data):
                        raise InvalidInput("a tar that ends inside one of its members; fetch it again")
                    yield member.name.removeprefix("./"), member.offset_data, member.size
    except (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidInput(f"a tar that cannot be read ({error}); fetch it again") from None


def _refuse_repeated(source: Input, members: np.ndarray) -> None:
    """Two files for one key: which of them is meant?"""
    loose = name_digests(strip_suffix(name) for name, _ in source.files() if is_image(name))
    digests = np.sort(np.concatenate([loose, members[0]]))
    repeated = set(digests[1:][digests[1:] == digests[:-1]].tolist())
    if not repeated:
        return
    first: dict[int, str] = {}
    for bare, name in _stems(source):
        digest = name_digest(bare)
        if digest in repeated and first.setdefault(digest, name) != name:
            raise InvalidInput(f"{first[digest]} and {name} in {source.url} belong to one key; remove one of them")


def _stems(source: Input) -> Iterator[tuple[str, str]]:
    """(stem, name) of every file, tar members included."""
    for name, _ in source.files():
        if is_image(name):
            yield strip_suffix(name), name
        elif suffix(name) == ".tar":
            for member, _, _ in tar_members(source.store.read(name)):
                yield f"{strip_suffix(name)}/{strip_suffix(member)}", f"{name}:{member}"
