"""The report of a restore run: the ledger's counts and distributions, and some before and after pairs, as one page.

Memory is bounded: the ledger passes by part after part, and of the images only those on the page are read again.
"""

import json
import logging
import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from driftrec.errors import MEANING, DriftRecError
from pipeline.inputs.listing import list_input
from pipeline.inputs.selection import choice_of
from pipeline.inputs.shards import Shard
from pipeline.reports.before_after import Piece, load_pieces
from pipeline.reports.page import GREY_LEVELS, Part, duration, figure, render, tile, whole
from pipeline.restore.summary import QUALITY_BAND, Band, Summary
from pipeline.runs.documents import Result, RunDocument
from pipeline.runs.ledger import FAILED, OK, READERS, RESULT, RUN, SKIPPED, Ledger, RestoreRow, rows_in
from pipeline.runs.reporter import PAGE
from pipeline.runs.threads import pooled
from pipeline.settings import Values
from pipeline.storage import open_store
from pipeline.storage.base import NotFound, Store

log = logging.getLogger(__name__)

MAX_PAIRS = 24
MAX_BARS = 26
LAYOUTS = {
    "tree": "the tree of the input",
    "tar": "one tar per shard",
    "webdataset": "one tar per shard, with what lay beside the images",
}
COLUMNS = (
    *("key", "status", "reason", "detail", "stage", "input_sha256", "output", "width", "height", "mode"),
    *("quality", "nfe", "seconds", "bef_before", "bef_after"),
)


def write_restore_report(
    input_url: str,
    output_url: str,
    shards: Sequence[Shard] | None = None,
    result: Result | None = None,
) -> None:
    """Write report.html into the OUTPUT of a restore run.

    Args:
        input_url: what was restored; at most 24 images are read again for the before and after pairs.
        output_url: where run.json and the ledger are, and where the page goes.
        shards: the listing of the input, if the caller has it; else the input is listed again.
        result: the run's result, if the caller has it; else _RESULT.json, or no run time on the page without that.
    """
    store = open_store(output_url)
    run: RunDocument = json.loads(store.read(RUN))
    summary = _summarize(Ledger(store))
    chosen = summary.chosen()
    if shards is None:
        shards = _list_again(input_url, run["settings"], run["input"].get("most_shards"))
    pieces = load_pieces({shard.id: shard for shard in shards}, store, chosen)
    contents = _contents(run, store.url, summary, pieces, result or _result(store))
    store.put(PAGE, render("restore.html", contents).encode())


def _summarize(ledger: Ledger) -> Summary:
    """One pass over all parts; only counters and the sample stay."""
    summary = Summary(MAX_PAIRS)

    def read(shard: str) -> tuple[str, list[RestoreRow]]:
        return shard, rows_in(ledger.read_part(shard, COLUMNS), RestoreRow)

    with ThreadPoolExecutor(READERS) as pool:
        for shard, rows in pooled(pool, read, sorted(ledger.committed()), 2 * READERS):
            summary.add(shard, rows)
    return summary


def _list_again(url: str, settings: Values, bound: int | None) -> Sequence[Shard]:
    """The shards as the run listed them. A report without pictures is better than none where the input is gone."""
    try:
        patterns = settings.get("include") or (), settings.get("exclude") or ()
        choice = choice_of(*patterns, settings.get("only_listed"))
        sizes = settings["shard_bytes"], settings["shard_images"], settings["limit"]
        cut, column = settings.get("layout") != "webdataset", settings.get("image_column")
        return list_input(
            url, *sizes, choice=choice, cut_tars=cut, most_shards=bound, image_column=column
        ).shards
    except DriftRecError as error:
        log.warning("report: %s", error)
        return []


def _result(store: Store) -> Result | None:
    try:
        return json.loads(store.read(RESULT))
    except NotFound:
        return None


