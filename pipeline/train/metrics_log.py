"""metrics.jsonl, and whoever else is told: one line an interval, each step in one line only, whatever was killed."""

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NotRequired, Protocol, TypedDict, cast

from driftrec.errors import DriftRecError
from driftrec.training.learner import StepResult
from pipeline.storage.base import Store

log = logging.getLogger(__name__)

METRICS = "metrics.jsonl"
WRITE_S = 10.0  # seconds between two writes of metrics.jsonl, which is put as a whole



class Line(TypedDict):
    """Of metrics.jsonl: the steps since the line before."""

    step: int
    gradient_norm: float  # of the last step
    lr: float  # of the last step
    epoch: int
    loss: float  # mean over steps and workers
    images_per_s: float
    waiting_for_data: float  # share of the time, 0 to 1
    validation: NotRequired[dict[str, dict[str, float]]]  # scores by candidate and metric
    seconds: float
    time: float  # when it was written, seconds since 1970


class Listener(Protocol):
    """Is told of every line, and now and then that what it has is to be written."""

    def tell(self, line: Line) -> None: ...

    def write(self) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Interval:
    """One that is open: what a worker has seen of it."""

    losses: list[float] = field(default_factory=list[float])  # of each step
    seconds: float = 0.0
    waited_s: float = 0.0  # of these, for data


class Journal:
    """The lines so far, and the interval that is open. Only worker 0 has listeners and writes."""

    def __init__(self, store: Store, step: int, interval: Interval | None = None) -> None:
        self.store = store
        kept = store.read(METRICS).splitlines() if step and store.exists(METRICS) else []
        self.lines: list[Line] = [line for line in map(json.loads, kept) if line["step"] <= step]
        self.listeners: list[Listener] = []
        interval = interval or Interval()
        self.losses = list(interval.losses)
        self.last: StepResult | None = None
        self.written = time.monotonic()
        self.begun = self.written - interval.seconds

    def add(self, result: StepResult) -> None:
        """Take in a step."""
        self.losses.append(result.loss)
        self.last = result

    @property
    def mean_loss(self) -> float:
        """Of the open interval."""
        return sum(self.losses) / len(self.losses)

    @property
    def seconds(self) -> float:
        """Since the open interval began."""
        return time.monotonic() - self.begun

    def close_interval(self, **values: Any) -> None:
        """A line on the steps since the last one: step, rate and gradient norm of the last step, and `values`."""
        assert self.last is not None
        known = {"step": self.last.step, "gradient_norm": self.last.gradient_norm, "lr": self.last.lr}
        line = cast(Line, known | values | {"seconds": round(self.seconds, 3), "time": round(time.time(), 1)})
        self.lines.append(line)
        for listener in self.listeners:
            listener.tell(line)
        self.losses, self.begun = [], time.monotonic()

    def write_if_due(self) -> None:
        """Put what there is, unless that was a moment ago. A failure is told: the next checkpoint decides."""
        if time.monotonic() - self.written > WRITE_S:
            self._try_to_write()

    def write(self) -> None:
        """Put the file. Raises StorageFull, StorageError."""
        self.store.put(METRICS, "".join(json.dumps(line) + "\n" for line in self.lines).encode())
        for listener in self.listeners:
            listener.write()
        self.written = time.monotonic()

    def close(self) -> None:
        """Put what there is once more, and let the listeners go."""
        self._try_to_write()
        for listener in self.listeners:
            listener.close()

    def _try_to_write(self) -> None:
        try:
            self.write()
        except DriftRecError as error:
            log.warning("%s", error)


def scalars(line: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """("loss", 0.3), ("validation/mean/psnr", 27.1), ...: all numbers of a line but its step and time."""
    for name, value in line.items():
        if isinstance(value, Mapping):
            yield from scalars(value, f"{prefix}{name}/")
        elif name not in ("step", "time"):
            yield prefix + name, float(value)


def training_seconds(lines: Sequence[Line]) -> float:
    """Of all intervals, what was killed and done again left out."""
    return sum(line.get("seconds", 0.0) for line in lines)
