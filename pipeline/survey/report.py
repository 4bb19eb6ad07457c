"""The page of a survey: what is in the archive, what is damaged, what a restore would cost, as one file that loads
nothing.
"""

import base64
import io
import json
import logging
import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from driftrec import __version__
from driftrec.errors import MEANING, BadImage
from driftrec.image import decode
from pipeline.inputs.names import log_tags
from pipeline.reports.page import GREY_LEVELS, Part, duration, figure, render, share, tile, whole
from pipeline.runs.documents import Result, RunDocument
from pipeline.runs.ledger import RUN
from pipeline.runs.reporter import PAGE
from pipeline.runs.run import Run
from pipeline.survey.cost import Cost, WholeSummary
from pipeline.survey.stage import SurveyRow
from pipeline.survey.summary import GOOD, BandTold, Survey

log = logging.getLogger(__name__)

CROP = (200, 150)  # pixels of an example, across and down; shown twice as large
BARS = 30  # of the histogram of sizes
METADATA = {
    "exif": "EXIF",
    "gps": "GPS position",
    "icc": "ICC profile",
    "xmp": "XMP",
    "turned": "turned by EXIF",
}


def write_survey_report(
    run: Run, summary: WholeSummary, survey: Survey, files: Sequence[tuple[SurveyRow, bytes]], result: Result
) -> None:
    """Write report.html into OUTPUT.

    Args:
        run: whose run.json is shown.
        summary: what summary.json says.
        survey: the sums that histograms come from.
        files: (ledger row, bytes) of the examples.
        result: what _RESULT.json says.
    """
    document: RunDocument = json.loads(run.store.read(RUN))
    page = render("survey.html", _contents(summary, survey, files, result, document))
    run.store.put(PAGE, page.encode())


def _contents(
    summary: WholeSummary,
    survey: Survey,
    files: Sequence[tuple[SurveyRow, bytes]],
    result: Result,
    document: RunDocument,
) -> Part:
    """All that the template names."""
    damaged = survey.reasons
    return {
        "version": __version__,
        "headline": f"{_count(survey.files, 'image')}, {figure(survey.pixels / 1e6)} megapixels",
        "input": summary["input"],
        "output": summary["output"],
        "tiles": _tiles(summary, survey),
        "quality": _qualities(survey),
        "bands": _bands(summary["by_quality"]),
        "sizes": _sizes(survey),
        "lists": _lists(summary, survey),
        "before": summary["compressed_before"],
        "once": summary["once_jpeg"],
        "decoded": survey.decoded,
        "files": survey.files,
        "cost": _cost(summary["cost"]),
        "reasons": [
            {"reason": reason, "files": files, "share": files / survey.files, "meaning": MEANING.get(reason, "")}
            for reason, files in damaged.most_common()
        ],
        "damaged": damaged.total(),
        "failures": survey.failures,
        "examples": [example for row, data in files if (example := _example(row, data))],
        "settings": _settings(document, result),
        "run_json": json.dumps(document, indent=2, ensure_ascii=False),
    }


def _tiles(summary: WholeSummary, survey: Survey) -> list[dict[str, str]]:
    damaged, cost = survey.reasons.total(), summary["cost"]
    before, once = summary["compressed_before"], summary["once_jpeg"]
    tiles = [
        tile("Images", whole(survey.files)),
        tile("Megapixels", figure(survey.pixels / 1e6)),
        tile("On disk", *_bytes(survey.bytes)),
        tile("Damaged", whole(damaged), tone="bad" if damaged else ""),
    ]
    if clashes := summary["name_clashes"]["pairs"]:
        tiles.append(tile("Pairs on one output name", whole(clashes), tone="bad"))
    if summary["jpeg"]["median_quality"] is not None:
        tiles.append(tile("Median JPEG quality", whole(summary["jpeg"]["median_quality"])))
    if before["share"] is not None:
        tiles.append(tile("Of decoded JPEGs, compressed before", share(before["share"])))
    if once["aligned"] + once["shifted"]:
        tiles.append(tile("Of other pictures, once a JPEG", share(once["share"] or 0.0)))
    if hours := cost.get("measured", {}).get("hours"):
        tiles.append(tile("To restore it all here", *_time(hours)))
    return tiles


def _qualities(survey: Survey) -> Part | None:
    """A bar a quality; None without a JPEG."""
    if not survey.qualities:
        return None
    highest = max(survey.qualities.values())
    bars = [
        {"quality": quality, "files": files, "height": _height(files, highest), "good": quality >= GOOD}
        for quality in range(1, 101)
        for files in [survey.qualities[quality]]
    ]
    foreign = survey.qualities.total() - survey.traits["exact"]
    return {"bars": bars, "files": survey.qualities.total(), "foreign": foreign, "good": GOOD}


def _height(value: float, highest: float) -> float:
    """Percent; what is not 0 can be seen."""
    return round(max(1.5, 100 * value / highest), 1) if value else 0.0


def _bands(bands: Sequence[BandTold]) -> list[Part]:
    known = [band for band in bands if band["quality"]]
    rest = [band for band in bands if not band["quality"]]
    most = max((band["files"] for band in bands), default=1)
    return [
        {
            "label": "{}–{}".format(*band["quality"]) if band["quality"] else "no JPEG",
            "files": band["files"],
            "width": _height(band["files"], most),
            "megapixels": figure(band["megapixels"]),
            "bef": "–" if band["bef_mean"] is None else figure(band["bef_mean"] * GREY_LEVELS),
            "before": f"{band['compressed_before']} of {band['looked_at']}" if band["looked_at"] else "–",
        }
        for band in (*known, *rest)
    ]


