"""Tar shards (WebDataset) as rows: whole, or in pieces that are read apart from each other. Knows no Ray.

A piece is a range of bytes, and holds the members that begin in it. Where the first of them begins is found by looking
for a header; so that nothing is lost or read twice, each piece makes sure that the next one will begin where it ends.
Memory follows the piece (and one image), not the tar.
"""

import contextlib
import os
import tarfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO, cast

from driftrec.errors import DriftRecError, Reason
from driftrec.image.sniff import RAW_SUFFIXES
from pipeline.inputs.kinds import HEAD, RAW, Found, by_content, by_name
from pipeline.inputs.names import is_image, sample_of, strip_suffix, suffix, unsafe
from pipeline.inputs.shards import Cutting, Incoming, Shard, chosen, shard_id, too_large
from pipeline.storage.base import NotFound, Store

BLOCK = 512  # bytes of a tar record
LOOK_BACK = 128 * BLOCK  # before a piece: where the headers lie that lengthen the name of its first member
SCAN = 2**18  # bytes read at once where a header is looked for
AHEAD = 2**16  # bytes asked of storage, at least, for a header behind the piece
PREFIXES = frozenset("xgLK")  # headers that belong to the one that follows


@dataclass(frozen=True, kw_only=True)
class TarPiece(Shard):
    """The members whose headers lie between two bytes of a tar: from `first` to `stop`."""

    stop: int | None = None  # None for the end of the tar

    @property
    def folder(self) -> str:
        return strip_suffix(self.name)

    def stored(self, data: bool = True) -> Iterator[Incoming]:
        near = self.stop if data or not self.store.local else self.first
        file = TarFile(self.store, self.name, self.first, near)
        rows = tar_rows(file, self.name, self.folder, self.first, self.stop, self.max_bytes if data else 0)
        return with_sidecars(rows, file, self.folder, self.max_bytes) if data and self.carries else rows


def tar_shards(store: Store, name: str, size: int, cutting: Cutting) -> Iterator[TarPiece]:
    """A tar as shards of about `cutting.piece_bytes`. It is opened only if some of its keys may have been asked for."""
    if not cutting.selection.may_take_of(name):
        return
    starts = range(0, max(1, size), cutting.piece_bytes or max(1, size))
    for start in starts:
        stop = None if start == starts[-1] else start + starts.step
        parts = ("tar", name, size) if len(starts) == 1 else ("tar", name, size, start, stop)
        length = min(size, stop or size) - start
        piece = TarPiece(id=shard_id(*parts), store=store, name=name, size=length, images=None, first=start, stop=stop)
        yield from chosen(piece, cutting.selection)


class _Member(tarfile.TarInfo):
    """A header whose size or extended header lies cannot send the reader backwards, and so round in circles."""

    def _block(self, count: int) -> int:
        if count < 0:
            raise tarfile.InvalidHeaderError("negative size")  # type: ignore[attr-defined] - it is there
        return super()._block(count)  # type: ignore[misc]


