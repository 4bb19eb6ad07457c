"""The model of a run, found before anything starts and loaded again where it works. Knows no Ray.

A model is an embedded one ("tiny"), a path that every node sees, a URL, "identity" (no network), or "fbcnn:" and the
path or URL of FBCNN's public weights.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from driftrec.diffusion.process import Process
from driftrec.errors import DriftRecError, InvalidInput
from driftrec.models.checkpoint import embedded
from driftrec.restoration.options import Resolved, Sampling
from driftrec.restoration.restorer import FBCNN, Restorer
from pipeline.storage import locate
from pipeline.storage.base import StorageError, Store, redact
from pipeline.storage.file import local_copy

IDENTITY = "identity"


@dataclass(frozen=True)
class Weights:
    """Where the weights are, and which they are. Picklable."""

    source: str  # as given, without credentials
    sha256: str  # of the file; "identity" for none
    recommended: dict[str, Any] = field(default_factory=dict)  # sampling settings that the file recommends
    process: Process | None = None  # what is sampled; None for models that are not
    remote: tuple[Store, str] | None = None  # store and name where the source is a URL

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
    """The weights behind `model`, opened and checked once. Raises InvalidInput that names what is wrong with them."""
    remote = locate(source.removeprefix(FBCNN)) if "://" in source else None
    try:
        restorer = _load(source, remote, device="cpu")
    except StorageError as error:
        raise InvalidInput(f"model {error}") from None
    shown = redact(source) if remote else _absolute(source)
    return Weights(shown, restorer.fingerprint, restorer.recommended, restorer.process, remote)


def _absolute(source: str) -> str:
    """A path that means the same file to workers, which have another current folder; a name stays a name."""
    if source in (IDENTITY, *embedded()):
        return source
    path = source.removeprefix(FBCNN)
    return source.removesuffix(path) + str(Path(path).absolute())


def _load(source: str, remote: tuple[Store, str] | None, device: str | None) -> Restorer:
    if source == IDENTITY:
        return Restorer.identity()
    if remote is None:
        return Restorer.from_pretrained(source, device)
    with local_copy(*remote) as path:
        return Restorer.from_pretrained((FBCNN if source.startswith(FBCNN) else "") + str(path), device)