def _contents(
    run: RunDocument,
    output: str,
    summary: Summary,
    pieces: Sequence[tuple[RestoreRow, Piece]],
    result: Result | None,
) -> Part:
    """All that the template names."""
    restored, images = summary.count(OK), summary.count()
    return {
        "version": run["versions"]["driftrec"] or "(not installed)",
        "headline": f"{whole(restored)} of {whole(images)} images restored",
        "input": run["input"]["url"],
        "output": output,
        "model": run["settings"]["model"],
        "tiles": _tiles(summary, result),
        "statuses": [(name, summary.count(name)) for name in (OK, FAILED, SKIPPED) if summary.count(name)],
        "outcomes": _outcomes(summary),
        "pairs": [_pair(row, piece) for row, piece in pieces],
        "pairs_note": _pairs_note(len(pieces), restored),
        "restored": restored,
        "bands": _bands(summary),
        "timing": _timing(summary),
        "failures": summary.failures,
        "failures_total": summary.count(FAILED),
        "copied": run["settings"].get("copy_failed", False),
        "settings": _settings(run),
        "run_json": json.dumps(run, indent=2, ensure_ascii=False),
    }


def _tiles(summary: Summary, result: Result | None) -> list[dict[str, str]]:
    """The headline numbers."""
    tiles = [tile("Restored", whole(summary.count(OK)), f"of {whole(summary.count())}")]
    tiles.append(tile("Failed", whole(summary.count(FAILED)), tone="bad" if summary.count(FAILED) else ""))
    if summary.count(SKIPPED):
        tiles.append(tile("Skipped", whole(summary.count(SKIPPED))))
    if result and result.get("images_this_attempt"):
        again = bool(result["shards"]["resumed"])
        tiles.append(tile("Time of the last attempt" if again else "Time", duration(result["seconds"])))
        tiles.append(tile("Images per second", figure(result["images_per_second"])))
        tiles.append(tile("Megapixels per second", figure(result["megapixels_per_second"])))
        if result["idle_share"] is not None:
            tiles.append(tile("Workers waited for data", f"{100 * result['idle_share']:.1f} %"))
    if summary.count(OK):
        tiles.append(tile("Evaluations per image", figure(summary.nfe / summary.count(OK))))
    tiles.append(tile("Megapixels restored", figure(summary.pixels / 1e6)))
    before, after = _mean_bef(summary.bands.values())
    if before:
        change = f"{100 * (after / before - 1):+.0f} %".replace("-", "−")
        tiles.append(tile(f"Blockiness, {figure(before)} → {figure(after)}", change))
    return tiles


def _mean_bef(bands: Iterable[Band]) -> tuple[float, float]:
    """Mean BEF before and after, in squared grey levels; zeros if nothing was measured."""
    bands = list(bands)
    measured = sum(band.measured for band in bands) or math.inf
    before, after = sum(band.bef_before for band in bands), sum(band.bef_after for band in bands)
    return before / measured * GREY_LEVELS, after / measured * GREY_LEVELS


def _outcomes(summary: Summary) -> list[Part]:
    """A row per status and reason: ok first, then the most frequent."""
    found = sorted(summary.outcomes.items(), key=lambda item: (item[0][0] != OK, -item[1], item[0]))
    return [
        {
            "status": status,
            "reason": reason,
            "meaning": "Restored and written." if status == OK else MEANING.get(reason, ""),
            "images": images,
            "share": images / summary.count(),
        }
        for (status, reason), images in found
    ]


def _pairs_note(shown: int, restored: int) -> str:
    """Which images are shown, and how."""
    if not shown:
        return "The inputs could not be read again: they are gone or have changed. So no pictures are shown."
    which = f"All {whole(restored)} restored images"
    if shown < restored:
        which = (
            f"{whole(shown)} of {whole(restored)} restored images, drawn evenly over the quality of the inputs "
            "and by name alone, not by how they turned out"
        )
    return (
        f"{which}; lowest quality first. The input is embedded without loss, the restored side as JPEG of quality "
        "95 (4:4:4). Drag across a picture, or focus it and use the arrow keys."
    )


