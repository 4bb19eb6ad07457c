"""What a survey comes to: the ledger as report.parquet, counts and distributions as summary.json."""

import math
from bisect import insort
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TypedDict

import pyarrow as pa

from driftrec.errors import Reason
from pipeline.inputs.collisions import Taken
from pipeline.inputs.names import name_digest, output_name
from pipeline.reports.table import write_table
from pipeline.restore.summary import MAX_FAILURES, MAX_SHOWN_PIXELS, QUALITY_BAND, Histogram
from pipeline.runs.ledger import FAILED, rows_in, texts
from pipeline.runs.run import Run
from pipeline.survey.stage import SCHEMA, SurveyRow

EXAMPLES = 4  # of a band of quality
CLASHES = 1000  # pairs of names that summary.json has
GOOD = 90  # JPEGs of this quality or more lose little, and a restore may leave them
TURNED = range(2, 9)  # orientations that are not upright


@dataclass
class Band:
    """The sound files of one range of quality; 0 stands for those that are no JPEG, or whose tables are unknown."""

    files: int = 0
    pixels: int = 0
    measured: int = 0  # of which the blocking was measured
    bef: float = 0.0  # their sum, raw
    earlier: Counter[str] = field(default_factory=Counter)  # what showed of an earlier compression, where looked for
    examples: list[tuple[int, str, SurveyRow]] = field(default_factory=list)  # (rank, shard, row), by rank

    def add(self, shard: str, row: SurveyRow) -> None:
        """Count one file."""
        pixels = (row["width"] or 0) * (row["height"] or 0)
        self.files += 1
        self.pixels += pixels
        if row["bef"] is not None:
            self.measured += 1
            self.bef += row["bef"]
        if row["earlier"] is not None:
            self.earlier[row["earlier"]] += 1
        rank = name_digest(row["key"])
        if 0 < pixels <= MAX_SHOWN_PIXELS and (len(self.examples) < EXAMPLES or rank < self.examples[-1][0]):
            insort(self.examples, (rank, shard, row), key=lambda item: item[:2])
            del self.examples[EXAMPLES:]


