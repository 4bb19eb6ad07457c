"""run.json and _RESULT.json: written so that a change of them shows, and read whatever they hold.

Knows a store; no run's life, no Ray.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, cast

from driftrec.errors import InvalidInput
from pipeline.runs.ledger import RESULT, RUN
from pipeline.storage.base import StorageError, Store, is_of_object

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
