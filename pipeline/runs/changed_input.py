"""An INPUT that is not what it was when OUTPUT was last worked on: files have come, gone, or been replaced.

What OUTPUT has stays. Images are the same by name and size, as shards are: the rows of those that lie in other shards
now go over to these, and what is new or changed is done. Rows of outputs whose images INPUT no longer has, or has in
another version, move to a part of their own, GONE, until an output of what INPUT has takes their place. Whoever is
killed in between finds the same work again. Knows the ledger and shards; no Ray. Memory: 13 bytes per image of the
shards that are no more, and the rows of GONE.
"""

import contextlib
import hashlib
import logging
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import compress
from operator import not_

import numpy as np
from numpy.typing import NDArray

from driftrec.errors import DriftRecError, Reason
from pipeline.inputs.listing import Listing
from pipeline.inputs.loose import LooseFiles
from pipeline.inputs.names import name_digest, name_digests, printable
from pipeline.inputs.shards import Incoming, Shard
from pipeline.runs.integrity import keys_at_fault
from pipeline.runs.ledger import GONE, IMAGES, MEMBER, AnyRow, Ledger, member_of, part_name, texts
from pipeline.runs.outputs import Tar, read_beside, read_output
from pipeline.runs.parts import BrokenPart, ForeignPart
from pipeline.runs.settling import WRITE
from pipeline.storage.base import NotFound, Store

log = logging.getLogger(__name__)

COLUMNS = ("key", "output")
CACHED = 64  # parts whose rows are held: shards then and now are in one order


@dataclass(frozen=True, kw_only=True)
class NoLonger(Shard):
    """The images that INPUT no longer has: nothing to read, and nothing to do."""

    def stored(self, data: bool = True) -> Iterator[Incoming]:
        return iter(())


def gone(ledger: Ledger, listing: Listing) -> list[Shard]:
    """The shard of what INPUT no longer has, if there is anything."""
    if not ledger.has(GONE):
        return []
    try:
        images = ledger.read_part(GONE, COLUMNS).num_rows
    except (BrokenPart, ForeignPart):
        where = ledger.store.where(part_name(GONE))
        told = f"{where}, which tells of outputs whose images INPUT no longer has, is no use: put a copy of it back"
        raise DriftRecError(f"{told}, or take it and these outputs away") from None
    return [NoLonger(id=GONE, store=listing.source.store, size=0, images=images)]


def carry_over(ledger: Ledger, listing: Listing, committed: set[str]) -> None:
    """Give the rows of parts that are of no shard of this listing to the shards that have their images now, or to GONE;
    then remove these parts. A shard that is given some of its rows has a part, which lacks the others; so has one with
    images whose outputs others have now, or have no more.
    """
    disputed, aside = _disputed(ledger, listing, committed)
    known = _Rows.of_strays(ledger, listing, committed)
    for shard in listing.shards:
        same, others = known.of(shard) if known else ([], [])
        aside += others
        if same and shard.id not in committed:
            back = [row for row in same if row["key"] in known.gone] if known else []
            changed = keys_at_fault(ledger.store, back)  # for their places may have been written over
            same = [row for row in same if row["key"] not in changed]
            if rows := _in_own_tar(ledger.store, shard.id, same, keep=False):
                ledger.commit(shard.id, rows)
    if not known and not disputed:
        return
    before = known.left() if known else _rows_of(ledger, GONE) if GONE in committed else []
    left = {row["key"]: row for row in (*before, *map(_as_version, aside)) if row["output"] is not None}
    _replace_gone(ledger, list(left.values()))
    for part, rows in disputed.items():
        ledger.replace(part, rows)
    for part in known.parts if known else ():
        if part != GONE:
            ledger.remove(part)
    log.info("INPUT is not what it was: OUTPUT has %d images that are not there, or not as they were", len(left))


