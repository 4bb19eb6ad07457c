"""Is everything there, as the ledger says? OUTPUT of any run looked through; nothing in it is touched.

Knows stores and the ledger; neither INPUT nor settings are needed, and no Ray. Memory is bounded: 16 bytes per file
below images/, 8 per image.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

import numpy as np
import pyarrow as pa

from driftrec.errors import InvalidInput
from pipeline.inputs.names import name_digest, name_digests, printable
from pipeline.inputs.parquet import open_parquet
from pipeline.runs.documents import Document, names_in, read_result, read_run, was_changed
from pipeline.runs.ends import Answer, Exit
from pipeline.runs.integrity import CHANGED, EXTRA, MISSING, Files, fault_of, faults
from pipeline.runs.ledger import (
    FAILED,
    FOLDER,
    GONE,
    IMAGES,
    OK,
    PART,
    READERS,
    RESULT,
    RUN,
    SHARDS,
    SKIPPED,
    AnyRow,
    Ledger,
    part_name,
    reasons_of,
    statuses_of,
)
from pipeline.runs.parts import BrokenPart, ForeignPart, rows_of_any
from pipeline.runs.threads import pooled
from pipeline.storage import open_store
from pipeline.storage.base import NO_FILE, StorageError, Store, is_of_object

log = logging.getLogger(__name__)

BROKEN, FOREIGN, DOUBLED, UNFINISHED = "broken", "foreign", "doubled", "unfinished"
KINDS = {
    MISSING: "outputs or files of the run that are not there",
    CHANGED: "outputs or files of the run that are not what it made",
    EXTRA: "files, or parts of tars, that belong to no row",
    DOUBLED: "images that are listed more than once",
    BROKEN: "ledger parts that are not whole",
    FOREIGN: "ledger parts of another run or shard",
    UNFINISHED: "shards, or the end of the run, that are not done",
}
FIRST = 20  # of each kind, that are named
TEXTS = ("key", "condition", "candidate", "status", "reason", "output", "output_sha256")
COLUMNS = dict.fromkeys(TEXTS, pa.string()) | dict.fromkeys(("output_bytes", "bytes"), pa.int64())
ROW = ("key", "condition", "candidate")  # one row each
MODEL = "model.safetensors"  # of a training

Tell = Callable[[str, str], None]  # (kind, name)


class Told(TypedDict):
    """What a result says of what is not as it should be."""

    found: dict[str, int]  # how many of each of KINDS
    first: dict[str, list[str]]  # names of the first FIRST of each


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

    def told(self) -> Told:
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
    seen: "Seen"


@dataclass
class Seen:
    """What whole parts hold."""

    parts: int = 0
    images: int = 0
    outputs: int = 0
    statuses: Counter[str] = field(default_factory=Counter)  # of images
    reasons: Counter[str] = field(default_factory=Counter)  # of images that did not come out well

    def add(self, other: "Seen") -> None:
        """Take in another."""
        self.parts += other.parts
        self.images += other.images
        self.outputs += other.outputs
        self.statuses += other.statuses
        self.reasons += other.reasons

    def told(self) -> dict[str, int]:
        """For the result."""
        return {"parts": self.parts, "images": self.images, "outputs": self.outputs}


def verify(output: str, quick: bool = False, tell: Tell | None = None) -> Answer:
    """Look through OUTPUT. Gives the result, with `exit_code`.

    Args:
        output: path or URL of any run.
        quick: look at names and sizes only; nothing is hashed.
        tell: is told of all that is found.

    Raises InvalidInput if OUTPUT is no run's, StorageError if storage does not answer; nothing else, whatever OUTPUT
    holds.
    """
    begun, store = time.monotonic(), open_store(output)
    document, result = read_run(store), read_result(store)
    log.info("looking through %s%s", store.url, ", names and sizes" if quick else "")
    found = Found(tell) if tell else Found()
    if was_changed(document):
        found.add(CHANGED, RUN)
    if result and result.get("fingerprint", document["fingerprint"]) != document["fingerprint"]:
        found.add(CHANGED, RESULT)
    job = document["job"]
    if job == "train":
        seen = _verify_training(store, result, found, quick)
    else:
        seen = _verify_run(store, document, result, found, quick)
    _verify_files(store, document, result, found, quick)
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
def listing_to(path: Path) -> Generator[Tell]:
    """What writes all that is found to a file, a line each. Raises InvalidInput if that cannot be written."""
    try:
        with path.open("w", encoding="utf-8") as file:
            yield lambda kind, name: print(kind, printable(name), sep="\t", file=file)
    except OSError as error:
        raise InvalidInput(f"--list {path}: {error.strerror or error}; give the path of a file to write") from None


def look_through(store: Store, ledger: Ledger, quick: bool, found: Found | None = None) -> tuple[Found, Seen]:
    """The ledger and the outputs: what is wrong, and what is there."""
    found = found or Found()
    files = Files(store, (IMAGES, SHARDS))
    seen = Seen()
    shards = _parts(store, FOLDER, found)
    keys: list[np.ndarray] = []
    with ThreadPoolExecutor(READERS) as pool:
        for part in pooled(pool, lambda shard: _look_at(store, ledger, shard, files, quick), shards, 2 * READERS):
            keys.append(part.keys)
            seen.add(part.seen)
            for kind, name in part.wrong:
                found.add(kind, name)
    for key in _in_several(store, shards, keys):
        found.add(DOUBLED, key)
    for name in files.not_asked():
        found.add(EXTRA, name)
    return found, seen


def _parts(store: Store, folder: str, found: Found) -> list[str]:
    """Ids of the shards that have a file in this folder, sorted; all else there is told of."""
    shards: list[str] = []
    for name, size in store.entries(folder, patient=True):
        last = name.removeprefix(f"{folder}/")
        if PART.fullmatch(last) and size != NO_FILE:
            shards.append(last.partition(".")[0])
        else:
            found.add(EXTRA, name)
    return sorted(shards)


def _look_at(store: Store, ledger: Ledger, shard: str, files: Files, quick: bool) -> _Part:
    """One part and its outputs. Of a part that is no use only its keys count: they may be listed elsewhere too."""
    seen, wrong = Seen(), list[tuple[str, str]]()
    try:
        rows = _rows(ledger.read_part(shard))
        wrong += [(fault.kind, fault.output) for fault in faults(store, rows, quick, files.size)]
        outputs = sum(row.get("output") is not None for row in rows)
        keys, statuses = [row["key"] for row in rows], [row.get("status") or "" for row in rows]
        reasons = reasons_of(keys, statuses, [row.get("reason") for row in rows])
        seen = Seen(1, len(set(keys)), outputs, statuses_of(keys, statuses), reasons)
    except (BrokenPart, ForeignPart) as error:
        rows = _rows_of_any(store, shard)
        wrong.append((BROKEN if isinstance(error, BrokenPart) else FOREIGN, part_name(shard)))
    except StorageError as error:
        if not is_of_object(store, part_name(shard), error):
            raise
        rows, wrong = [], [(BROKEN, part_name(shard))]
    counts = Counter(tuple(row.get(name) for name in ROW) for row in rows)
    wrong += [(DOUBLED, row[0] or "") for row, count in counts.items() if count > 1]
    return _Part(name_digests({row["key"] for row in rows}), wrong, seen)


def _rows(table: pa.Table) -> Sequence[AnyRow]:
    """The columns that are of use here. Raises BrokenPart if they are not what a ledger's are."""
    there = [name for name in table.column_names if name in COLUMNS]
    odd = [field.name for field in table.schema if field.name in COLUMNS and field.type != COLUMNS[field.name]]
    if odd or len(set(there)) < len(there) or "key" not in there or table["key"].null_count:
        raise BrokenPart("its columns are not those of a ledger")
    try:
        return table.select(there).to_pylist()
    except UnicodeDecodeError:
        raise BrokenPart("its texts are not UTF-8") from None


