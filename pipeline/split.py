"""The split job: an archive's keys as lists for training, validation and test. Pixels are not looked at; starts no Ray.

Which list a key falls into is a function of the seed and of the set of keys: not of their order, nor of how the files
are packed.
"""

import hashlib
import json
from collections.abc import Sequence

from driftrec import __version__
from driftrec.errors import DriftRecError, InvalidInput
from pipeline.evaluate.settings import SplitSettings
from pipeline.inputs.listing import Listing, list_input
from pipeline.inputs.names import printable
from pipeline.runs.ends import Answer
from pipeline.storage import open_store
from pipeline.storage.base import StorageError, redact

SHARES = {"train": 80, "validation": 5, "test": 15}  # percent
RECIPE = "split.json"


def split_keys(keys: Sequence[str], seed: int) -> dict[str, list[str]]:
    """Sorted keys by list. Sizes are those of SHARES, rounded down for validation and test; the rest is for training.

    Keys are ranked by a digest of (seed, key); the first are for test, the next for validation.
    """
    ranked = sorted(keys, key=lambda key: hashlib.sha256(f"{seed}\0{key}".encode("utf-8", "surrogatepass")).digest())
    test, validation = (len(ranked) * SHARES[name] // 100 for name in ("test", "validation"))
    parts = (ranked[test + validation :], ranked[test : test + validation], ranked[:test])
    return {name: sorted(part) for name, part in zip(SHARES, parts, strict=True)}


def run_split(settings: SplitSettings) -> Answer:
    """Write train.txt, validation.txt, test.txt (one key per line) and split.json into OUTPUT; gives the last.

    Raises InvalidInput for an unusable input, for keys that are no lines of text, or if OUTPUT holds another split.
    """
    lists = split_keys(_keys(list_input(settings.input), settings.limit), settings.seed)
    recipe = _recipe(settings, lists)
    store = open_store(settings.output)
    texts = {f"{name}.txt": "".join(f"{key}\n" for key in found) for name, found in lists.items()}
    texts[RECIPE] = json.dumps(recipe, indent=2)
    try:
        for name, text in texts.items():  # the recipe last: it stands for a whole split
            if not store.create(name, text.encode()) and store.read(name) != text.encode():
                raise InvalidInput(f"{store.where(name)} is of another split; choose another OUTPUT")
    except StorageError as error:
        raise InvalidInput(f"OUTPUT {error}") from None
    return {**recipe, "state": "done", "exit_code": 0, "output": store.url}


def plan_split(settings: SplitSettings) -> Answer:
    """What `run_split` would say; writes nothing."""
    store = open_store(settings.output)
    if why := store.unwritable():
        raise InvalidInput(f"OUTPUT {store.url}: {why}")
    lists = split_keys(_keys(list_input(settings.input), settings.limit), settings.seed)
    return {**_recipe(settings, lists), "state": "dry run", "exit_code": 0}


def _recipe(settings: SplitSettings, lists: dict[str, list[str]]) -> Answer:
    return {
        "job": "split",
        "input": redact(settings.input),
        "seed": settings.seed,
        "version": __version__,
        "keys": {name: len(found) for name, found in lists.items()},
        "sha256": {name: hashlib.sha256("\n".join(found).encode()).hexdigest() for name, found in lists.items()},
    }


def _keys(listing: Listing, limit: int | None) -> list[str]:
    """The first `limit` keys, or all. Raises InvalidInput where they cannot stand in lists."""
    keys: list[str] = []
    for shard in listing.shards:
        try:
            found = shard.all_keys()
        except DriftRecError as error:
            raise InvalidInput(f"INPUT {error}") from None
        if shard.name in found:  # what stands for images that are missing
            raise InvalidInput(f"INPUT {shard.store.where(shard.name)} was cut: its keys are not known; fetch it again")
        keys += found
        if limit and len(keys) >= limit:
            break
    keys = keys[:limit]
    for key in keys:
        if printable(key) != key:
            raise InvalidInput(f"INPUT: the name {printable(key)} holds control characters; rename it")
    if repeated := len(keys) - len(set(keys)):
        raise InvalidInput(f"INPUT: {repeated} keys occur twice; rename one of each")
    return keys