def _disputed(
    ledger: Ledger, listing: Listing, committed: set[str]
) -> tuple[dict[str, list[AnyRow]], list[AnyRow]]:
    """Of the parts that stay and have rows that gave way, or did not, and no longer should: the rows that are right, by
    shard; and those that are not, of all.
    """
    ours = {shard.id: shard for shard in listing.shards if isinstance(shard, LooseFiles) and shard.id in committed}
    right: dict[str, list[AnyRow]] = {}
    wrong: list[AnyRow] = []
    for part, table in ledger.each(ours, ("key", "reason", "stage")):
        if isinstance(table, str):  # no use: its shard is done again
            continue
        if not all(_is_right(row, ours[part]) for row in table.to_pylist()):
            right[part], others = _parted(_rows_of(ledger, part), lambda row, of=ours[part]: _is_right(row, of))
            wrong += others
    return right, wrong


def _rows_of(ledger: Ledger, part: str) -> list[AnyRow]:
    return list(ledger.read_part(part).to_pylist())


def _is_right(row: AnyRow, shard: LooseFiles) -> bool:
    """Whether a row gives way to another's output only if it has to. (One that found its place taken has tried.)"""
    gave_way = row["reason"] == Reason.duplicate_name and row["stage"] != WRITE
    return row["stage"] == WRITE or gave_way == (row["key"] in shard.lost)


def _as_version(row: AnyRow) -> AnyRow:
    """A row of an image that INPUT has in another version."""
    return row if row["output"] is None else {**row, "key": f"{row['key']}#{row['input_sha256'][:8]}"}


def _parted(rows: list[AnyRow], holds: Callable[[AnyRow], bool]) -> tuple[list[AnyRow], list[AnyRow]]:
    """Those of which it holds, and the others."""
    found = list(map(holds, rows))
    return list(compress(rows, found)), list(compress(rows, map(not_, found)))


def bytes_known(ledger: Ledger, listing: Listing, committed: set[str]) -> int:
    """Of loose files whose rows `carry_over` would give to their shards, which are not done."""
    known = _Rows.of_strays(ledger, listing, committed)
    shards = [shard for shard in listing.shards if shard.id not in committed] if known else []
    return sum(row["input_bytes"] for shard in shards for row in (known.of(shard)[0] if known else ()))


def _replace_gone(ledger: Ledger, rows: Sequence[AnyRow]) -> None:
    """Make these the rows of GONE, which is there only if it has some."""
    if rows:
        ledger.replace(GONE, _in_own_tar(ledger.store, GONE, rows, keep=True))
    else:
        ledger.remove(GONE)


def _in_own_tar(store: Store, shard: str, rows: Sequence[AnyRow], keep: bool) -> Sequence[AnyRow]:
    """The rows of a shard, whose outputs in tars lie in one of its own now: so a tar never holds what has no row. Those
    whose output is not there are left out, unless one is to `keep` them as they are.
    """
    outputs = {row["key"]: row["output"] for row in rows if MEMBER in (row["output"] or "")}
    if not outputs:
        return rows
    digest = hashlib.blake2b("\0".join(outputs.values()).encode(), digest_size=8).hexdigest()
    tar, names = Tar(store, f"{shard}-{digest}"), dict[str, str]()
    for key, name in outputs.items():
        with contextlib.suppress(NotFound, tarfile.TarError, EOFError, ValueError):
            names[key] = tar.put(member_of(name), read_output(store, name), read_beside(store, name))
    tar.close()
    there = (row for row in rows if keep or row["key"] not in outputs or row["key"] in names)
    return [{**row, "output": names.get(row["key"], row["output"])} for row in there]