def _rows_of_any(store: Store, shard: str) -> Sequence[AnyRow]:
    """Of a part, whosever it is and in whatever state: none if it cannot be read."""
    try:
        return _rows(rows_of_any(store.read(part_name(shard))))
    except BrokenPart:
        return []


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


def _verify_run(
    store: Store, document: Document, result: Document, found: Found, quick: bool
) -> dict[str, int]:
    _, seen = look_through(store, Ledger(store), quick, found)
    shards = document["input"]["shards"] + store.exists(part_name(GONE))
    if seen.parts < shards:
        found.counts[UNFINISHED] += shards - seen.parts
    elif seen.parts > shards:
        found.add(CHANGED, RUN)
    whole = not any(kind in found.counts for kind in (BROKEN, FOREIGN, DOUBLED, UNFINISHED))
    if whole and result.get("state") == "done" and not _counts_agree(result, seen):
        found.add(CHANGED, RESULT)
    for folder in names_in(document, "leaves", "by_shard"):
        _verify_folder(store, folder, found, quick)
    return {"shards": shards, **seen.told()}


def _counts_agree(result: Document, seen: Seen) -> bool:
    """Whether a result counts what the ledger does."""
    statuses = {name: seen.statuses[name] for name in (OK, FAILED, SKIPPED)}
    counted = (result.get("images"), result.get("status"), result.get("reasons"))
    return counted == (seen.statuses.total(), statuses, dict(seen.reasons))


def _verify_files(store: Store, document: Document, result: Document, found: Found, quick: bool) -> None:
    """What the run leaves beside its outputs. Older versions do not say of it what it is."""
    told = result.get("leaves")
    told = told if isinstance(told, dict) else {}
    for name in dict.fromkeys(names_in(document, "leaves", "at_end") + names_in(result, "leaves")):
        if kind := fault_of(store, name, told.get(name), quick):
            found.add(kind, name)


def _verify_training(store: Store, result: Document, found: Found, quick: bool) -> dict[str, int]:
    if kind := model_fault(store, result, quick):
        found.add(kind, MODEL)
    return {}


def model_fault(store: Store, result: Document, quick: bool = False) -> str:
    """What is wrong with the model of a training that is done: MISSING, CHANGED, or "" for nothing that is known."""
    return fault_of(store, MODEL, {"bytes": result.get("model_bytes"), "sha256": result.get("model_sha256")}, quick)


def _verify_folder(store: Store, folder: str, found: Found, quick: bool) -> None:
    """A folder with one Parquet file a part, of its name: whether it is there, and is one as far as its end says."""
    parts, there = (set(_parts(store, one, Found())) for one in (FOLDER, folder))
    _parts(store, folder, found)
    for shard in sorted(parts - there):
        found.add(MISSING, f"{folder}/{shard}.parquet")
    for shard in sorted(there - parts):
        found.add(EXTRA, f"{folder}/{shard}.parquet")
    for shard in sorted(parts & there) if not quick else ():
        name = f"{folder}/{shard}.parquet"
        try:
            open_parquet(store, name)
        except (pa.ArrowException, OSError, ValueError):
            found.add(CHANGED, name)
        except StorageError as error:
            if not is_of_object(store, name, error):
                raise
            found.add(MISSING, name)
