"""run.json and _RESULT.json: what they say of versions and the machine, written so that a change of them shows, and
read whatever they hold.

Knows a store; no run's life, no Ray.
"""

import hashlib
import json
import logging
import math
import platform
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

from driftrec import __version__
from driftrec.errors import DriftRecError, InvalidInput
from pipeline.inputs.loose import MOST_SHARDS
from pipeline.inputs.names import printable
from pipeline.runs.ends import Answer, Exit
from pipeline.runs.integrity import Noted
from pipeline.runs.ledger import RESULT, RUN
from pipeline.runs.progress import EffortTold
from pipeline.settings import Values
from pipeline.storage import open_store
from pipeline.storage.base import StorageError, Store, is_of_object

log = logging.getLogger(__name__)

CPU_INFO = Path("/proc/cpuinfo")
SEAL = "seal"  # in run.json: digest of all else that it says

Document = dict[str, Any]  # as it is read, whatever it holds


class RunInput(TypedDict):
    """What run.json says of INPUT."""

    url: str  # without credentials
    shards: int
    images: int | None  # None: tars are unopened
    most_shards: NotRequired[int]  # of loose files, beyond which neighbours are joined; left out: no bound


class Leaves(TypedDict):
    """Names of what a run leaves beside its outputs."""

    at_end: list[str]  # files
    by_shard: list[str]  # folders with a file of each shard


class RunDocument(TypedDict):
    """run.json, as it is written."""

    job: str
    fingerprint: str  # digest of `identity`
    identity: Values  # what determines the outputs and the shards
    settings: Values  # all of them, without secrets
    input: RunInput
    versions: dict[str, str | None]  # of packages; None: not installed
    cpu: str
    latest_input: tuple[float, str] | None  # when a file of INPUT was last changed, seconds since 1970, and which
    created: str  # ISO 8601, UTC
    earlier: NotRequired[list[str]]  # fingerprints that it had while INPUT held other files
    noted_parts: NotRequired[bool]  # whether ledger parts say of which run they are
    leaves: NotRequired[Leaves]


class Shards(TypedDict):
    """How many there are."""

    listed: int
    done: int
    resumed: int  # of an earlier attempt


class Result(EffortTold):
    """_RESULT.json of a job with a ledger; jobs add what they alone tell."""

    job: str
    state: str  # done | interrupted | failed | refused; incomplete where it was done and outputs lack
    interrupted: bool
    exit_code: int
    output: str
    fingerprint: str
    images: int
    status: dict[str, int]  # images that are ok, failed, skipped
    reasons: dict[str, int]  # of images that did not come out well
    ignored_files: dict[str, int]  # by suffix
    no_longer_in_input: NotRequired[int]  # of `images`, whose outputs are there
    shards: Shards
    seconds: float  # of this attempt
    images_this_attempt: int
    images_per_second: float
    cost: NotRequired[float]  # of this attempt, where the price is known, as the next
    cost_before: NotRequired[float]  # of the attempts before it
    error: NotRequired[str]
    leaves: NotRequired[dict[str, Noted]]  # files beside this one
    found: NotRequired[dict[str, int]]  # see `verify.Told`, as the next
    first: NotRequired[dict[str, list[str]]]


class Lacking(TypedDict, total=False):
    """What changes of a result where outputs lack."""

    state: str
    exit_code: int
    found: dict[str, int]
    first: dict[str, list[str]]


class InputTold(TypedDict):
    """What a dry run tells of its input."""

    shards: int
    shards_done: int
    images: int | None  # None: tars are unopened
    bytes: int
    ignored_files: dict[str, int]  # by suffix


def fingerprint_of(identity: Values) -> str:
    """Of the run with this identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def sealed(document: RunDocument) -> Document:
    """The same with its seal."""
    return {**document, SEAL: _seal(document)}


def was_changed(document: Document) -> bool:
    """Whether a run.json does not say what it was written with. Those of older versions have no seal: their identity
    alone is known, by the fingerprint.
    """
    try:
        resealed, fingerprint = _seal(document), fingerprint_of(document["identity"])
    except RecursionError:  # no run writes what is nested so deep
        return True
    return document["fingerprint"] != fingerprint or document.get(SEAL, resealed) != resealed


def read_run(store: Store) -> Document:
    """run.json, with all in it that is needed to look through the run. Raises InvalidInput if it is no run's."""
    try:
        text = store.read(RUN)
    except StorageError as error:
        raise InvalidInput(f"OUTPUT {error}") from None
    document = _object(text)
    if not document or not _is_run(document):
        raise InvalidInput(f"{store.where(RUN)} is not a run's; give the OUTPUT of a run")
    return document


