"""Checkpoints of a training run in its OUTPUT: the state first, then a small marker. Readers trust only markers.

    checkpoints/step-00001000.safetensors    what Learner.save wrote
    checkpoints/step-00001000.json           {"step", "bytes", "sha256", "positions", "open"}: the state is whole

Knows no Ray.
"""

import hashlib
import json
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError

from driftrec.errors import DriftRecError, StorageFull
from driftrec.training.learner import Learner
from pipeline.storage.base import Store
from pipeline.train.metrics_log import Interval
from pipeline.train.windows import Position

log = logging.getLogger(__name__)

FOLDER = "checkpoints"
Data = bytes  # within Mark that name is a field's


@dataclass(frozen=True)
class Mark:
    """What a marker says."""

    step: int
    bytes: int
    sha256: str
    positions: tuple[Position, ...] = ()  # of each worker in its data; none: all at the beginning
    open: tuple[Interval, ...] = ()  # the journal's, of each worker; none: no step stands in no line

    @property
    def state(self) -> str:
        """Name of the training state in the store."""
        return f"{FOLDER}/step-{self.step:08d}.safetensors"

    @property
    def name(self) -> str:
        """Name of the marker in the store."""
        return f"{FOLDER}/step-{self.step:08d}.json"

    def to_json(self) -> Data:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, data: Data) -> "Mark":
        """Raises ValueError or KeyError for anything else."""
        values = json.loads(data)
        positions = tuple(Position(**position) for position in values["positions"])
        intervals = tuple(Interval(**interval) for interval in values.get("open", ()))
        return cls(values["step"], values["bytes"], values["sha256"], positions, intervals)


def save(
    store: Store, learner: Learner, positions: Sequence[Position], keep: int, intervals: Sequence[Interval] = ()
) -> Mark:
    """Write a checkpoint, then remove all but the last `keep`. Raises StorageFull or StorageError; older ones stay."""
    mark = put(store, learner.step_count, state_of(learner), positions, intervals)
    _prune(store, keep)
    return mark


def put(
    store: Store, step: int, data: bytes, positions: Sequence[Position] = (), intervals: Sequence[Interval] = ()
) -> Mark:
    """Write the bytes of a training state as a checkpoint."""
    mark = Mark(step, len(data), hashlib.sha256(data).hexdigest(), tuple(positions), tuple(intervals))
    store.put(mark.state, data)
    store.put(mark.name, mark.to_json())
    return mark


def state_of(learner: Learner) -> bytes:
    """The bytes of the learner's state. Raises StorageFull if the temporary folder has no room for them."""
    try:
        with tempfile.TemporaryDirectory(prefix="driftrec-") as folder:
            path = Path(folder) / "state.safetensors"
            learner.save(path)
            return path.read_bytes()
    except (OSError, SafetensorError) as error:
        where = tempfile.gettempdir()
        raise StorageFull(f"{where}: the training state could not be written there: {error}; free some room") from error


def _prune(store: Store, keep: int) -> None:
    """Remove old checkpoints, marker first, and states that have no marker."""
    names = [name for name, _ in store.list(FOLDER)]
    markers = sorted((name for name in names if name.endswith(".json")), reverse=True)
    for name in markers[keep:]:
        store.remove(name)
    whole = {name.removesuffix(".json") for name in markers[:keep]}
    for name in names:
        if name.endswith(".safetensors") and name.removesuffix(".safetensors") not in whole:
            store.remove(name)


def latest(store: Store) -> Mark | None:
    """The marker of the newest checkpoint whose state has the bytes that were written."""
    sizes = dict(store.list(FOLDER))
    for name in sorted((name for name in sizes if name.endswith(".json")), reverse=True):
        try:
            mark = Mark.from_json(store.read(name))
        except (ValueError, KeyError, TypeError) as error:
            log.warning("%s is no checkpoint marker (%s); the one before is taken", store.where(name), error)
            continue
        found = sizes.get(mark.state, 0)
        if found == mark.bytes:
            if hashlib.sha256(store.read(mark.state)).hexdigest() == mark.sha256:
                return mark
            log.warning(
                "%s: its bytes are not those that were written; the one before is taken", store.where(mark.state)
            )
            continue
        log.warning("%s: %d of %d bytes; the one before is taken", store.where(mark.state), found, mark.bytes)
    return None


def load(store: Store, mark: Mark, learner: Learner) -> None:
    """Put a checkpoint into the learner. Raises DriftRecError if its bytes are not those that were written."""
    data = store.read(mark.state)
    if hashlib.sha256(data).hexdigest() != mark.sha256:
        where = store.where(mark.state)
        raise DriftRecError(
            f"{where}: its {len(data)} bytes are not those that were written; remove {mark.name} and start again"
        )
    load_state(data, learner)


def load_state(data: bytes, learner: Learner) -> None:
    """Put the bytes of a training state into the learner."""
    with tempfile.TemporaryDirectory(prefix="driftrec-") as folder:
        path = Path(folder) / "state.safetensors"
        path.write_bytes(data)
        learner.load(path)