class _Rows:
    """The rows of some parts, by key."""

    @classmethod
    def of_strays(cls, ledger: Ledger, listing: Listing, committed: set[str]) -> "_Rows | None":
        """Of parts that are of use and of no shard of this listing, and of GONE; None without such parts."""
        strays = sorted(committed - {shard.id for shard in listing.shards} - {GONE})
        parts = ledger.each(strays, COLUMNS)
        digests = {part: name_digests(texts(table, "key")) for part, table in parts if not isinstance(table, str)}
        if not digests:
            return None
        gone = texts(ledger.read_part(GONE, COLUMNS), "key") if GONE in committed else []
        return cls(ledger, digests | ({GONE: name_digests(gone)} if gone else {}), frozenset(gone))

    def __init__(self, ledger: Ledger, digests: Mapping[str, NDArray[np.uint64]], gone: frozenset[str]) -> None:
        self.parts, self.gone = list(digests), gone  # names; keys of GONE
        owners = np.repeat(np.arange(len(digests), dtype=np.int32), [len(of_part) for of_part in digests.values()])
        together = np.concatenate(list(digests.values()))
        order = np.argsort(together, kind="stable")
        self._digests, self._owners = together[order], owners[order]
        self._taken = np.zeros(len(order), np.bool_)
        self._ledger = ledger
        self._of = lru_cache(CACHED)(self._read)

    def _read(self, owner: int) -> list[AnyRow]:
        return _rows_of(self._ledger, self.parts[owner])

    def of(self, shard: Shard) -> tuple[list[AnyRow], list[AnyRow]]:
        """Those of a shard of loose files: of images that are what they were, and of others. None of them is left."""
        sizes = {printable(name): size for name, size in shard.files()} if isinstance(shard, LooseFiles) else {}
        rows = self._take(list(sizes))
        return _parted(rows, lambda row: row["input_bytes"] == sizes[row["key"]] and row["key"] not in shard.lost)

    def _take(self, keys: Sequence[str]) -> list[AnyRow]:
        wanted, names = name_digests(keys), set(keys)
        at = np.minimum(np.searchsorted(self._digests, wanted), len(self._digests) - 1)
        found = at[self._digests[at] == wanted]
        self._taken[found] = True
        return self._first([row for row in self._rows_of(found) if row["key"] in names])

    def left(self) -> list[AnyRow]:
        """Those that nobody has taken."""
        rest = np.setdiff1d(self._digests[~self._taken], self._digests[self._taken])
        left = set(rest.tolist())
        rows = self._rows_of(np.flatnonzero(np.isin(self._digests, rest)))
        return self._first([row for row in rows if name_digest(row["key"]) in left])

    def _rows_of(self, places: NDArray[np.intp]) -> Iterator[AnyRow]:
        """All rows of the parts that these places of `_digests` are of."""
        return (row for owner in np.unique(self._owners[places]).tolist() for row in self._of(owner))

    def _first(self, rows: Sequence[AnyRow]) -> list[AnyRow]:
        """One row a key: that of the first part; GONE is the last."""
        return list({row["key"]: row for row in reversed(rows)}.values())


def settle_gone(ledger: Ledger, shards: Sequence[Shard]) -> list[AnyRow]:
    """Once all shards are done: take out of GONE what they have done again, such as the images of a tar that was
    replaced, and what lost its place to an output of theirs. Gives the rows that stay.
    """
    rows = _rows_of(ledger, GONE)
    places = {_place(row["output"]) for row in rows}
    taken: set[str] = set()
    keys, known = {row["key"] for row in rows}, set[str]()
    for part in ledger.read_parts((shard.id for shard in shards if shard.id != GONE), COLUMNS):
        outputs = part["output"].to_pylist()
        taken |= places.intersection(_place(output) for output in outputs if output)
        known |= keys.intersection(texts(part, "key"))
        taken |= keys.intersection(key for key, output in zip(texts(part, "key"), outputs, strict=True) if output)
    left = [row for row in rows if taken.isdisjoint((row["key"], _place(row["output"])))]
    left = [_as_version(row) if row["key"] in known else row for row in left]
    if left != rows:
        _replace_gone(ledger, left)
    return left


def _place(output: str) -> str:
    """Where an output lies, whatever the tar."""
    return f"{IMAGES}/{member_of(output)}" if MEMBER in output else output


def lacking(ledger: Ledger, shard: Shard) -> frozenset[str]:
    """The keys of a shard of loose files that its part has no rows of."""
    if not isinstance(shard, LooseFiles):
        return frozenset()
    there = texts(ledger.read_part(shard.id, COLUMNS), "key")
    return frozenset(printable(name) for name, _ in shard.files()).difference(there)
