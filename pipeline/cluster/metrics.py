"""What a run counts, as metrics of Ray: each node's agent gives them to Prometheus, `ray_` before their names.

The driver counts, this attempt only; that Ray takes no metrics ends no run. Without a cluster nothing is counted.
"""

import logging
from collections.abc import Callable, Mapping

import ray
from ray.util.metrics import Counter, Gauge, Metric

from pipeline.inputs.names import RUN_DIGITS
from pipeline.runs.reporter import shards_left, time_left
from pipeline.runs.run import Run
from pipeline.runs.stage import Counts

log = logging.getLogger(__name__)

RUN_TAGS = ("job", "run")  # run: the first digits of its fingerprint
COUNTERS = {  # what each counts, and its tags besides
    "driftrec_images_total": ("images done, by how they ended and why", ("status", "reason")),
    "driftrec_megapixels_total": ("megapixels of the images that are ok", ()),
    "driftrec_network_evaluations_total": ("evaluations of the network for these", ()),
}
GAUGES: Mapping[str, tuple[str, Callable[[Run], float | None]]] = {
    "driftrec_shards_left": ("shards that are not done", shards_left),
    "driftrec_idle_share": ("of the workers' lives, waiting for data, 0 to 1", lambda run: run.effort.idle_share),
    "driftrec_seconds_left": ("until all shards are done, as they went so far", time_left),
    "driftrec_cost": ("of this attempt; not there without a price", lambda run: run.cost),
}


class Metrics:
    """Of one attempt."""

    def __init__(self, run: Run) -> None:
        self._run, self._on = run, ray.is_initialized()
        self._metrics: dict[str, Metric] = {}
        self._safely(self._make)

    def add(self, row: Counts) -> None:
        """Count one more shard, which the run knows of already."""
        self._safely(lambda: self._count(row))

    def _safely(self, act: Callable[[], None]) -> None:
        if not self._on:
            return
        try:
            act()
        except Exception as error:
            log.warning("metrics are off: %s: %s", type(error).__name__, error)
            self._on = False

    def _make(self) -> None:
        tags = {"job": self._run.job, "run": self._run.fingerprint[:RUN_DIGITS]}
        for name, (about, more) in COUNTERS.items():
            self._metrics[name] = Counter(name, about, (*RUN_TAGS, *more)).set_default_tags(tags)
        for name, (about, _) in GAUGES.items():
            self._metrics[name] = Gauge(name, about, RUN_TAGS).set_default_tags(tags)
        self._gauge()

    def _count(self, row: Counts) -> None:
        for outcome in row["outcomes"]:
            tags = {"status": outcome["status"], "reason": outcome["reason"]}
            self._increase("driftrec_images_total", outcome["images"], tags)
        self._increase("driftrec_megapixels_total", row["pixels"] / 1e6)
        self._increase("driftrec_network_evaluations_total", row["nfe"])
        self._gauge()

    def _increase(self, name: str, amount: float, tags: dict[str, str] | None = None) -> None:
        metric = self._metrics[name]
        if amount and isinstance(metric, Counter):  # Ray refuses to add 0
            metric.inc(amount, tags or {})

    def _gauge(self) -> None:
        for name, (_, value_of) in GAUGES.items():
            metric, value = self._metrics[name], value_of(self._run)
            if value is not None and isinstance(metric, Gauge):
                metric.set(value)