def _pair(row: RestoreRow, piece: Piece) -> Part:
    """One figure: the two sides and a line of facts."""
    width, height, mode = row["width"] or 0, row["height"] or 0, row["mode"] or ""
    facts = [("Size", f"{whole(width)} × {whole(height)}")]
    if mode != "RGB":
        facts.append(("Mode", mode))
    if row["quality"] is not None:
        facts.append(("JPEG quality", f"≈ {row['quality']}"))
    if row["bef_before"] is not None and row["bef_after"] is not None:
        before, after = (figure(bef * GREY_LEVELS) for bef in (row["bef_before"], row["bef_after"]))
        facts.append(("Blockiness", f"{before} → {after}"))
    if row["nfe"] is not None:
        facts.append(("NFE", whole(row["nfe"])))
    if row["seconds"] is not None:
        facts.append(("Time", f"{figure(row['seconds'])} s"))
    facts.append(("Shown", piece.describe(width, height)))
    return {"key": row["key"], "before": piece.before, "after": piece.after, "facts": facts}


def _bands(summary: Summary) -> list[Part]:
    """Mean blockiness by quality of the input, unknown last, then of all; widths in percent of the largest."""
    bands = [(_band_label(top), [band]) for top, band in sorted(summary.bands.items()) if top]
    if 0 in summary.bands:
        bands.append((_band_label(0), [summary.bands[0]]))
    if len(bands) > 1:
        bands.append(("All", list(summary.bands.values())))
    rows = [(label, sum(band.measured for band in group), *_mean_bef(group)) for label, group in bands]
    largest = max((value for row in rows for value in row[2:]), default=0) or 1
    return [
        {
            "label": label,
            "images": images,
            "before": before,
            "after": after,
            "before_width": _percent(before, largest),
            "after_width": _percent(after, largest),
        }
        for label, images, before, after in rows
        if images
    ]


def _percent(value: float, whole_length: float, least: float = 0.0) -> float:
    """Length of a bar; what is not 0 has at least `least`, to be seen."""
    return round(max(least, 100 * value / whole_length), 1) if value else 0.0


def _band_label(top: int) -> str:
    return f"{top - QUALITY_BAND + 1}–{top}" if top else "not known"


def _timing(summary: Summary) -> Part | None:
    """Seconds per image as bars and numbers; None if nothing was timed."""
    seconds = summary.seconds
    if not seconds.count:
        return None
    bars = seconds.bars(MAX_BARS)
    highest = max(images for _, _, images in bars)
    low, high = bars[0][0], bars[-1][1]
    median, p95 = seconds.quantile(0.5), seconds.quantile(0.95)
    numbers = [("Median", median), ("95 % below", p95), ("Mean", seconds.mean)]
    return {
        "bars": [
            {"low": start, "high": end, "images": images, "height": _percent(images, highest, least=1.5)}
            for start, end, images in bars
        ],
        "low": low,
        "middle": math.sqrt(low * high),
        "high": high,
        "median": median,
        "p95": p95,
        "numbers": [(name, f"{figure(value)} s") for name, value in numbers],
    }


def _settings(run: RunDocument) -> list[tuple[str, str]]:
    """What determined the bytes, in words."""
    settings, versions = run["settings"], run["versions"]
    by_model = "as the model says"
    return [
        ("Model", settings["model"]),
        ("Sampler", settings["sampler"]),
        ("Steps", by_model if settings["steps"] is None else whole(settings["steps"])),
        ("Samples averaged", whole(settings["samples"])),
        ("Fidelity (0 sample, 1 mean)", by_model if settings["fidelity"] is None else f"{settings['fidelity']:g}"),
        ("Outputs", LAYOUTS[settings.get("layout", "tree")]),
        ("Colour correction", "on" if settings["color_correction"] else "off"),
        ("Seed", str(settings["seed"])),
        ("Output format", settings["format"]),
        ("Begun", run["created"].replace("T", " ").replace("+00:00", " UTC")),
        ("Versions", ", ".join(f"{name} {number}" for name, number in versions.items() if number)),
        ("Fingerprint", run["fingerprint"]),
    ]