def _sizes(survey: Survey) -> Part | None:
    """Megapixels as bars on a logarithmic scale; None without a sound image."""
    if not survey.megapixels.count:
        return None
    bars = survey.megapixels.bars(BARS)
    highest = max(files for _, _, files in bars)
    low, high = bars[0][0], bars[-1][1]
    quantiles = [("Median", 0.5), ("95 % below", 0.95)]
    numbers = [(name, f"{figure(survey.megapixels.quantile(part))} MP") for name, part in quantiles]
    return {
        "bars": [{"low": a, "high": b, "files": files, "height": _height(files, highest)} for a, b, files in bars],
        "ticks": (low, math.sqrt(low * high), high),
        "numbers": [*numbers, ("Longest side", f"{whole(survey.widest)} pixels")],
    }


def _lists(summary: WholeSummary, survey: Survey) -> list[Part]:
    """Counts as rows with bars: formats, modes, subsampling, what lies beside the pixels."""
    sound, jpegs = survey.sound, survey.formats["JPEG"]
    beside = {text: summary["metadata"][name] for name, text in METADATA.items()}
    kinds = {"baseline": jpegs - survey.traits["progressive"], "progressive": survey.traits["progressive"]}
    tables = [
        ("Format, by content", summary["formats"], sound),
        ("Mode", summary["modes"], sound),
        ("JPEG subsampling", summary["jpeg"]["subsampling"], jpegs),
        ("JPEG kind", kinds, jpegs),
        ("Beside the pixels", beside, sound),
    ]
    return [{"name": name, "rows": _shares(rows, of)} for name, rows, of in tables if of]


def _shares(counts: Mapping[str, int], of: int) -> list[Part]:
    return [
        {"label": label, "files": files, "share": files / of, "width": _height(files, of)}
        for label, files in counts.items()
    ]


def _cost(cost: Cost) -> Part:
    """Rows of what is to be restored, and in them (hours, money) of each kind of machine that is told."""
    measured, stated = cost.get("measured") or {"pieces": 0}, cost.get("stated")
    rows: list[Part] = []
    for label, below in (("Every sound image", ""), (f"Without JPEGs of quality {GOOD} and more", "_below_good")):
        here, money = measured.get(f"hours{below}"), measured.get(f"cost{below}")
        gpu, gpu_money = (stated and stated.get(f"{name}{below}") for name in ("gpu_hours", "gpu_cost"))
        rows.append(
            {
                "label": label,
                "megapixels": figure(cost[f"megapixels{below}"]),
                "hours": "–" if here is None else duration(3600 * here),
                "cost": money and figure(money),
                "gpu_hours": "–" if gpu is None else figure(gpu),
                "gpu_cost": gpu_money and figure(gpu_money),
            }
        )
    return {"rows": rows, "measured": measured if "hours" in measured else None, "stated": stated or {}}


def _example(row: SurveyRow, data: bytes) -> Part | None:
    """The middle of a picture, as it is; None where it cannot be decoded."""
    try:
        width, height = row["width"] or 0, row["height"] or 0
        rgb = decode(data, row["key"], width * height).rgb8
    except BadImage as error:
        log.info("report: no picture: %s %s", error, log_tags(key=row["key"]))
        return None
    wide, high = min(CROP[0], rgb.shape[1]), min(CROP[1], rgb.shape[0])
    top, left = (rgb.shape[0] - high) // 16 * 8, (rgb.shape[1] - wide) // 16 * 8
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(rgb[top : top + high, left : left + wide])).save(buffer, "WEBP", lossless=True)
    facts = [("Format", row["format"] or ""), ("Size", f"{whole(width)} × {whole(height)}")]
    if row["subsampling"]:
        facts.append(("Subsampling", row["subsampling"]))
    if row["bef"] is not None:
        facts.append(("Blockiness", figure(row["bef"] * GREY_LEVELS)))
    if row["earlier"]:
        facts.append(("Before", f"quality ≈ {row['earlier_quality']}, {row['earlier']}"))
    uri = f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return {"key": row["key"], "quality": row["quality"], "src": uri, "facts": facts}


def _settings(document: RunDocument, result: Result) -> list[tuple[str, str]]:
    settings = document["settings"]
    versions = ", ".join(f"{name} {number}" for name, number in document["versions"].items() if number)
    return [
        ("Pixels", settings["pixels"]),
        ("Share decoded", share(document["identity"]["share"])),
        ("Seed", str(settings["seed"])),
        ("Largest image allowed", f"{whole(settings['max_pixels'])} pixels"),
        ("Time of the last attempt", duration(result["seconds"])),
        ("Begun", document["created"].replace("T", " ").replace("+00:00", " UTC")),
        ("Fingerprint", document["fingerprint"]),
        ("Versions", versions),
    ]


def _bytes(size: int) -> tuple[str, str]:
    """A number and its unit."""
    power = min(4, max(0, int(math.log10(max(1, size)) // 3)))
    return figure(size / 1000**power), ("B", "kB", "MB", "GB", "TB")[power]


def _time(hours: float) -> tuple[str, str]:
    """A number and its unit."""
    if hours < 1:
        return figure(60 * hours), "min"
    return (figure(hours), "h") if hours < 48 else (figure(hours / 24), "days")


def _count(number: int, thing: str) -> str:
    return f"{whole(number)} {thing}{'s' * (number != 1)}"
