"""Is everything there, as the ledger says? OUTPUT of any run looked through; nothing in it is touched.

Knows stores and the ledger; neither INPUT nor settings are needed, and no Ray. Memory is bounded: 16 bytes a file below
images/, 8 an image.
"""

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from driftrec.errors import InvalidInput
from pipeline.inputs.names import printable
from pipeline.runs.ends import Exit
from pipeline.runs.integrity import CHANGED, EXTRA, MISSING, Files, faults, sha256_of
from pipeline.runs.ledger import (
    FOLDER,
    IMAGES,
    PART,
    READERS,
    RESULT,
    RUN,
    SHARDS,
    BrokenPart,
    ForeignPart,
    Ledger,
    name_digest,
    name_digests,
    part_name,
    rows_of_any,
)
from pipeline.runs.threads import pooled
from pipeline.storage import open_store
from pipeline.storage.base import NotFound, StorageError, Store

log = logging.getLogger(__name__)

BROKEN, FOREIGN, DOUBLED, UNFINISHED = "broken", "foreign", "doubled", "unfinished"
KINDS = {
    MISSING: "outputs or files of the run that are not there",
    CHANGED: "outputs that are not what their rows say",
    EXTRA: "files that belong to no row",
    DOUBLED: "images that are listed more than once",
    BROKEN: "ledger parts that are not whole",
    FOREIGN: "ledger parts of another run or shard",
    UNFINISHED: "shards, or the end of the run, that are not done",
}
FIRST = 20  # of each kind, that are named
COLUMNS = ("key", "condition", "candidate", "output", "output_sha256", "output_bytes", "bytes")
ROW = ("key", "condition", "candidate")  # one row each
MODEL = "model.safetensors"  # of a training

Tell = Callable[[str, str], None]  # (kind, name)


@dataclass
class Found:
    """What is not as it should be: how many of each kind, and the first of them."""

    tell: Tell = lambda kind, name: None
    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, name: str) -> None:
        """Take in one."""
        self.counts[kind] += 1
        self.tell(kind, name)
        if len(self.first.setdefault(kind, [])) < FIRST:
            self.first[kind].append(printable(name))

    def told(self) -> dict[str, Any]:
        """For the result."""
        return {"found": {kind: self.counts[kind] for kind in KINDS}, "first": self.first}

    def in_words(self, kinds: Sequence[str]) -> str:
        """What there is of these kinds, with the first of each; "" if there is nothing."""
        there = [kind for kind in kinds if kind in self.counts]
        firsts = [f" (first {self.first[kind][0]})" if kind in self.first else "" for kind in there]
        return "; ".join(f"{self.counts[kind]} {KINDS[kind]}{first}" for kind, first in zip(there, firsts, strict=True))


@dataclass
class _Part:
    """What was seen of one part."""

    keys: np.ndarray  # digests, each once
    wrong: list[tuple[str, str]]  # (kind, name)
    seen: Mapping[str, int] = field(default_factory=dict)  # parts, images, outputs


def verify(output: str, quick: bool = False, tell: Tell | None = None) -> dict[str, Any]:
    """Look through OUTPUT. Gives the result, with `exit_code`.

    Args:
        output: path or URL of any run.
        quick: look at names and sizes only; nothing is hashed.
        tell: is told of all that is found.

    Raises InvalidInput if OUTPUT is no run's, StorageError if storage does not answer.
    """
    begun, store = time.monotonic(), open_store(output)
    document, result = _read_run(store), read_result(store)
    log.info("looking through %s%s", store.url, ", names and sizes" if quick else "")
    found = Found(tell) if tell else Found()
    job = document.get("job")
    if job == "train":
        seen = _verify_training(store, result, found, quick)
    else:
        seen = _verify_run(store, document, found, quick)
    if result.get("state") != "done" and UNFINISHED not in found.counts:
        found.counts[UNFINISHED] += 1
    sound = not found.counts
    if not sound:
        log.warning("%s: %s", store.url, found.in_words(list(KINDS)))
    return {
        "job": "verify",
        "state": "sound" if sound else "incomplete",
        "exit_code": int(Exit.DONE if sound else Exit.INCOMPLETE),
        "output": store.url,
        "run": job,
        "quick": quick,
        **seen,
        **found.told(),
        "seconds": round(time.monotonic() - begun, 2),
    }


@contextmanager
def listing_to(path: Path) -> Iterator[Tell]:
    """What writes all that is found to a file, a line each. Raises InvalidInput if that cannot be written."""
    try:
        with path.open("w", encoding="utf-8") as file:
            yield lambda kind, name: print(kind, printable(name), sep="\t", file=file)
    except OSError as error:
        raise InvalidInput(f"--list {path}: {error.strerror or error}; give the path of a file to write") from None


