"""The model of a run, found before anything starts and loaded again where it works. Knows no Ray.

A model is "identity" (no network), or what `driftrec.models.source` tells apart: an embedded one ("tiny"), a path that
every node sees, a URL, "fbcnn:" and the path or URL of FBCNN's public weights, or two of them that are interpolated.
"""

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from driftrec.diffusion.process import Process
from driftrec.errors import DriftRecError, InvalidInput
from driftrec.models.checkpoint import embedded
from driftrec.models.source import ModelSource
from driftrec.restoration.options import Resolved, Sampling
from driftrec.restoration.restorer import Restorer
from pipeline.storage import locate
from pipeline.storage.base import StorageError, Store, redact
from pipeline.storage.file import local_copy

IDENTITY = "identity"
Remote = tuple[Store, str]  # store and name of a file


@dataclass(frozen=True)
class Weights:
    """Where the weights are, and which they are. Picklable."""

    source: str  # as given, without credentials
    sha256: str  # of the file; "identity" for none
    recommended: dict[str, Any] = field(default_factory=dict)  # sampling settings that the file recommends
    process: Process | None = None  # what is sampled; None for models that are not
    remote: tuple[Remote | None, ...] = (None,)  # of each of its files, where that is behind a URL

    def resolve(self, sampling: Sampling) -> Resolved:
        """With what the file recommends where nothing is said. Raises InvalidInput if it cannot be sampled so."""
        try:
            resolved = sampling.resolve(self.recommended)
            if self.process:
                resolved.check(self.process)
        except ValueError as error:
            raise InvalidInput(f"model {self.source}: {error}") from None
        return resolved

    def load(self, device: str | None = None) -> Restorer:
        """A Restorer with these weights. Raises DriftRecError if they are others than when the run began."""
        restorer = _load(self.source, self.remote, device)
        if restorer.fingerprint != self.sha256:
            raise DriftRecError(
                f"model {self.source} has changed since the run began, or is another file on this node: "
                f"sha256 {restorer.fingerprint[:12]} here, {self.sha256[:12]} expected; put the same file everywhere"
            )
        return restorer


def find(source: str) -> Weights:
    """The weights behind `model`, checked once. Raises InvalidInput that names what is wrong with them."""
    return find_opened(source, "cpu")[0]


def find_opened(source: str, device: str | None = None) -> tuple[Weights, Restorer]:
    """The same, with what restores by them in this process; None: on a GPU where there is one."""
    if source == IDENTITY:
        restorer = Restorer.identity()
        return Weights(source, restorer.fingerprint), restorer
    parsed = ModelSource.parse(source)
    remote = tuple(locate(place) if "://" in place else None for place in parsed.places)
    try:
        restorer = _load(source, remote, device)
    except StorageError as error:
        raise InvalidInput(f"model {error}") from None
    shown = parsed.at(redact(place) if "://" in place else _absolute(place) for place in parsed.places)
    return Weights(str(shown), restorer.fingerprint, restorer.recommended, restorer.process, remote), restorer


def _absolute(place: str) -> str:
    """A path that means the same file to workers, which have another current folder; a name stays a name."""
    return place if place in embedded() else str(Path(place).absolute())


def _load(source: str, remote: tuple[Remote | None, ...], device: str | None) -> Restorer:
    if source == IDENTITY:
        return Restorer.identity()
    parsed = ModelSource.parse(source)
    with ExitStack() as copies:
        places = [
            str(copies.enter_context(local_copy(*there))) if there else place
            for place, there in zip(parsed.places, remote, strict=True)
        ]
        return Restorer.from_pretrained(str(parsed.at(places)), device)
