"""An INPUT that is not what it was when OUTPUT was last worked on: files have come, gone, or been replaced.

What OUTPUT has stays. Images are the same by name and size, as shards are: the rows of those that lie in other shards
now go over to these, and what is new or changed is done. Rows of outputs whose images INPUT no longer has, or has in
another version, move to a part of their own, GONE, until an output of what INPUT has takes their place. Whoever is
killed in between finds the same work again. Knows the ledger and shards; no Ray. Memory: 13 bytes per image of the
shards that are no more, and the rows of GONE.
"""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import compress
from operator import not_

import numpy as np

from driftrec.errors import Reason
from pipeline.inputs.listing import Listing
from pipeline.inputs.loose import LooseFiles
from pipeline.inputs.names import name_digest, name_digests, printable
from pipeline.inputs.shards import Incoming, Shard
from pipeline.runs.ledger import GONE, IMAGES, MEMBER, AnyRow, Ledger, member_of, texts
from pipeline.runs.outputs import Tar, read_beside, read_output
from pipeline.storage.base import Store

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
    images = ledger.read_part(GONE, COLUMNS).num_rows
    return [NoLonger(id=GONE, store=listing.source.store, size=0, images=images)]


def carry_over(ledger: Ledger, listing: Listing, committed: set[str]) -> None:
    """Give the rows of parts that are of no shard of this listing to the shards that have their images now, or to GONE;
    then remove these parts. A shard that is given some of its rows has a part, which lacks the others.
    """
    known = _Rows.of_strays(ledger, listing, committed)
    if not known:
        return
    replaced: list[AnyRow] = []
    for shard in listing.shards:
        same, others = known.of(shard)
        replaced += [{**row, "key": f"{row['key']}#{row['input_sha256'][:8]}"} for row in others]
        if same and shard.id not in committed:
            ledger.commit(shard.id, _in_own_tar(ledger.store, shard.id, same))
    left = [row for row in (*known.left(), *replaced) if row["output"] is not None]
    _replace_gone(ledger, left)
    for part in known.parts:
        if part != GONE:
            ledger.remove(part)
    told = "INPUT is not what it was: of %d images that OUTPUT knows in other shards %d are not at their places"
    log.info(told, len(known.digests), len(left))


def bytes_known(ledger: Ledger, listing: Listing, committed: set[str]) -> int:
    """Of loose files whose rows `carry_over` would give to their shards, which are not done."""
    known = _Rows.of_strays(ledger, listing, committed)
    shards = [shard for shard in listing.shards if shard.id not in committed] if known else []
    return sum(row["input_bytes"] for shard in shards for row in (known.of(shard)[0] if known else ()))


def _replace_gone(ledger: Ledger, rows: Sequence[AnyRow]) -> None:
    """Make these the rows of GONE, which is there only if it has some."""
    if rows:
        ledger.replace(GONE, _in_own_tar(ledger.store, GONE, rows))
    else:
        ledger.remove(GONE)


def _in_own_tar(store: Store, shard: str, rows: Sequence[AnyRow]) -> Sequence[AnyRow]:
    """The rows of a shard, whose outputs in tars lie in one of its own now: so a tar never holds what has no row."""
    outputs = {row["key"]: row["output"] for row in rows if MEMBER in (row["output"] or "")}
    if not outputs:
        return rows
    digest = hashlib.blake2b("\0".join(outputs.values()).encode(), digest_size=8).hexdigest()
    tar = Tar(store, f"{shard}-{digest}")
    names = {
        key: tar.put(member_of(name), read_output(store, name), read_beside(store, name))
        for key, name in outputs.items()
    }
    tar.close()
    return [{**row, "output": names.get(row["key"], row["output"])} for row in rows]