@dataclass
class Survey:
    """Sums over ledger parts, in memory that does not grow with them."""

    files: int = 0
    bytes: int = 0
    decoded: int = 0
    reasons: Counter[str] = field(default_factory=Counter)  # of damaged files
    failures: list[SurveyRow] = field(default_factory=list)  # the first MAX_FAILURES by key
    formats: Counter[str] = field(default_factory=Counter)  # of the sound files, as all that follows
    modes: Counter[str] = field(default_factory=Counter)
    subsampling: Counter[str] = field(default_factory=Counter)
    orientations: Counter[int] = field(default_factory=Counter)
    traits: Counter[str] = field(default_factory=Counter)  # progressive, exact, exif, gps, xmp, icc
    qualities: Counter[int] = field(default_factory=Counter)
    quality_pixels: Counter[int] = field(default_factory=Counter)
    megapixels: Histogram = field(default_factory=Histogram)
    widest: int = 0  # pixels of the longest side
    bands: dict[int, Band] = field(default_factory=dict)  # by the upper end of the quality range
    earlier: Counter[str] = field(default_factory=Counter)  # what showed of an earlier compression, of JPEGs
    once_jpeg: Counter[str] = field(default_factory=Counter)  # the same of all other files

    def add(self, shard: str, part: pa.Table) -> None:
        """Count the rows of one part."""
        for row in rows_in(part, SurveyRow):
            self.files += 1
            self.bytes += row["bytes"] or 0
            self.decoded += bool(row["decoded"])
            if row["status"] == FAILED:
                self.reasons[row["reason"] or ""] += 1
                if len(self.failures) < MAX_FAILURES or row["key"] < self.failures[-1]["key"]:
                    insort(self.failures, row, key=lambda failure: failure["key"])
                    del self.failures[MAX_FAILURES:]
            else:
                self._sound(shard, row)

    def _sound(self, shard: str, row: SurveyRow) -> None:
        width, height, quality = row["width"] or 0, row["height"] or 0, row["quality"]
        pixels = width * height
        self.formats[row["format"] or ""] += 1
        self.modes[f"{row['mode'] or '?'}, {row['depth'] or '?'} bits"] += 1
        self.orientations[row["orientation"] or 1] += 1
        self.traits.update(name for name in ("progressive", "exact", "exif", "gps", "xmp", "icc") if row[name])
        self.megapixels.add(pixels / 1e6)
        self.widest = max(self.widest, width, height)
        if row["subsampling"]:
            self.subsampling[row["subsampling"]] += 1
        if quality is not None:
            self.qualities[quality] += 1
            self.quality_pixels[quality] += pixels
        if row["earlier"] is not None:
            (self.earlier if row["format"] == "JPEG" else self.once_jpeg)[row["earlier"]] += 1
        self.bands.setdefault(-(-(quality or 0) // QUALITY_BAND) * QUALITY_BAND, Band()).add(shard, row)

    @property
    def sound(self) -> int:
        """Files without a reason."""
        return self.files - self.reasons.total()

    @property
    def pixels(self) -> int:
        """Of the sound files."""
        return sum(band.pixels for band in self.bands.values())

    @property
    def good_pixels(self) -> int:
        """Of the JPEGs of quality GOOD and more."""
        return sum(pixels for quality, pixels in self.quality_pixels.items() if quality >= GOOD)

    def examples(self, most: int) -> list[tuple[str, SurveyRow]]:
        """(shard, row) of some sound files, bands in turn; lowest quality first, unknown last."""
        turns = [
            (turn, top, shard, row)
            for top, band in self.bands.items()
            for turn, (_, shard, row) in enumerate(band.examples)
        ]
        turns.sort(key=lambda item: (item[0], item[1] or math.inf))
        rows = [(shard, row) for _, _, shard, row in turns[:most]]
        return sorted(rows, key=lambda item: (item[1]["quality"] or math.inf, item[1]["key"]))


class JpegCounts(TypedDict):
    """Of the sound JPEGs: files, but for the last."""

    files: int
    progressive: int
    tables_of_libjpeg: int
    subsampling: dict[str, int]
    quality: dict[str, int]  # by quality, 1 to 100
    median_quality: int | None


class Decoded(TypedDict):
    """How much was decoded."""

    files: int
    share_asked: float  # 0 to 1


class Before(TypedDict):
    """Files that show an earlier compression."""

    looked_at: int
    aligned: int
    shifted: int
    share: float | None  # 0 to 1; None: none was looked at
    interval: list[float] | None  # 95 %, of the share


class Clashes(TypedDict):
    """Images that would have one output name in a restore, such as a.jpg and a.png."""

    pairs: int
    first: list[tuple[str, str]]  # CLASHES of them, (earlier, later)


class BandTold(TypedDict):
    """The sound files of one range of quality."""

    quality: list[int] | None  # lowest, highest; None: no JPEG, or not known
    files: int
    megapixels: float
    bef_mean: float | None  # raw; None: none was measured
    bef_files: int
    looked_at: int
    compressed_before: int


class Summary(TypedDict):
    """summary.json, but for the cost."""

    job: str
    input: str  # URL
    output: str
    files: int
    sound: int
    damaged: dict[str, int]  # by reason
    ignored_files: dict[str, int]  # by suffix
    bytes: int
    megapixels: float
    longest_side: int  # pixels
    formats: dict[str, int]
    modes: dict[str, int]
    jpeg: JpegCounts
    metadata: dict[str, int]  # files that have it
    decoded: Decoded
    compressed_before: Before  # of JPEGs
    once_jpeg: Before  # of all other files
    by_quality: list[BandTold]
    name_clashes: Clashes


def reduce_ledger(run: Run) -> Survey:
    """One pass over the ledger: report.parquet is written and the sums are taken."""
    survey = Survey()
    write_table(run, SCHEMA, survey.add)
    return survey


def summarize(run: Run, survey: Survey, share: float) -> Summary:
    """What summary.json says, but for the cost."""
    return {
        "job": "survey",
        "input": run.listing.source.url,
        "output": run.store.url,
        "files": survey.files,
        "sound": survey.sound,
        "damaged": dict(survey.reasons.most_common()),
        "ignored_files": dict(run.listing.ignored.most_common()),
        "bytes": survey.bytes,
        "megapixels": round(survey.pixels / 1e6, 3),
        "longest_side": survey.widest,
        "formats": dict(survey.formats.most_common()),
        "modes": dict(survey.modes.most_common()),
        "jpeg": {
            "files": survey.formats["JPEG"],
            "progressive": survey.traits["progressive"],
            "tables_of_libjpeg": survey.traits["exact"],
            "subsampling": dict(survey.subsampling.most_common()),
            "quality": {str(quality): files for quality, files in sorted(survey.qualities.items())},
            "median_quality": _median(survey.qualities),
        },
        "metadata": {name: survey.traits[name] for name in ("exif", "gps", "xmp", "icc")}
        | {"turned": sum(survey.orientations[turn] for turn in TURNED)},
        "decoded": {"files": survey.decoded, "share_asked": share},
        "compressed_before": _before(survey.earlier),
        "once_jpeg": _before(survey.once_jpeg),
        "by_quality": [_band(top, band) for top, band in sorted(survey.bands.items())],
        "name_clashes": _clashes(run),
    }


def _clashes(run: Run) -> Clashes:
    """Of all images, by the names that a restore gives unless it is told otherwise."""

    def keys() -> Iterator[str]:
        for part in run.ledger.read_parts((shard.id for shard in run.listing.shards), ("key", "reason")):
            for key, reason in zip(texts(part, "key"), part["reason"].to_pylist(), strict=True):
                if reason not in (Reason.shard_incomplete, Reason.unsafe_name):
                    yield key

    clashes = Taken(partial(output_name, wanted="png")).add_files(keys)
    return {"pairs": len(clashes), "first": clashes[:CLASHES]}


def _before(found: Counter[str]) -> Before:
    looked, shown = found.total(), found["aligned"] + found["shifted"]
    return {
        "looked_at": looked,
        "aligned": found["aligned"],
        "shifted": found["shifted"],
        "share": shown / looked if looked else None,
        "interval": wilson(shown, looked),
    }


def _band(top: int, band: Band) -> BandTold:
    return {
        "quality": [top - QUALITY_BAND + 1, top] if top else None,
        "files": band.files,
        "megapixels": round(band.pixels / 1e6, 3),
        "bef_mean": band.bef / band.measured if band.measured else None,
        "bef_files": band.measured,
        "looked_at": band.earlier.total(),
        "compressed_before": band.earlier["aligned"] + band.earlier["shifted"],
    }


def _median(counts: Counter[int]) -> int | None:
    """The lower median."""
    seen = 0
    for value, files in sorted(counts.items()):
        seen += files
        if 2 * seen >= counts.total():
            return value
    return None


def wilson(hits: int, trials: int) -> list[float] | None:
    """95 % interval of a share (Wilson, 1927)."""
    if not trials:
        return None
    z = 1.959964  # of a normal distribution, 97.5 %
    share, scale = hits / trials, 1 + z**2 / trials
    middle = (share + z**2 / (2 * trials)) / scale
    reach = z * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2)) / scale
    return [max(0.0, middle - reach), min(1.0, middle + reach)]
