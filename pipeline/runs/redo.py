"""Images that failed, or whose output lacks, done again: which they are, and how their new rows take the place of the
old ones.

Knows rows, blocks and the store that holds the outputs; no Ray.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from driftrec.errors import Reason
from pipeline.inputs.names import collision_id
from pipeline.inputs.shards import Shard
from pipeline.runs.integrity import keys_at_fault
from pipeline.runs.ledger import FAILED, MEMBER, Ledger
from pipeline.storage.base import Store

ALL = "all"  # whatever the reason

Row = Mapping[str, Any]


def keys_to_retry(rows: Sequence[Row], reason: str | None) -> frozenset[str]:
    """The keys of the rows that failed for this reason; none where `reason` is None."""
    return frozenset(row["key"] for row in rows if row["status"] == FAILED and reason in (ALL, row["reason"]))


def keys_again(store: Store, rows: Sequence[Row], reason: str | None, repair: bool) -> frozenset[str]:
    """The same, and with `repair` the keys of the rows whose output is missing, or not what they say. All outputs of
    the rows are read for that.
    """
    return keys_to_retry(rows, reason) | (keys_at_fault(store, rows) if repair else frozenset())


def only(table: pa.Table, older: Sequence[Row], again: Collection[str]) -> pa.Table:
    """Of a shard's block the images that are done again. If its container was cut, those without a row as well."""
    was_cut = any(row["key"] in again and row["reason"] == Reason.shard_incomplete for row in older)
    known = {row["key"] for row in older}
    wanted = [key in again or (was_cut and key not in known) for key in table["key"].to_pylist()]
    return table.filter(pa.array(wanted, pa.bool_()))


def renewed(older: Sequence[Row], newer: Sequence[Row], again: Collection[str]) -> list[Row]:
    """The rows of a shard with `newer` in place of those of the keys that were done `again`.

    What told of a cut container is left out if it was not told again; of other keys without new rows the old ones stay.
    """
    by_key: dict[str, list[Row]] = {}
    for row in newer:
        by_key.setdefault(row["key"], []).append(row)
    renewed: list[Row] = []
    replaced: set[str] = set()
    for row in older:
        key = row["key"]
        if key not in again or (key not in by_key and row["reason"] != Reason.shard_incomplete):
            renewed.append(row)
        elif key not in replaced:
            replaced.add(key)
            renewed += by_key.pop(key, [])
    return renewed + [row for rows in by_key.values() for row in rows]


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