class _Rows:
    """The rows of some parts, by key."""

    @classmethod
    def of_strays(cls, ledger: Ledger, listing: Listing, committed: set[str]) -> "_Rows | None":
        """Of parts that are of use and of no shard of this listing, and of GONE; None without such parts."""
        strays = sorted(committed - {shard.id for shard in listing.shards} - {GONE})
        keys: list[list[str]] = []
        no_use = ledger.spoilt(strays, lambda part: keys.append(texts(part, "key"))) if strays else {}
        strays = [part for part in strays if part not in no_use]
        if strays and GONE in committed:
            strays.append(GONE)
            keys.append(texts(ledger.read_part(GONE, COLUMNS), "key"))
        return cls(ledger, strays, keys) if strays else None

    def __init__(self, ledger: Ledger, parts: Sequence[str], keys: Sequence[Sequence[str]]) -> None:
        digests = np.concatenate([name_digests(of_part) for of_part in keys])
        owners = np.repeat(np.arange(len(keys), dtype=np.int32), [len(of_part) for of_part in keys])
        order = np.argsort(digests, kind="stable")
        self.digests, self._owners = digests[order], owners[order]
        self._taken = np.zeros(len(order), np.bool_)
        self._ledger, self.parts = ledger, parts
        self._of = lru_cache(CACHED)(self._read)

    def _read(self, owner: int) -> list[AnyRow]:
        return list(self._ledger.read_part(self.parts[owner]).to_pylist())

    def of(self, shard: Shard) -> tuple[list[AnyRow], list[AnyRow]]:
        """Those of a shard of loose files: of images that are what they were, and of others. None of them is left."""
        sizes = {printable(name): size for name, size in shard.files()} if isinstance(shard, LooseFiles) else {}
        rows = self._take(list(sizes))
        same = [row["input_bytes"] == sizes[row["key"]] and row["key"] not in shard.lost for row in rows]
        return list(compress(rows, same)), list(compress(rows, map(not_, same)))

    def _take(self, keys: Sequence[str]) -> list[AnyRow]:
        wanted, names = name_digests(keys), set(keys)
        at = np.minimum(np.searchsorted(self.digests, wanted), len(self.digests) - 1)
        found = at[self.digests[at] == wanted]
        self._taken[found] = True
        owners = np.unique(self._owners[found]).tolist()
        return [row for owner in owners for row in self._of(owner) if row["key"] in names]

    def left(self) -> list[AnyRow]:
        """Those that nobody has taken."""
        rest = np.setdiff1d(self.digests[~self._taken], self.digests[self._taken])
        owners, left = np.unique(self._owners[np.isin(self.digests, rest)]).tolist(), set(rest.tolist())
        rows = (row for owner in owners for row in self._of(owner))
        return list({row["key"]: row for row in rows if name_digest(row["key"]) in left}.values())


def settle_gone(ledger: Ledger, shards: Sequence[Shard]) -> list[AnyRow]:
    """Once all shards are done: take out of GONE what they have done again, such as the images of a tar that was
    replaced, and what lost its place to an output of theirs. Gives the rows that stay.
    """
    rows: list[AnyRow] = list(ledger.read_part(GONE).to_pylist())
    keys, places = {row["key"] for row in rows}, {_place(row["output"]) for row in rows}
    taken: set[str] = set()
    for part in ledger.read_parts((shard.id for shard in shards if shard.id != GONE), COLUMNS):
        taken |= keys.intersection(texts(part, "key"))
        taken |= places.intersection(_place(output) for output in part["output"].to_pylist() if output)
    left = [row for row in rows if taken.isdisjoint((row["key"], _place(row["output"])))]
    if len(left) < len(rows):
        _replace_gone(ledger, left)
    return left


def _place(output: str) -> str:
    """Where an output lies, whatever the tar."""
    return f"{IMAGES}/{member_of(output)}" if MEMBER in output else output


def lacking(ledger: Ledger, shard: Shard) -> frozenset[str]:
    """The keys of a shard of loose files that its part has no rows of. It has none then of those whose output another
    has now, or has no more.
    """
    if not isinstance(shard, LooseFiles):
        return frozenset()
    rows: list[AnyRow] = list(ledger.read_part(shard.id).to_pylist())
    right = [row for row in rows if (row["reason"] == Reason.duplicate_name) == (row["key"] in shard.lost)]
    if len(right) < len(rows):
        ledger.replace(shard.id, right)
    return frozenset(printable(name) for name, _ in shard.files()).difference(row["key"] for row in right)
