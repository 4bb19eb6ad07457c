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
from typing import Any, cast

from driftrec import __version__
from driftrec.errors import InvalidInput
from pipeline.inputs.names import printable
from pipeline.runs.ends import Exit
from pipeline.runs.ledger import RESULT, RUN
from pipeline.storage.base import StorageError, Store, is_of_object

log = logging.getLogger(__name__)

CPU_INFO = Path("/proc/cpuinfo")
SEAL = "seal"  # in run.json: digest of all else that it says

Document = dict[str, Any]


def fingerprint_of(identity: Mapping[str, Any]) -> str:
    """Of the run with this identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def sealed(document: Mapping[str, Any]) -> Document:
    """The same with its seal."""
    return {**document, SEAL: _seal(document)}


def was_changed(document: Mapping[str, Any]) -> bool:
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


def read_result(store: Store) -> Document:
    """_RESULT.json; nothing if there is none that can be read. Raises StorageError if storage gives nothing at all."""
    try:
        return _object(store.read(RESULT))
    except StorageError as error:
        if not is_of_object(store, RESULT, error):
            raise
        return {}


def put_result(
    store: Store, job: str, code: Exit, told: Mapping[str, Any], error: str | None = None
) -> Document:
    """Write and return _RESULT.json: what every job says of its end, and what this one has `told`."""
    state = {Exit.FAILED: "failed", Exit.REFUSED: "refused", Exit.INTERRUPTED: "interrupted"}.get(code, "done")
    result: Document = {"job": job, "state": state, "interrupted": code == Exit.INTERRUPTED, "exit_code": int(code)}
    result |= {"output": store.url, **told, **({"error": error} if error else {})}
    store.put(RESULT, json.dumps(result, indent=2).encode())
    return result


def names_in(document: Mapping[str, Any], *path: str) -> list[str]:
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


def _seal(document: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in document.items() if name != SEAL}
    as_read = json.loads(json.dumps(rest))  # keys that are numbers are texts then
    return hashlib.blake2b(json.dumps(as_read, sort_keys=True).encode(), digest_size=16).hexdigest()


def tell_of_another(there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
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
