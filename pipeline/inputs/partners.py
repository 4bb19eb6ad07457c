"""The other side of a pair: files that belong to the keys of another input, wherever a tool has put them.

A file belongs to the key that has its name, whatever the two suffixes: `a/cat.png` to the key `a/cat.jpg`. Tools that
put something around the name are met by a pattern: of `FOLDER/{}_out` `a/cat_out.png` belongs to it. In tars the member
counts as below the tar's own name, as it does in keys; of one tar, given by its name, the name does not count.
"""

import hashlib
import io
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from driftrec.errors import InvalidInput
from pipeline.inputs.containers import CONTAINERS
from pipeline.inputs.location import Input, nothing_found, open_input
from pipeline.inputs.names import (
    SAME_NAMES,
    Renamed,
    is_image,
    name_digest,
    name_digests,
    place_among,
    printable,
    strip_suffix,
    suffix,
)
from pipeline.storage.base import NotFound, StorageError, Store, is_of_object

NAMED = 10  # names that are told of many
STEM = "{}"  # in the last part of a place: where the name of the key stands in its partner's


@dataclass(frozen=True)
class Naming:
    """What stands around the name of a key in the last part of its partner's, suffixes apart."""

    head: str = ""
    tail: str = ""

    def bare(self, name: str) -> str | None:
        """The key's name without its suffix; None if this is no partner's name."""
        folder, slash, last = strip_suffix(name).rpartition("/")
        if not (last.startswith(self.head) and last.endswith(self.tail)) or len(last) <= len(self.head + self.tail):
            return None
        return folder + slash + last[len(self.head) : len(last) - len(self.tail)]

    def digests(self, names: Iterable[str]) -> np.ndarray:
        """Sorted digests of the keys' names without their suffix."""
        return np.sort(name_digests(bare for bare in map(self.bare, names) if bare is not None))

    def of(self, bare: str) -> str:
        """The partner's name without its suffix."""
        folder, slash, last = bare.rpartition("/")
        return f"{folder}{slash}{self.head}{last}{self.tail}"


PLAIN = Naming()


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
    naming: Naming = PLAIN

    def read(self, key: str) -> bytes | None:
        """The bytes of the key's partner, None if it has none. Raises StorageError."""
        wanted = self.renamed.stem(key)
        at = place_among(self.members[0], name_digest(wanted))
        if at is not None:
            _, tar, offset, size = (int(value) for value in self.members[:, at])
            return self.store.read(self.tars[tar], offset, size)
        for ending in self.suffixes:
            name = self.naming.of(wanted) + ending
            try:
                return self.store.read(name)
            except NotFound as error:
                if ending == self.suffixes[-1] and not is_of_object(self.store, name, error):
                    raise
        return None

    def without_key(self, stems: np.ndarray) -> tuple[int, list[str]]:
        """How many files belong to no key, and the first of them. `stems`: sorted digests of all keys' partners."""
        count, named = 0, []
        for bare, name in _stems(self.source, self.naming):
            if place_among(stems, name_digest(bare)) is None:
                count += 1
                if len(named) < NAMED:
                    named.append(name)
        return count, named


def find_partners(url: str, references: Input, flag: str) -> Partners:
    """List what another tool has restored: a folder, tars, or a glob; with {} in its last part a folder and how names
    are made there. Raises InvalidInput, beginning with `flag`, also where no file has the name of a reference.
    """
    place, slash, pattern = url.rpartition("/")
    head, told, tail = pattern.partition(STEM)
    naming = Naming(head, strip_suffix(tail) if is_image(tail) else tail) if told else PLAIN
    try:
        source = open_input((place or slash or ".") if told else url)
        renamed = _renamed(references, source)
        naming = naming if told or source.name else _met(source, references, renamed)
        return replace(_list(source, naming), renamed=renamed)
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


def _met(source: Input, references: Input, renamed: Renamed) -> Naming:
    """How names are made among loose files, as far as loose references tell: as theirs, or with a suffix more
    (a.png.png). Raises InvalidInput where no file fits.
    """
    names = [name for name, _ in source.files() if is_image(name) or suffix(name) in CONTAINERS]
    if not names or not all(map(is_image, names)):
        return PLAIN
    more = {suffix(strip_suffix(name)) for name in names if is_image(strip_suffix(name))}
    known = {naming: naming.digests(names) for naming in (PLAIN, *(Naming(tail=ending) for ending in sorted(more)))}
    first = ""
    for name in (name for name, _ in references.files() if is_image(name)):
        digest = name_digest(renamed.stem(name))
        if fit := next((naming for naming, digests in known.items() if place_among(digests, digest) is not None), None):
            return fit
        first = first or name
    if not first:
        return PLAIN
    raise InvalidInput(
        f"{source.url} has no file for any reference: it has {printable(names[0])}, looked for was "
        f"{printable(strip_suffix(first))}.*; where a tool puts something around names, say how: "
        f"{source.url.rstrip('/')}/{STEM}_out"
    )


def _list(source: Input, naming: Naming) -> Partners:
    digest, suffixes, tars, others = hashlib.sha256(), dict[str, None](), list[str](), 0
    for name, size in source.files():
        if is_image(name) and naming.bare(name) is not None:
            suffixes[name[len(strip_suffix(name)) :]] = None
        elif suffix(name) == ".tar":
            tars.append(name)
        else:
            others += 1
            continue
        digest.update(f"{size}:{name}\0".encode("utf-8", "surrogateescape"))
    if not suffixes and not tars:
        raise nothing_found(source, others)
    members = _index(source.store, tars, naming)
    if len(suffixes) > 1 or tars:
        _refuse_repeated(source, members, naming)
    found = Partners(source.store, source, digest.hexdigest(), tuple(sorted(suffixes)), tuple(tars), members)
    return replace(found, naming=naming)


def _index(store: Store, tars: list[str], naming: Naming) -> np.ndarray:
    """(4, N): stem digest, tar, offset and size of every image in the tars, sorted. Each tar is read once."""
    rows = [
        (name_digest(f"{strip_suffix(tar)}/{bare}"), number, offset, size)
        for number, tar in enumerate(tars)
        for name, offset, size in tar_members(store.read(tar))
        if (bare := naming.bare(name)) is not None
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


def _refuse_repeated(source: Input, members: np.ndarray, naming: Naming) -> None:
    """Two files for one key: which of them is meant?"""
    loose = naming.digests(name for name, _ in source.files() if is_image(name))
    digests = np.sort(np.concatenate([loose, members[0]]))
    repeated = set(digests[1:][digests[1:] == digests[:-1]].tolist())
    if not repeated:
        return
    first: dict[int, str] = {}
    for bare, name in _stems(source, naming):
        digest = name_digest(bare)
        if digest in repeated and first.setdefault(digest, name) != name:
            raise InvalidInput(f"{first[digest]} and {name} in {source.url} belong to one key; remove one of them")


def _stems(source: Input, naming: Naming) -> Iterator[tuple[str, str]]:
    """(stem, name) of every file, tar members included; a file that is named otherwise has its own stem."""
    for name, _ in source.files():
        if is_image(name):
            yield naming.bare(name) or strip_suffix(name), name
        elif suffix(name) == ".tar":
            for member, _, _ in tar_members(source.store.read(name)):
                yield f"{strip_suffix(name)}/{naming.bare(member) or strip_suffix(member)}", f"{name}:{member}"