def look_through(store: Store, ledger: Ledger, quick: bool, found: Found | None = None) -> tuple[Found, Counter[str]]:
    """The ledger and the outputs: what is wrong, and how many whole parts, images and outputs there are."""
    found = found or Found()
    files = Files(store, (IMAGES, SHARDS))
    seen = Counter[str](parts=0, images=0, outputs=0)
    shards: list[str] = []
    for name, _ in store.list(FOLDER):
        last = name.removeprefix(f"{FOLDER}/")
        if PART.fullmatch(last):
            shards.append(last.partition(".")[0])
        else:
            found.add(EXTRA, name)
    keys: list[np.ndarray] = []
    with ThreadPoolExecutor(READERS) as pool:
        for part in pooled(pool, lambda shard: _look_at(store, ledger, shard, files, quick), shards, 2 * READERS):
            keys.append(part.keys)
            seen.update(part.seen)
            for kind, name in part.wrong:
                found.add(kind, name)
    for key in _in_several(store, shards, keys):
        found.add(DOUBLED, key)
    for name in files.not_asked():
        found.add(EXTRA, name)
    return found, seen


def _look_at(store: Store, ledger: Ledger, shard: str, files: Files, quick: bool) -> _Part:
    """One part and its outputs. Of a part that is no use only its keys count: they may be listed elsewhere too."""
    try:
        rows, wrong = _rows(ledger.read_part(shard)), []
        seen = {"parts": 1, "outputs": sum(row.get("output") is not None for row in rows)}
        wrong += [(fault.kind, fault.output) for fault in faults(store, rows, quick, files.size)]
    except (BrokenPart, ForeignPart) as error:
        rows, seen = _rows_of_any(store, shard), {}
        wrong = [(BROKEN if isinstance(error, BrokenPart) else FOREIGN, part_name(shard))]
    counts = Counter(tuple(row.get(name) for name in ROW) for row in rows)
    wrong += [(DOUBLED, row[0]) for row, count in counts.items() if count > 1]
    keys = {row["key"] for row in rows}
    return _Part(name_digests(keys), wrong, seen | {"images": len(keys) * seen.get("parts", 0)})


def _rows(table: pa.Table) -> list[dict[str, Any]]:
    return table.select([name for name in COLUMNS if name in table.column_names]).to_pylist()


def _rows_of_any(store: Store, shard: str) -> list[dict[str, Any]]:
    """Of a part, whosever it is and in whatever state: none if it cannot be read."""
    try:
        table = rows_of_any(store.read(part_name(shard)))
    except BrokenPart:
        return []
    return _rows(table) if "key" in table.column_names else []


def _in_several(store: Store, shards: Sequence[str], keys: Sequence[np.ndarray]) -> Iterator[str]:
    """The keys that stand in several parts, of which `keys` are the digests. Only where there are any, parts are read
    again.
    """
    digests, counts = np.unique(np.concatenate([np.empty(0, np.uint64), *keys]), return_counts=True)
    several = set(digests[counts > 1].tolist())
    for shard, mine in zip(shards, keys, strict=True):
        if several.isdisjoint(mine.tolist()):
            continue
        for key in sorted({row["key"] for row in _rows_of_any(store, shard)}):
            if name_digest(key) in several:
                several.remove(name_digest(key))
                yield key


def read_result(store: Store) -> dict[str, Any]:
    """_RESULT.json; nothing if there is none that can be read."""
    try:
        return dict(json.loads(store.read(RESULT)))
    except (NotFound, ValueError, TypeError):
        return {}


def _read_run(store: Store) -> dict[str, Any]:
    try:
        document = json.loads(store.read(RUN))
        document["fingerprint"]
    except StorageError as error:
        raise InvalidInput(f"OUTPUT {error}") from None
    except (ValueError, KeyError, TypeError):
        raise InvalidInput(f"{store.where(RUN)} is not a run's; give the OUTPUT of a run") from None
    return document


def _verify_run(store: Store, document: Mapping[str, Any], found: Found, quick: bool) -> dict[str, Any]:
    _, seen = look_through(store, Ledger(store), quick, found)
    shards = document["input"]["shards"]
    if seen["parts"] < shards:
        found.counts[UNFINISHED] += shards - seen["parts"]
    leaves = document.get("leaves", {})  # not said by older versions
    for name in leaves.get("at_end", ()):
        if not store.exists(name):
            found.add(MISSING, name)
    for folder in leaves.get("by_shard", ()):
        _verify_folder(store, folder, found)
    return {"shards": shards, **seen}


def _verify_training(store: Store, result: Mapping[str, Any], found: Found, quick: bool) -> dict[str, Any]:
    if kind := model_fault(store, result, quick):
        found.add(kind, MODEL)
    return {}


def model_fault(store: Store, result: Mapping[str, Any], quick: bool = False) -> str:
    """What is wrong with the model of a training that is done: MISSING, CHANGED, or "" for nothing."""
    size, told = store.size(MODEL), (result.get("model_bytes"), result.get("model_sha256"))
    if size is None:
        return MISSING
    if told[0] is None:  # the result of an older version does not say
        return ""
    if size != told[0] or not (quick or sha256_of(store, MODEL, size) == told[1]):
        return CHANGED
    return ""


def _verify_folder(store: Store, folder: str, found: Found) -> None:
    """A folder with one file a part, of its name."""
    parts = {name.rpartition("/")[2] for name, _ in store.list(FOLDER) if PART.fullmatch(name.rpartition("/")[2])}
    there = {name.rpartition("/")[2]: name for name, _ in store.list(folder)}
    for part in sorted(parts - there.keys()):
        found.add(MISSING, f"{folder}/{part}")
    for part in sorted(there.keys() - parts):
        found.add(EXTRA, there[part])
