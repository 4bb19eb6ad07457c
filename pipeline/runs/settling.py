"""Each output has one owner, and each key one image: where several shards have the same, the first keeps it.

What containers hold that are not opened before their turn shows in the ledger when all shards are done. The shards that
lose a name are done again, and know it; so are its owners, whose output may have been written over or kept away. Knows
the ledger and names; no Ray, no pixels. Memory: 8 bytes per image, and as many per name of an output.
"""

from array import array
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from driftrec.errors import Reason
from pipeline.inputs.collisions import Claim, OutputName, claim
from pipeline.inputs.loose import LooseFiles
from pipeline.inputs.names import name_digest
from pipeline.inputs.shards import Shard, tells_of_container
from pipeline.runs.ledger import GONE, MEMBER, AnyRow, Ledger
from pipeline.storage.base import Store

ROUNDS = 8  # of settling: keys that are made to be told apart may meet others
WRITE = "write"  # stage of a row whose output found its place taken
COLUMNS = ("key", "reason", "stage", "output")



@dataclass
class Disputed:
    """What several shards have, and who keeps it."""

    names: frozenset[int]  # of outputs that are of two shards, or that another shard needs for a folder
    keys: frozenset[int]
    files: dict[int, str] = field(default_factory=dict)  # shards by what they keep
    folders: dict[int, str] = field(default_factory=dict)
    images: dict[int, str] = field(default_factory=dict)

    def owners(self, shard: str, key: int, wanted: Claim) -> set[str] | None:
        """None if the shard may keep all of this, and does; else the other shards that have some of its names."""
        names, folders = self.names & wanted.names, self.names & wanted.folders
        others = {self.files.get(name, shard) for name in names | folders}
        others |= {self.folders.get(name, shard) for name in names}
        others -= {shard}
        if others or self.images.get(key, shard) != shard:
            return others
        self.files |= dict.fromkeys(names - self.files.keys(), shard)
        self.folders |= dict.fromkeys(folders - self.folders.keys(), shard)
        if key in self.keys:
            self.images.setdefault(key, shard)
        return None


def settling(
    ledger: Ledger, shards: Sequence[Shard], output_name: OutputName | None, beside: Sequence[str] = ()
) -> Iterator[list[Shard]]:
    """The shards to be done again, time after time until there are none; each time the caller does them."""
    for _ in range(ROUNDS):
        again = {shard.id: shard for shard in settle(ledger, shards, output_name, beside)}
        if not again:
            return
        yield list(again.values())
        shards = [again.get(shard.id, shard) for shard in shards]


def settle(
    ledger: Ledger, shards: Sequence[Shard], output_name: OutputName | None, beside: Sequence[str] = ()
) -> list[Shard]:
    """The shards to be done again so that no two have one key, or one output.

    All of `shards` are done. Those that are given back no longer count as done; those that lose a name know it, and
    their images become `duplicate_name` rows. Whoever is interrupted finds the same shards again.

    Args:
        ledger: of the run.
        shards: all of it.
        output_name: by which outputs are named; None where there are none.
        beside: folders with a file of each shard, which goes with its part.
    """
    shards = [shard for shard in shards if shard.id != GONE]  # which keeps nothing from those that are there
    if all(isinstance(shard, LooseFiles) for shard in shards):
        return []  # nothing is known now that was not when they were listed
    disputed = _disputed(ledger, shards, output_name)
    if not disputed.names and not disputed.keys:
        return []
    lost, owners, outputs = _losers(ledger, shards, output_name, disputed)
    again = [shard for shard in shards if shard.id in lost or shard.id in owners]
    for shard in again:
        ledger.remove(shard.id)
        for folder in beside:
            ledger.store.remove(f"{folder}/{shard.id}.parquet")
    _remove(ledger.store, outputs)
    return [replace(shard, lost=shard.lost | frozenset(lost[shard.id])) for shard in again]


def _disputed(ledger: Ledger, shards: Sequence[Shard], output_name: OutputName | None) -> Disputed:
    """What is claimed in more than one shard, none of it given yet."""
    names, keys, folders = array("Q"), array("Q"), set[int]()
    for _, claims in _claims(ledger, shards, output_name):
        names.extend(set().union(*(wanted.names for _, _, wanted in claims)))
        keys.extend({key for _, key, _ in claims})
        folders.update(*(wanted.folders for _, _, wanted in claims))
    return Disputed(_repeated(names) | folders.intersection(names), _repeated(keys))


def _losers(
    ledger: Ledger, shards: Sequence[Shard], output_name: OutputName | None, disputed: Disputed
) -> tuple[dict[str, set[str]], set[str], list[str]]:
    """(keys that lose a name, by shard; the shards that own such names; outputs that have no right to their place)."""
    lost: dict[str, set[str]] = defaultdict(set)
    owners: set[str] = set()
    outputs: list[str] = []
    for shard, claims in _claims(ledger, shards, output_name):
        for row, key, wanted in claims:
            others = disputed.owners(shard.id, key, wanted)
            if others is not None:
                lost[shard.id].add(row["key"])
                owners |= others
                outputs += [row["output"]] if row.get("output") else []
    return lost, owners, outputs


def _claims(
    ledger: Ledger, shards: Sequence[Shard], output_name: OutputName | None
) -> Iterator[tuple[Shard, list[tuple[AnyRow, int, Claim]]]]:
    """Of each shard its rows, the digests of their keys, and what they claim."""
    columns = [name for name in COLUMNS if name in ledger.schema.names]
    parts = ledger.read_parts((shard.id for shard in shards), columns)
    for shard, part in zip(shards, parts, strict=True):
        rows = part.to_pylist()
        yield shard, [(row, name_digest(row["key"]), _claim(shard, row, output_name)) for row in rows]


def _claim(shard: Shard, row: AnyRow, output_name: OutputName | None) -> Claim:
    """What a row claims, whatever became of its image: it may be done again. One that has given way claims nothing."""
    reason = row["reason"]
    gave_way = reason == Reason.duplicate_name and row.get("stage") != WRITE
    if output_name is None or gave_way or reason == Reason.unsafe_name:
        return Claim(frozenset(), frozenset())
    if tells_of_container(shard.name, row["key"], reason):
        return Claim(frozenset(), frozenset())
    return claim(output_name, row["key"])


def _repeated(digests: "array[int]") -> frozenset[int]:
    found = np.sort(np.frombuffer(digests, np.uint64)) if digests else np.empty(0, np.uint64)
    return frozenset(found[1:][found[1:] == found[:-1]].tolist())


def _remove(store: Store, outputs: Sequence[str]) -> None:
    """Those that are files of their own: what another needs for a folder must go before that is done again."""
    for output in outputs:
        if MEMBER not in output:
            store.remove(output)
