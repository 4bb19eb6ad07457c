"""Images that failed, or whose output lacks, done again: which they are, and how their new rows take the place of the
old ones.

Knows rows, blocks and the store that holds the outputs; no Ray. Which shards are done again because two of their images
have one name, `pipeline.runs.settling` tells.
"""

from collections.abc import Collection, Sequence

import pyarrow as pa

from driftrec.errors import Reason
from pipeline.runs.integrity import keys_at_fault
from pipeline.runs.ledger import FAILED, AnyRow
from pipeline.storage.base import Store

ALL = "all"  # whatever the reason



def keys_to_retry(rows: Sequence[AnyRow], reason: str | None) -> frozenset[str]:
    """The keys of the rows that failed for this reason; none where `reason` is None."""
    return frozenset(row["key"] for row in rows if row["status"] == FAILED and reason in (ALL, row["reason"]))


def keys_again(store: Store, rows: Sequence[AnyRow], reason: str | None, repair: bool) -> frozenset[str]:
    """The same, and with `repair` the keys of the rows whose output is missing, or not what they say. All outputs of
    the rows are read for that.
    """
    return keys_to_retry(rows, reason) | (keys_at_fault(store, rows) if repair else frozenset())


def only(table: pa.Table, older: Sequence[AnyRow], again: Collection[str]) -> pa.Table:
    """Of a shard's block the images that are done again. If its container was cut, those without a row as well."""
    was_cut = any(row["key"] in again and row["reason"] == Reason.shard_incomplete for row in older)
    known = {row["key"] for row in older}
    wanted = [key in again or (was_cut and key not in known) for key in table["key"].to_pylist()]
    return table.filter(pa.array(wanted, pa.bool_()))


def renewed(older: Sequence[AnyRow], newer: Sequence[AnyRow], again: Collection[str]) -> list[AnyRow]:
    """The rows of a shard with `newer` in place of those of the keys that were done `again`.

    What told of a cut container is left out if it was not told again; of other keys without new rows the old ones stay.
    """
    by_key: dict[str, list[AnyRow]] = {}
    for row in newer:
        by_key.setdefault(row["key"], []).append(row)
    renewed: list[AnyRow] = []
    replaced: set[str] = set()
    for row in older:
        key = row["key"]
        if key not in again or (key not in by_key and row["reason"] != Reason.shard_incomplete):
            renewed.append(row)
        elif key not in replaced:
            replaced.add(key)
            renewed += by_key.pop(key, [])
    return renewed + [row for rows in by_key.values() for row in rows]
