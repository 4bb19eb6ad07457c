"""Damaged files that were given, in place of JPEGs that an evaluation makes: each belongs to the reference of its name.

They are joined as pairs to train on are (`pipeline.inputs.pairing`). Knows no Ray, no pixels.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from driftrec.errors import InvalidInput
from pipeline.evaluate.settings import EvaluateSettings
from pipeline.inputs.listing import Listing, list_input
from pipeline.inputs.names import SAME_NAMES, Renamed, name_digest, name_digests, output_name, place_among, stem
from pipeline.inputs.pairing import Pairing, join
from pipeline.inputs.partners import NAMED
from pipeline.inputs.shards import Incoming

FLAG = "--damaged"


@dataclass(frozen=True)
class Damaged:
    """Where the damaged file of each reference lies; picklable."""

    url: str  # as given, without credentials
    digest: str  # of all that is there
    pairings: Mapping[str, Pairing]  # by the reference's shard

    @property
    def renamed(self) -> Renamed:
        """How keys of references change to those of damaged files."""
        return next((pairing.renamed for pairing in self.pairings.values()), SAME_NAMES)

    def find(self, shard: str, keys: Sequence[str]) -> dict[str, Incoming]:
        """By the keys of references of one shard: a file's bytes, or a reason why there are none. Raises StorageError
        if storage fails.
        """
        return dict(zip(keys, self.pairings[shard].find(keys), strict=True)) if keys else {}


def list_damaged(settings: EvaluateSettings) -> Listing | None:
    """What --damaged names; None where nothing is given. Raises InvalidInput."""
    if settings.damaged is None:
        return None
    sizes, name = (settings.shard_bytes, settings.shard_images), partial(output_name, wanted="jpeg")
    try:
        return list_input(settings.damaged, *sizes, output_name=name).bounded(settings.max_file_bytes)
    except InvalidInput as error:
        raise InvalidInput(f"{FLAG}: {str(error).removeprefix('INPUT ')}") from None


def pair_up(references: Listing, damaged: Listing) -> Damaged:
    """Join the two. Raises InvalidInput where not one reference has a damaged file."""
    pairings = join(references, damaged)
    shards = (shard.id for shard in references.shards)
    found = Damaged(damaged.source.url, damaged.digest, dict(zip(shards, pairings, strict=True)))
    there = np.sort(name_digests(stem(key) for key in _keys(damaged)))
    first = ""
    for name in map(found.renamed.stem, _keys(references)):
        if _is_among(there, name):
            return found
        first = first or name
    problem = f"not one reference has a file of its name in {damaged.source.url}"
    raise InvalidInput(f"{FLAG}: {problem}; {first} needs one called {first}.jpg, .png or the like")


def without_reference(damaged: Listing, stems: NDArray[np.uint64]) -> tuple[int, list[str]]:
    """How many files belong to no reference, and the first of them. `stems`: sorted digests of all references' names
    there.
    """
    lost = [key for key in _keys(damaged) if not _is_among(stems, stem(key))]
    return len(lost), lost[:NAMED]


def _keys(listing: Listing) -> Iterator[str]:
    return (key for shard in listing.shards for key in shard.all_keys())


def _is_among(digests: NDArray[np.uint64], name: str) -> bool:
    return place_among(digests, name_digest(name)) is not None
