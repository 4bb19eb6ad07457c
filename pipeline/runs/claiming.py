"""Whose OUTPUT is: run.json, which says what determines a run, written once, or again where its INPUT has changed.

Knows a listing and a store; no run's life, no Ray.
"""

import json
from datetime import UTC, datetime

from driftrec import __version__, plugins
from driftrec.errors import InvalidInput
from pipeline.inputs.listing import Listing
from pipeline.runs.documents import (
    Document,
    RunDocument,
    RunInput,
    cpu_kind,
    fingerprint_of,
    package_versions,
    sealed,
    tell_of_another,
    was_changed,
)
from pipeline.runs.ends import begun
from pipeline.runs.ledger import FOLDER, IMAGES, RUN, SHARDS
from pipeline.settings import Values
from pipeline.storage.base import NotFound, StorageError, Store

PACKAGES = ("torch", "ray", "pillow", "numpy", "pyarrow")


def describe(job: str, listing: Listing, settings: Values, identity: Values) -> RunDocument:
    """What run.json says; the arguments are those of `open_run`."""
    told: RunInput = {"url": listing.source.url, "shards": len(listing.shards), "images": listing.images}
    if listing.most_shards:
        told["most_shards"] = listing.most_shards
    identity = dict(identity) | {"job": job, "input": listing.digest, "version": __version__}
    if told_plugins := plugins.versions():
        identity["plugins"] = told_plugins
    return {
        "job": job,
        "fingerprint": fingerprint_of(identity),
        "identity": identity,
        "settings": dict(settings),
        "input": told,
        "versions": package_versions(PACKAGES),
        "cpu": cpu_kind(),
        "latest_input": listing.source.store.latest,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def claim(
    store: Store, document: RunDocument, defaults: Values | None = None, follows: bool = False
) -> None:
    """Make OUTPUT this run's, or find that it is. Create-only: of two runs at once they agree or one is refused.

    What an older run's identity lacks counts as having been the value in `defaults`, if it stands there. A run that
    `follows` its input takes an OUTPUT of the same input when that held other files.
    """
    begun.set()
    try:
        text = store.read(RUN)  # not `exists`: a refusal of S3 says why only to those who read
    except NotFound:
        _refuse_foreign(store)
        if store.create(RUN, json.dumps(sealed(document), indent=2).encode()):
            return
        text = store.read(RUN)
    try:
        there: Document = json.loads(text)
        identity: Values = there["identity"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InvalidInput(f"{store.where(RUN)} is not a run's; choose another OUTPUT") from None
    wanted = document["identity"]
    tell_of_another(there, document)
    since = {name: value for name, value in (defaults or {}).items() if name in wanted.keys() - identity.keys()}
    same = bool(since) and identity | since == wanted
    if follows and _is_of_earlier_input(there, document):
        store.put(RUN, json.dumps(sealed(_after(there, document)), indent=2).encode())
    elif there.get("fingerprint") != document["fingerprint"] and not same:
        raise InvalidInput(
            f"OUTPUT {store.url} belongs to another run: {_difference(identity | since, wanted)}; "
            "choose another OUTPUT, or repeat that run with its own settings"
        )


def _is_of_earlier_input(there: Document, here: RunDocument) -> bool:
    """Whether a run.json is of the same run when its INPUT, which lies where it did, held other files."""
    then, now = ({**run["identity"], "input": None} for run in (there, here))
    places = [run["input"].get("url") for run in (there, here) if isinstance(run.get("input"), dict)]
    known = isinstance(there.get("fingerprint"), str) and not was_changed(there) and there.get("noted_parts")
    return bool(known) and then == now and places == [places[0]] * 2 and there["fingerprint"] != here["fingerprint"]


def _after(there: Document, here: RunDocument) -> RunDocument:
    """The run.json that follows another."""
    earlier = [*there.get("earlier", []), there["fingerprint"]]
    return {**here, "earlier": [one for one in earlier if one != here["fingerprint"]], "created": there["created"]}


def check_output(store: Store) -> None:
    """Refuse an OUTPUT that no run can claim, without writing. Raises InvalidInput."""
    if why := store.unwritable():
        raise InvalidInput(f"OUTPUT {store.url}: {why}")
    try:
        if not store.exists(RUN):
            _refuse_foreign(store)
    except StorageError as error:
        raise InvalidInput(f"OUTPUT {error}") from None


def _refuse_foreign(store: Store) -> None:
    foreign = next((name for folder in (IMAGES, SHARDS, FOLDER) for name, _ in store.found(folder)), None)
    if foreign:
        told = f"OUTPUT {store.url} holds {foreign} but no {RUN}: not a run's; choose another OUTPUT"
        raise InvalidInput(told) from None


def _difference(there: Values, here: Values) -> str:
    """What differs, in words: "seed is 0 there, 1 here"."""
    names = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    words = {"input": "INPUT holds other files than it did", "weights": "the model's weights are others"}
    told = [words.get(name) or f"{name} is {there.get(name)!r} there, {here.get(name)!r} here" for name in names]
    return ", ".join(told) or "its run.json was changed"