class TarFile:
    """A tar of which [start, stop) is read in one go and kept, and the rest only where it is asked for.

    A file, as far as the standard library's reader of tars needs one.
    """

    def __init__(self, store: Store, name: str, start: int = 0, stop: int | None = None) -> None:
        size = store.size(name)
        if size is None:
            raise NotFound(f"{store.where(name)} does not exist; check the path")
        self.size = size
        self._store, self._name, self._at = store, name, 0
        self._from = max(0, start - LOOK_BACK)
        self._near = self._fetch(self._from, min(size, size if stop is None else stop) - self._from)
        self._far_from, self._far = 0, b""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a position; the new one."""
        self._at = max(0, offset + (0, self._at, self.size)[whence])
        return self._at

    def tell(self) -> int:
        """Position in bytes."""
        return self._at

    def read(self, length: int = -1) -> bytes:
        """So many bytes from here, fewer only at the end."""
        most = max(0, self.size - self._at)
        length = most if length < 0 else min(length, most)
        data = b""
        if self._at >= self._from:
            data = self._near[self._at - self._from : self._at - self._from + length]
        if len(data) < length:
            data += self._beyond(self._at + len(data), length - len(data))
        self._at += len(data)
        return data

    def _beyond(self, at: int, length: int) -> bytes:
        """What is not kept; a little more of it is fetched, for the next header."""
        if length > AHEAD:
            return self._fetch(at, length)
        if not self._far_from <= at <= at + length <= self._far_from + len(self._far):
            self._far_from, self._far = at, self._fetch(at, min(AHEAD, self.size - at))
        return self._far[at - self._far_from : at - self._far_from + length]

    def _fetch(self, at: int, length: int) -> bytes:
        """From storage. A connection that was cut looks like a short file: what is missing is asked for once more."""
        if length <= 0:
            return b""
        data = self._store.read(self._name, at, length)
        return data if len(data) >= length else data + self._store.read(self._name, at + len(data), length - len(data))


def tar_rows(
    file: TarFile, name: str, stem: str, start: int = 0, stop: int | None = None, max_bytes: int = 2**30
) -> Iterator[Incoming]:
    """A row per image member whose header lies in [start, stop), named "<stem>/<member>".

    A row named `name` tells that the tar was cut or is broken from there on.

    Args:
        file: the tar.
        name: of the tar.
        stem: what its keys begin with.
        start: of the piece.
        stop: of the piece; None for all of the tar.
        max_bytes: larger members are not read and have a reason; 0: no member is read, and none has data.

    Raises DriftRecError if the tar cannot be read in pieces.
    """
    size = file.size
    last = size if stop is None else min(stop, size)
    end = find_member(file, start, last) if start else 0
    if end is None:
        return  # a long member goes on here, or the padding at the end
    following: int | None = end
    ended = False
    try:
        while following is not None:
            file.seek(end := following)
            ended = False
            with tarfile.open(fileobj=cast(IO[bytes], file), mode="r:", tarinfo=_Member) as tar:
                while not ended and (end < last or end >= size):
                    if member := tar.next():
                        end = tar.offset
                        if row := _member_row(file, member, stem, max_bytes):
                            yield row
                    else:
                        ended = True
            marked = ended and _read(file, end, BLOCK) == bytes(BLOCK)  # behind the mark another tar may have been hung
            following = find_member(file, end + BLOCK, last) if marked else None
    except (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError) as error:
        yield Incoming(name, b"", Reason.shard_incomplete, f"broken after byte {end} of {size}: {error}")
        return
    block = _read(file, end, BLOCK)
    if not ended and (_header(block) or block == bytes(BLOCK)):
        _check_next(file, end, last, last - start, name)
    elif block != bytes(BLOCK):
        detail = f"no end-of-archive mark at byte {end} of {size}: the tar was cut, members may be missing"
        yield Incoming(name, b"", Reason.shard_incomplete, detail)


def with_sidecars(rows: Iterable[Incoming], file: TarFile, stem: str, max_bytes: int) -> Iterator[Incoming]:
    """The rows of a tar that is read whole, each with the members of its WebDataset sample which are no images, such as
    its caption.
    """
    found = _sidecars(file, stem, max_bytes)
    return (row._replace(beside=found.get(sample_of(row.key), {})) for row in rows)


def _sidecars(file: TarFile, stem: str, max_bytes: int) -> dict[str, dict[str, bytes]]:
    """By sample, the members that are no images, as far as the tar can be read."""
    found: dict[str, dict[str, bytes]] = defaultdict(dict)
    broken = (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError)
    whole = cast(IO[bytes], file)
    with contextlib.suppress(*broken), tarfile.open(fileobj=whole, mode="r:", tarinfo=_Member) as tar:
        while member := tar.next():
            name = f"{stem}/{member.name.removeprefix('./')}"
            if member.isreg() and 0 <= member.size <= max_bytes and not is_image(name) and not unsafe(name):
                found[sample_of(name)][name] = _read(file, member.offset_data, member.size)
    return found


def find_member(file: TarFile, start: int, stop: int) -> int | None:
    """Where the first member begins whose first header lies in [start, stop); None if none does."""
    skipped: set[int] = set()  # headers that belong to one before `start`
    at, last = max(0, start - LOOK_BACK) // BLOCK * BLOCK, -(-stop // BLOCK) * BLOCK
    while at < last:
        chunk = _read(file, at, min(SCAN, last - at))
        for place in range(0, len(chunk) - BLOCK + 1, BLOCK):
            here = at + place
            if not (header := _header(chunk[place : place + BLOCK])):
                continue
            if here >= start and here not in skipped:
                return here
            if header.type.decode("latin-1") in PREFIXES:
                skipped.add(here + BLOCK + -(-header.size // BLOCK) * BLOCK)
        if len(chunk) < BLOCK:
            return None
        at += len(chunk) // BLOCK * BLOCK
    return None


def _check_next(file: TarFile, end: int, stop: int, length: int, name: str) -> None:
    """The member after a piece that ends at `end` is where the pieces behind `stop` will look for it."""
    size = file.size
    wanted = end if _header(_read(file, end, BLOCK)) else None  # or the end-of-archive mark
    while stop <= end and stop < size:
        following = min(size, stop + length)
        found = find_member(file, stop, following)
        if found != (wanted if wanted is not None and wanted < following else None):
            raise DriftRecError(
                f"{name}: something at byte {found} looks like the header of a member and is none, such as a tar in "
                f"the tar; so it cannot be read in pieces: unpack it, or give --set shard_bytes={size} to read it whole"
            )
        stop = following


def _header(block: bytes) -> tarfile.TarInfo | None:
    """The header that a block is, None if it is none."""
    if not block[148:154].strip(b" \0").isdigit():  # its checksum: rules out most at little cost
        return None
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return None


def _member_row(file: TarFile, member: tarfile.TarInfo, stem: str, max_bytes: int) -> Incoming | None:
    """The row of one member, None if it is no image."""
    if member.isdir():
        return None
    found = by_name(member.name, member.size)
    if found is None and member.isreg():
        found = Found(member.name, member.size, *by_content(member.name, _read(file, member.offset_data, HEAD)))
    if found is None or found.kind is None:
        return None
    key = f"{stem}/{member.name.removeprefix('./')}"
    if member.issym() or member.islnk():
        return Incoming(key, b"", Reason.unsafe_name, f"a link to {member.linkname!r} inside the tar, not a file")
    if not member.isreg() or member.issparse():
        return Incoming(key, b"", Reason.unsupported, "a device, sparse or other special file inside the tar")
    if suffix(member.name) in RAW_SUFFIXES:
        return Incoming(key, b"", *RAW)
    there = max(0, min(member.size, file.size - member.offset_data))  # a header may say anything
    if there < member.size:
        return Incoming(key, b"", Reason.truncated, f"the tar ends after {there} of its {member.size} bytes")
    if there > max_bytes > 0:
        return too_large(key, f"the member has {there} bytes", max_bytes)
    content = _read(file, member.offset_data, there) if max_bytes else b""
    if max_bytes and len(content) < there:
        return Incoming(key, b"", Reason.truncated, f"only {len(content)} of its {there} bytes came")
    return Incoming(key, content)


def _read(file: TarFile, at: int, length: int) -> bytes:
    file.seek(at)
    return file.read(length)