def most_shards(output: str) -> int | None:
    """Beyond how many shards a run on OUTPUT joins neighbours among its loose files: what it began with. None for one
    that began when there was no bound. What else is wrong with OUTPUT is told when it is opened.
    """
    try:
        document = _object(open_store(output).read(RUN))
    except DriftRecError:
        return MOST_SHARDS
    told: Any = document.get("input")
    bound = cast(Document, told).get("most_shards") if isinstance(told, dict) else None
    return bound if isinstance(bound, int) and bound > 0 else None


def read_result(store: Store) -> Document:
    """_RESULT.json; nothing if there is none that can be read. Raises StorageError if storage gives nothing at all."""
    return read_object(store, RESULT)


def read_object(store: Store, name: str) -> Document:
    """Likewise, of any file that holds a JSON object."""
    try:
        return _object(store.read(name))
    except StorageError as error:
        if not is_of_object(store, name, error):
            raise
        return {}


def put_result(store: Store, job: str, code: Exit, told: Answer, error: str | None = None) -> Answer:
    """Write and return _RESULT.json: what every job says of its end, and what this one has `told`."""
    state = {Exit.FAILED: "failed", Exit.REFUSED: "refused", Exit.INTERRUPTED: "interrupted"}.get(code, "done")
    result: Document = {"job": job, "state": state, "interrupted": code == Exit.INTERRUPTED, "exit_code": int(code)}
    result |= {"output": store.url, **told, **({"error": error} if error else {})}
    store.put(RESULT, json.dumps(result, indent=2).encode())
    return result


def names_in(document: Document, *path: str) -> list[str]:
    """The names of files or folders of OUTPUT that a document lists at this place; none where it lists none."""
    found: Any = document
    for key in path:
        found = cast(Document, found).get(key) if isinstance(found, dict) else None
    names: list[Any] = list(found) if isinstance(found, list | dict) else []  # pyright: ignore[reportUnknownArgumentType]
    plain = [name for name in names if isinstance(name, str) and name.isprintable() and "/" not in name]
    return [name for name in plain if name.strip(".")]


def _object(text: bytes) -> Document:
    """A JSON object; an empty one for all else, of whatever depth."""
    try:
        found: object = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return cast(Document, found) if isinstance(found, dict) else {}


def _is_run(document: Document) -> bool:
    kinds = {"job": str, "fingerprint": str, "identity": dict, "input": dict}
    if not all(isinstance(document.get(name), kind) for name, kind in kinds.items()):
        return False
    shards = document["input"].get("shards")
    return isinstance(shards, int) and shards >= 0


def _seal(document: Mapping[str, object]) -> str:
    rest = {name: value for name, value in document.items() if name != SEAL}
    as_read = json.loads(json.dumps(rest))  # keys that are numbers are texts then
    return hashlib.blake2b(json.dumps(as_read, sort_keys=True).encode(), digest_size=16).hexdigest()


def tell_of_another(there: Document, here: RunDocument) -> None:
    """Bytes are the same on one kind of machine and of the same input: warn where they are others than when the run
    began. The arguments are what run.json said then, and says now.
    """
    then, now = ({"cpu": run.get("cpu"), "torch": run.get("versions", {}).get("torch")} for run in (there, here))
    told = [f"{name} was {then[name]}, is {now[name]}" for name in then if then[name] and then[name] != now[name]]
    if told:
        told_of = "the run began on another machine: %s; images done from now on may differ from the others in a bit"
        log.warning(told_of, ", ".join(told))
    (before, _), (latest, name) = ((run.get("latest_input") or (math.inf, "")) for run in (there, here))
    if math.inf > latest > before:
        told_of = "%s was changed after the run began; it kept its size, so it is not done again if its shard was done"
        log.warning(told_of, printable(name))


def package_versions(packages: Sequence[str]) -> dict[str, str | None]:
    """Of this package, Python and some others; None where one is not installed."""
    ours = {"driftrec": __version__, "python": platform.python_version()}
    return ours | {name: _version(name) for name in packages}


def cpu_kind() -> str:
    """The CPU of this machine as its maker calls it; what kind it is where nobody tells."""
    try:
        told = CPU_INFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        told = ""
    found = re.search(r"^model name\s*:\s*(.+)$", told, re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
