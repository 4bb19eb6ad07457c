"""Two members of a tar on one output, found when its pieces are done: a piece does not know what the others hold.

Knows shards and the ledger; no Ray.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

from pipeline.inputs.names import collision_id
from pipeline.inputs.shards import Shard
from pipeline.runs.ledger import MEMBER, Ledger


def settle(ledger: Ledger, shards: Sequence[Shard]) -> list[Shard]:
    """The shards to be done again so that each output has one owner, the first member of its tar that has the name.

    All of `shards` are done. Those that are given back no longer count as done; those that lose an output know it, and
    their images become `duplicate_name` rows. Whoever is interrupted finds the same shards again.
    """
    again: list[Shard] = []
    for pieces in _tars(shards):
        lost, owners = _contested(ledger, pieces)
        for piece in pieces:
            if piece.id in lost or piece.id in owners:
                ledger.remove(piece.id)
                again.append(replace(piece, lost=piece.lost | frozenset(lost[piece.id])))
    return again


def _tars(shards: Sequence[Shard]) -> Iterator[list[Shard]]:
    """The pieces of every tar that was cut, in their order."""
    tars: dict[str, list[Shard]] = defaultdict(list)
    for shard in shards:
        if shard.kind == "tar" and (shard.start or shard.stop):
            tars[shard.name].append(shard)
    yield from (pieces for pieces in tars.values() if len(pieces) > 1)


def _contested(ledger: Ledger, pieces: Sequence[Shard]) -> tuple[dict[str, set[str]], set[str]]:
    """(keys of members that lose their output, by shard; shards that own such an output)."""
    owner: dict[int, str] = {}
    lost: dict[str, set[str]] = defaultdict(set)
    owners: set[str] = set()
    columns = [name for name in ("key", "output") if name in ledger.schema.names]
    parts = ledger.read_parts((piece.id for piece in pieces), columns)
    for piece, part in zip(pieces, parts, strict=True):
        for row in part.to_pylist():
            names = [f"\0{row['key']}", *([row["output"].rpartition(MEMBER)[2]] if row.get("output") else [])]
            others = {owner.setdefault(collision_id(name), piece.id) for name in names} - {piece.id}
            if others:
                lost[piece.id].add(row["key"])
                owners |= others
    return lost, owners
