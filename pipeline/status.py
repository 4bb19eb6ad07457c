"""How far the run in an OUTPUT is, for `driftrec status`: its status.json, or what else tells of it, as one screen.

Reads a few files; needs no Ray and no PyTorch, and takes whatever those files hold.
"""

import math
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, cast

from pipeline.inputs.names import RUN_DIGITS, printable
from pipeline.runs.documents import Document, read_object, read_result, read_run
from pipeline.runs.ends import Answer
from pipeline.runs.ledger import FAILED, OK, SKIPPED, STATUS, Ledger
from pipeline.storage import open_store
from pipeline.storage.base import Store

RUNNING, UNKNOWN = "running", "unknown"
BAR = 40  # characters
LATE, SLACK_S = 3, 60.0  # news is old after so many times `status_s`, and this
OF_RESULT = ("seconds", "images", "status", "reasons", "images_this_attempt", "images_per_second")
OF_RESULT += ("megapixels_this_attempt", "megapixels_per_second", "workers", "images_by_node", "idle_share")
OF_RESULT += ("cost", "cost_before")


def status_of(output: str) -> Answer:
    """What is known of the run: what status.json says, `output`, `age_s` (None where nobody knows) and `is_old`:
    whether a run that is alive would have said more by now.

    Raises InvalidInput if OUTPUT is no run's, StorageError if storage does not answer.
    """
    store = open_store(output)
    document = read_run(store)
    told, result = read_object(store, STATUS), read_result(store)
    if told.get("fingerprint") != document["fingerprint"]:
        told = {}
    if result and told.get("state") != result.get("state"):  # it is written later, and removed when an attempt begins
        told |= _of_result(store, document, result)
    if not told:
        told = {"state": UNKNOWN, "shards": _shards(store, document)}
    known = {"job": document["job"], "fingerprint": document["fingerprint"], "output": store.url}
    age = _age(told)
    patience = LATE * (_number(told, "status_s") or 0.0) + SLACK_S
    is_old = told.get("state") == RUNNING and age is not None and age > patience
    return {**told, **known, "age_s": age, "is_old": is_old}


def _of_result(store: Store, document: Document, result: Document) -> Document:
    told = {name: result[name] for name in OF_RESULT if name in result}
    shards = _shards(store, document, all_done=result.get("state") == "done")
    return told | {"state": result.get("state"), "error": result.get("error"), "shards": shards, "seconds_left": None}


def _shards(store: Store, document: Document, all_done: bool = False) -> dict[str, int] | None:
    """By the parts that are there; None for a training, which has none."""
    if document["job"] == "train":
        return None
    listed = document["input"]["shards"]
    done = listed if all_done else min(listed, len(Ledger(store).committed()))
    return {"listed": listed, "done": done, "left": listed - done}


def screen(told: Answer) -> str:
    """One screen for people."""
    lines = [f"{told['job']} in {told['output']} (run {told['fingerprint'][:RUN_DIGITS]}): {_text(told.get('state'))}"]
    lines += [f"{name:<9} {words}" for name, words in _lines(told)]
    return "\n".join(printable(line) for line in lines)


def _lines(told: Answer) -> Iterator[tuple[str, str]]:
    if (listed := _number(told, "shards", "listed")) is not None:
        done = _number(told, "shards", "done") or 0
        share = done / listed if listed else 1.0
        filled = round(BAR * min(1.0, max(0.0, share)))
        yield "shards", f"[{'#' * filled}{'-' * (BAR - filled)}] {share:.0%}, {done:,.0f} of {listed:,.0f}"
    counts = [(name, _number(told, "status", name)) for name in (OK, FAILED, SKIPPED)]
    if any(count is not None for _, count in counts):
        listed = _number(told, "images_listed")
        of = f" of {listed:,.0f}" if listed is not None else ""
        yield "images", f"{_number(told, 'images') or 0:,.0f}{of}: " + _counts(counts)
    reasons = told.get("reasons")
    if isinstance(reasons, dict) and reasons:
        yield "reasons", _counts([(_text(name), _number(told, "reasons", name)) for name in cast(Document, reasons)])
    yield from _speed(told)
    if (left := _number(told, "seconds_left")) is not None and told.get("state") == RUNNING:
        yield "left", f"about {_time(left)}"
    if (cost := _number(told, "cost")) is not None:
        most, before = _number(told, "max_cost"), _number(told, "cost_before") or 0
        limit = "" if most is None else f"; the limit is {most:,.2f}"
        yield "cost", f"{cost:,.2f} this attempt, {before:,.2f} before{limit}"
    if told.get("error"):
        yield "error", _text(told["error"])
    yield from _age_lines(told)


def _speed(told: Answer) -> Iterator[tuple[str, str]]:
    images, pixels = (_number(told, f"{name}_per_second") for name in ("images", "megapixels"))
    if images is None or pixels is None:
        return
    yield "speed", f"{images:,.2f} images/s, {pixels:,.2f} megapixels/s in this attempt"
    last = [_number(told, "last_interval", name) for name in ("seconds", "images_per_second", "megapixels_per_second")]
    if told.get("state") == RUNNING and None not in last and (last[0] or 0) >= 1:  # less is no speed
        yield "", "{1:,.2f} images/s, {2:,.2f} megapixels/s in its last {0:,.0f} s".format(*last)
    workers, idle = _number(told, "workers"), _number(told, "idle_share")
    if workers:
        waited = "" if idle is None else f", waiting for {idle:.0%} of the time"
        yield "workers", f"{workers:,.0f}{waited}"


def _age_lines(told: Answer) -> Iterator[tuple[str, str]]:
    if told["age_s"] is None:
        yield "written", f"never: there is no {STATUS}, as where an older version, or a training, was at work"
    elif told["is_old"]:
        yield "written", f"{_time(told['age_s'])} ago: is it still running? If not, the same command goes on"
    else:
        yield "written", f"{_time(told['age_s'])} ago"


def _counts(counts: list[tuple[str, float | None]]) -> str:
    return ", ".join(f"{count:,.0f} {name}" for name, count in counts if count is not None)


def _age(told: Document) -> float | None:
    """Seconds since it was written; none where nobody says when, or that is no time."""
    try:
        written = datetime.fromisoformat(told["written"])
        return max(0.0, round((datetime.now(UTC) - written).total_seconds(), 1))
    except (KeyError, TypeError, ValueError):
        return None


def _number(told: Answer, *path: str) -> float | None:
    """What stands at this place, if that is a number that can be shown."""
    found: Any = told
    for name in path:
        found = cast(Document, found).get(name) if isinstance(found, dict) else None
    return found if isinstance(found, int | float) and -1e18 < found < 1e18 else None


def _text(value: object) -> str:
    return " ".join(str(value).split())[:1000]


def _time(seconds: float) -> str:
    """90 -> "2 min"."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.0f} {unit}" if seconds >= 10 * size else f"{seconds / size:.1f} {unit}"
    return f"{math.ceil(seconds)} s"
