"""What an attempt at a run has cost: pixels, evaluations, and how long its workers waited. Plain sums, no Ray."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Span:
    """The life of one worker, from its first shard to its last."""

    begun: float
    ended: float
    busy_s: float = 0.0


@dataclass
class Effort:
    """Sums over the rows of `shard_stage.SUMMARY`; memory goes by the workers."""

    restored: int = 0  # images that are ok
    pixels: int = 0
    nfe: int = 0  # evaluations of the network
    spans: dict[str, Span] = field(default_factory=dict)  # by worker

    def add(self, restored: int, row: Mapping[str, Any]) -> None:
        """Count one shard."""
        self.restored += restored
        self.pixels += row["pixels"]
        self.nfe += row["nfe"]
        begun, ended = row["begun"], row["begun"] + row["seconds"]
        span = self.spans.setdefault(row["worker"], Span(begun, ended))
        span.begun, span.ended = min(span.begun, begun), max(span.ended, ended)
        span.busy_s += row["seconds"]

    @property
    def idle_share(self) -> float | None:
        """Share of the workers' lives in which they waited for data; None if none has lived."""
        lives_s = sum(span.ended - span.begun for span in self.spans.values())
        busy_s = sum(span.busy_s for span in self.spans.values())
        return max(0.0, 1 - busy_s / lives_s) if lives_s > 0 else None

    @property
    def evaluations_per_image(self) -> float | None:
        """Of the network, for a restored image; None if there is none."""
        return round(self.nfe / self.restored, 3) if self.restored else None

    def told(self, seconds: float) -> dict[str, Any]:
        """For _RESULT.json; `seconds` is how long the attempt took."""
        idle = self.idle_share
        return {
            "megapixels_this_attempt": round(self.pixels / 1e6, 3),
            "megapixels_per_second": round(self.pixels / 1e6 / seconds, 4) if seconds else 0.0,
            "workers": len(self.spans),
            "idle_share": None if idle is None else round(idle, 4),
        }
