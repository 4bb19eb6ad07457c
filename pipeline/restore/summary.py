"""A ledger in short: counts, distributions and a fair sample of its rows, in memory that does not grow with it."""

import math
from bisect import insort
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from pipeline.inputs.names import name_digest
from pipeline.runs.ledger import FAILED, OK, RestoreRow

BINS_PER_DECADE = 100  # a quantile is right to 2.3 %
QUALITY_BAND = 10  # JPEG quality 1-10, 11-20, ...
MAX_FAILURES = 200  # rows that are listed one by one
MAX_SHOWN_PIXELS = 40_000_000  # larger pictures are not decoded for the report



@dataclass
class Histogram:
    """Positive numbers in logarithmic bins."""

    bins: Counter[int] = field(default_factory=Counter)
    total: float = 0.0

    def add(self, value: float) -> None:
        """Count one number; 0 and less count as a millionth."""
        self.bins[math.floor(BINS_PER_DECADE * math.log10(max(value, 1e-6)))] += 1
        self.total += value

    @property
    def count(self) -> int:
        return self.bins.total()

    @property
    def mean(self) -> float:
        return self.total / self.count

    def quantile(self, share: float) -> float:
        """The middle of the bin below whose upper edge lies the `share` of all numbers."""
        seen = 0
        for index, images in sorted(self.bins.items()):
            seen += images
            if seen >= share * self.count:
                return 10 ** ((index + 0.5) / BINS_PER_DECADE)
        raise ValueError("a histogram without numbers has no quantile")

    def bars(self, most: int) -> list[tuple[float, float, int]]:
        """(from, to, how many) of at most `most` bars of equal logarithmic width that cover all numbers."""
        first, last = min(self.bins), max(self.bins)
        width = -(-(last - first + 1) // most)
        counts: Counter[int] = Counter()
        for index, images in self.bins.items():
            counts[(index - first) // width] += images
        edges = [10 ** ((first + i * width) / BINS_PER_DECADE) for i in range(max(counts) + 2)]
        return [(edges[i], edges[i + 1], counts[i]) for i in range(max(counts) + 1)]


@dataclass
class Band:
    """The restored images of one range of input quality, and a sample of them."""

    images: int = 0
    measured: int = 0
    bef_before: float = 0.0  # sums over the measured images, raw
    bef_after: float = 0.0
    sample: list[tuple[int, str, RestoreRow]] = field(default_factory=list)  # (rank, shard, row), by rank

    def add(self, shard: str, row: RestoreRow, sample: int) -> None:
        """Count one restored image; keep it if its key's digest is among the `sample` smallest."""
        self.images += 1
        if row["bef_before"] is not None and row["bef_after"] is not None:
            self.measured += 1
            self.bef_before += row["bef_before"]
            self.bef_after += row["bef_after"]
        rank = name_digest(row["key"])
        if (row["width"] or 0) * (row["height"] or 0) <= MAX_SHOWN_PIXELS:
            insort(self.sample, (rank, shard, row), key=lambda item: item[:2])
            del self.sample[sample:]


@dataclass
class Summary:
    """Sums over ledger parts. The sample goes by the keys' digests: the same whatever order the parts come in."""

    sample_size: int
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)  # (status, reason or "")
    failures: list[RestoreRow] = field(default_factory=list)  # the first MAX_FAILURES by key
    bands: dict[int, Band] = field(default_factory=dict)  # by the upper end of the quality range; 0: not known
    modes: Counter[str] = field(default_factory=Counter)
    seconds: Histogram = field(default_factory=Histogram)
    pixels: int = 0
    nfe: int = 0

    def add(self, shard: str, rows: Iterable[RestoreRow]) -> None:
        """Count the rows of one part."""
        for row in rows:
            self.outcomes[row["status"], row["reason"] or ""] += 1
            if row["status"] == OK:
                self._restored(shard, row)
            elif row["status"] == FAILED:
                insort(self.failures, row, key=lambda failure: failure["key"])
                del self.failures[MAX_FAILURES:]

    def _restored(self, shard: str, row: RestoreRow) -> None:
        self.pixels += (row["width"] or 0) * (row["height"] or 0)
        self.nfe += row["nfe"] or 0
        self.modes[row["mode"] or "?"] += 1
        if row["seconds"] is not None:
            self.seconds.add(row["seconds"])
        top = -(-(row["quality"] or 0) // QUALITY_BAND) * QUALITY_BAND
        self.bands.setdefault(top, Band()).add(shard, row, self.sample_size)

    def count(self, status: str | None = None) -> int:
        """Images with this status; all of them without one."""
        return sum(images for (found, _), images in self.outcomes.items() if status in (None, found))

    def chosen(self) -> list[tuple[str, RestoreRow]]:
        """(shard, row) of at most `sample_size` restored images, bands in turn; lowest quality first, unknown last."""
        turns = [
            (turn, top, shard, row)
            for top, band in self.bands.items()
            for turn, (_, shard, row) in enumerate(band.sample)
        ]
        turns.sort(key=lambda item: (item[0], item[1]))
        rows = [(shard, row) for _, _, shard, row in turns[: self.sample_size]]
        return sorted(rows, key=lambda item: (item[1]["quality"] or math.inf, item[1]["key"]))
