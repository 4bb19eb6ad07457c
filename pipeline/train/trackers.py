"""Who is told of the metrics beside metrics.jsonl: TensorBoard always, Weights & Biases and MLflow if asked for.

All of them are told what a line of the journal says. After a kill they go on where they were: TensorBoard's file is
written again from the journal, the other two find their run by what OUTPUT is.
"""

import importlib.util
import logging
import os
import struct
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue] - made when imported
from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue] - likewise
from tensorboardX.record_writer import masked_crc32c

from driftrec.errors import InvalidInput, one_line
from pipeline.settings import Values
from pipeline.storage.base import Store
from pipeline.train.metrics_log import Line, scalars

log = logging.getLogger(__name__)

TENSORBOARD = "tensorboard/events.out.tfevents.0.driftrec"  # one file, so that it can be put as a whole
PROJECT = "driftrec"
VARIABLES = ("WANDB_", "MLFLOW_")  # of the environment, handed to worker 0


class TensorBoard:
    """The lines as TensorBoard's event file: kept in memory, about half a kilobyte per line, and put as a whole."""

    def __init__(self, store: Store, lines: Sequence[Line]) -> None:
        self._store = store
        self._data = bytearray(_record(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString()))
        for line in lines:
            self.tell(line)

    def tell(self, line: Line) -> None:
        """One event, with a scalar for each number."""
        values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars(line)]
        when = line.get("time", time.time())
        event = Event(wall_time=when, step=line["step"], summary=Summary(value=values))
        self._data += _record(event.SerializeToString())

    def write(self) -> None:
        """Put the file. Raises StorageFull, StorageError."""
        self._store.put(TENSORBOARD, bytes(self._data))

    def close(self) -> None:
        """Nothing is open."""


def _record(data: bytes) -> bytes:
    """As TFRecord: length, its checksum, data, its checksum."""
    length = struct.pack("<Q", len(data))
    return b"".join((length, _checksum(length), data, _checksum(data)))


def _checksum(data: bytes) -> bytes:
    return struct.pack("<I", masked_crc32c(data))


class WandB:
    """A run of Weights & Biases. Where it reports to is said by its own environment (WANDB_API_KEY, WANDB_MODE)."""

    def __init__(self, name: str, identity: str, settings: Values) -> None:
        wandb = import_module("wandb")
        self._folder = tempfile.TemporaryDirectory(prefix="driftrec-wandb-", ignore_cleanup_errors=True)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=identity,
            name=name,
            config=dict(settings),
            dir=os.environ.get("WANDB_DIR", self._folder.name),
            resume="allow",
        )

    def tell(self, line: Line) -> None:
        """Log the numbers at their step."""
        self._run.log(dict(scalars(line)), step=line["step"])

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()
        self._folder.cleanup()


class MLflow:
    """A run of MLflow. Where it reports to is said by MLFLOW_TRACKING_URI."""

    def __init__(self, name: str, identity: str, settings: Values) -> None:
        self._client, param = import_module("mlflow").MlflowClient(), import_module("mlflow.entities").Param
        title = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        known = self._client.get_experiment_by_name(title)
        experiment = known.experiment_id if known else self._client.create_experiment(title)
        found = self._client.search_runs([experiment], f"tags.`driftrec.run` = '{identity}'", max_results=1)
        if found:
            self._run = found[0].info.run_id
            self._client.update_run(self._run, "RUNNING")
            return
        created = self._client.create_run(experiment, tags={"driftrec.run": identity}, run_name=name)
        self._run = created.info.run_id
        self._client.log_batch(self._run, params=[param(setting, str(value)) for setting, value in settings.items()])

    def tell(self, line: Line) -> None:
        """Log the numbers at their step."""
        milliseconds, metric = int(1000 * line["time"]), import_module("mlflow.entities").Metric
        metrics = [metric(name, value, milliseconds, line["step"]) for name, value in scalars(line)]
        self._client.log_batch(self._run, metrics=metrics)

    def close(self) -> None:
        """Mark the run as ended; a later attempt opens it again."""
        self._client.set_terminated(self._run)


TRACKERS = {"wandb": WandB, "mlflow": MLflow}


class Cautious:
    """A tracker that is given up when it fails; the training goes on."""

    def __init__(self, tracker: str, *arguments: Any) -> None:
        self.failure = ""  # why it is told nothing more
        self._name = tracker
        self._listener: WandB | MLflow | None = self._try(TRACKERS[tracker], *arguments)

    def tell(self, line: Line) -> None:
        """Tell it, if it still listens."""
        self._try(lambda: self._listener and self._listener.tell(line))

    def write(self) -> None:
        """Trackers send by themselves."""

    def close(self) -> None:
        """Let it end."""
        self._try(lambda: self._listener and self._listener.close())

    def _try(self, action: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return action(*arguments)
        except Exception as error:
            self.failure = f"{self._name}: {one_line(error, 300)}"
            log.warning("told nothing more: %s", self.failure)
            self._listener = None
            return None


def check_trackers(names: Sequence[str]) -> None:
    """Raise InvalidInput if a tracker cannot work: its package or its address is missing."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            remedy = "pip install wandb mlflow-skinny, or leave it out of track"
            raise InvalidInput(f"track: {name} is not installed; {remedy}")
    if "wandb" in names and os.environ.get("WANDB_MODE") == "offline" and not os.environ.get("WANDB_DIR"):
        raise InvalidInput("track: wandb has nowhere to put its files when it is offline; set WANDB_DIR")
    if "mlflow" in names and not os.environ.get("MLFLOW_TRACKING_URI"):
        raise InvalidInput("track: mlflow needs its server's address; set MLFLOW_TRACKING_URI in the environment")


def environment() -> dict[str, str]:
    """What the trackers read, of this process's environment."""
    return {name: value for name, value in os.environ.items() if name.startswith(VARIABLES)}
