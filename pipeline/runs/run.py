"""The life of a run: OUTPUT opened or refused, what is still to do, the final count check, _RESULT.json, the exit code.

Knows no Ray and no pixels. A run owns run.json, images/, shards/, ledger/, status.json and _RESULT.json below OUTPUT,
and nothing else.
"""

import json
import logging
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import cast

import pyarrow as pa

from driftrec.errors import DriftRecError, InvalidInput
from pipeline.inputs.listing import Listing
from pipeline.inputs.names import log_tags
from pipeline.inputs.shards import Shard
from pipeline.runs.changed_input import carry_over, gone, lacking, settle_gone
from pipeline.runs.claiming import claim, describe
from pipeline.runs.crashes import forget
from pipeline.runs.documents import (
    Lacking,
    Result,
    put_result,
    read_result,
)
from pipeline.runs.ends import Answer, Exit
from pipeline.runs.integrity import CHANGED, EXTRA, MISSING, noted
from pipeline.runs.ledger import (
    FAILED,
    FOLDER,
    GONE,
    IMAGES,
    OK,
    READERS,
    RESULT,
    SCHEMA,
    SHARDS,
    SKIPPED,
    Ledger,
    Tally,
    part_name,
    sweep,
)
from pipeline.runs.progress import COLUMNS, Effort, Known
from pipeline.runs.redo import keys_again
from pipeline.runs.settling import settle
from pipeline.runs.threads import pooled
from pipeline.runs.verify import BROKEN, DOUBLED, FOREIGN, look_through
from pipeline.settings import Values, allowed_failures
from pipeline.storage import open_store
from pipeline.storage.base import StorageError, Store

log = logging.getLogger(__name__)

LACKING = (MISSING, CHANGED, BROKEN, FOREIGN, DOUBLED)  # what a run that is finished does not have
REMEDY = "`driftrec verify` tells more; the same command with --repair does again what is missing or was changed"


@dataclass
class Run:
    """One attempt at one OUTPUT."""

    job: str
    store: Store
    ledger: Ledger
    listing: Listing
    max_failed: str
    fingerprint: str
    resumed: set[str] = field(default_factory=set)  # shards that an earlier attempt has finished
    again: dict[str, Shard] = field(default_factory=dict)  # of these, by id, those that this one goes back to
    statuses: Counter[str] = field(default_factory=Counter)  # of the shards finished in this attempt
    effort: Effort = field(default_factory=Effort)  # of this attempt
    rows_per_image: int = 1  # of the ledger
    folders: Sequence[str] = (IMAGES, SHARDS, FOLDER)  # that this job writes to
    allow_local: bool = False  # whether paths are the same folder on all nodes
    at_end: Sequence[str] = ()  # files that it leaves beside _RESULT.json
    by_shard: Sequence[str] = ()  # folders in which it leaves a file beside each ledger part
    repair: bool = False  # outputs that lack, or were changed, are done again
    known: Known = field(default_factory=Known)  # of all attempts
    price_per_hour: float | None = None  # of the whole cluster
    cost_before: float = 0.0  # of earlier attempts
    started: float = field(default_factory=time.monotonic)
    working: float | None = None  # since when shards are in work; as `started` by the monotonic clock

    @property
    def cost(self) -> float | None:
        """Of this attempt so far; None where the price is not known."""
        return self.price_per_hour and self.price_per_hour * (time.monotonic() - self.started) / 3600

    @property
    def todo(self) -> list[Shard]:
        """The shards without a part when this attempt began, and those that it goes back to."""
        return [self.again.get(shard.id, shard) for shard in self.listing.shards if shard.id not in self.resumed]


def open_run(
    job: str,
    output: str,
    listing: Listing,
    settings: Values,
    identity: Values,
    max_failed: str = "0",
    *,
    schema: pa.Schema = SCHEMA,
    rows_per_image: int = 1,
    folders: Sequence[str] = (IMAGES, SHARDS, FOLDER),
    at_end: Sequence[str] = (),
    by_shard: Sequence[str] = (),
    retry: str | None = None,
    repair: bool = False,
    follows: bool = False,
) -> Run:
    """Open OUTPUT for a new run, or to go on with one of the same fingerprint.

    Args:
        job: "restore", ...
        output: path or URL.
        listing: the input.
        settings: all resolved settings, to be kept in run.json; without secrets.
        identity: what determines the output's bytes and shards (settings, weights). With the input and the code's
            version it is the run's fingerprint.
        max_failed: failed images that are still a success, "N" or "P%".
        schema: of the ledger.
        rows_per_image: that the ledger is to have.
        folders: below OUTPUT, where the job writes and the end of a run sweeps.
        at_end: files that the job leaves beside _RESULT.json, without which it is not finished.
        by_shard: folders in which it leaves a file beside each ledger part, of the part's name and written before it.
        retry: images that failed for this reason are to be done again; "all" for any.
        repair: likewise those whose output is missing, or is not what its row says.
        follows: whether files of the input may come, go and be replaced: see `runs.changed_input`.

    Raises InvalidInput if OUTPUT cannot be written, belongs to a run of another fingerprint, or holds foreign data.
    """
    document = describe(job, listing, settings, identity)
    document["noted_parts"], document["leaves"] = True, {"at_end": list(at_end), "by_shard": list(by_shard)}
    try:
        store = open_store(output)
        claim(store, document, follows=follows)
        given = (job, store, Ledger(store, schema), listing, max_failed, document["fingerprint"])
        run = Run(*given, rows_per_image=rows_per_image, folders=folders, at_end=at_end, by_shard=by_shard)
        run.allow_local, run.repair = bool(settings.get("allow_local")), repair
        run.price_per_hour = settings.get("price_per_hour")
        _look_at_earlier(run, retry)
    except StorageError as error:
        raise InvalidInput(f"OUTPUT {error}") from None
    return run


def _look_at_earlier(run: Run, retry: str | None) -> None:
    """Find what earlier attempts have left to do, and make ready for it."""
    if run.ledger.run.earlier:
        carry_over(run.ledger, run.listing, run.ledger.committed())
        run.listing = replace(run.listing, shards=[*run.listing.shards, *gone(run.ledger, run.listing)])
    run.resumed = _resumed(run)
    run.again = _again(run, retry)
    run.resumed -= run.again.keys()
    if run.todo:
        forget(run.store)
        run.store.remove(RESULT)  # it speaks of an earlier attempt


def _resumed(run: Run) -> set[str]:
    """The shards that an earlier attempt has finished. Parts that are no use are told of, and removed; those that are
    not of this run's shards stay, and `finish` will not end with them.
    """
    committed = run.ledger.committed()
    ours = committed & {shard.id for shard in run.listing.shards}
    for shard in sorted(committed - ours):
        about = log_tags(run=run.fingerprint, shard=shard)
        log.warning("%s is of no shard of this run: move it away %s", run.store.where(part_name(shard)), about)
    lone: dict[str, str] = {}
    for folder in run.by_shard:
        there = {name.rpartition("/")[2] for name, _ in run.store.found(folder)}
        lone |= {shard: f"there is no {folder}/{shard}.parquet" for shard in ours if f"{shard}.parquet" not in there}
    no_use = run.ledger.spoilt(ours - lone.keys(), run.known.add_part) | lone
    for shard, why in sorted(no_use.items()):
        place, about = run.store.where(part_name(shard)), log_tags(run=run.fingerprint, shard=shard)
        log.warning("%s is no use: %s; its shard is done again %s", place, why, about)
        run.ledger.remove(shard)
    return ours - no_use.keys()


def _again(run: Run, retry: str | None) -> dict[str, Shard]:
    """Of the finished shards those to go back to: with images to try again, or with an output that another has."""
    finished = [shard for shard in run.listing.shards if shard.id in run.resumed]
    again: dict[str, Shard] = {}
    if len(finished) == len(run.listing.shards) and _finished_result(run) is None:
        disputed = settle(run.ledger, finished, run.listing.output_name, run.by_shard)
        again = {shard.id: shard for shard in disputed}
        if again:
            run.known = Known.of(run.ledger, run.resumed - again.keys())
    look = retry or run.repair or run.ledger.run.earlier
    left = [shard for shard in finished if shard.id not in again | {GONE: None}] if look else []
    with ThreadPoolExecutor(READERS) as pool:
        keys_of = pooled(pool, lambda shard: _keys_again(run, shard, retry), left, 2 * READERS)
        narrowed = [(shard.id, shard.narrowed(keys), keys) for shard, keys in zip(left, keys_of, strict=True) if keys]
    for shard_id, _, keys in narrowed:
        run.known.leave_out(run.ledger.read_part(shard_id, COLUMNS), keys)
    return again | {shard_id: shard for shard_id, shard, _ in narrowed}


def _keys_again(run: Run, shard: Shard, retry: str | None) -> frozenset[str]:
    again = lacking(run.ledger, shard) if run.ledger.run.earlier else frozenset[str]()
    if retry or run.repair:
        again |= keys_again(run.store, run.ledger.read_part(shard.id).to_pylist(), retry, run.repair)
    return again


def earlier_result(run: Run) -> Result | None:
    """The result of the run if it was finished before and nothing is left to do.

    It is "done" only if the outputs are there, by name and size; else it is "incomplete", and tells what lacks.
    """
    if run.todo or not (result := _finished_result(run)):
        return None
    return {**result, **_lacking(run)}


def _finished_result(run: Run) -> Result | None:
    result = read_result(run.store)
    finished = result.get("state") == "done" and result.get("fingerprint") == run.fingerprint
    return cast(Result, result) if finished and all(run.store.exists(name) for name in run.at_end) else None


def _lacking(run: Run) -> Lacking:
    """For the result of a run whose shards are all done: what it says if outputs lack; nothing if none does."""
    found, _ = look_through(run.store, run.ledger, quick=True)
    if run.repair and (words := found.in_words((EXTRA,))):
        log.warning("%s; they stay", words)
    if not (words := found.in_words(LACKING)):
        return {}
    log.warning("%s is done, but not all of it is there: %s; %s", run.store.url, words, REMEDY)
    return {"state": "incomplete", "exit_code": int(Exit.INCOMPLETE), **found.told()}


def finish(run: Run, told: Answer | None = None) -> Result:
    """The end of a run whose shards are all done: count, check, sweep, write _RESULT.json, with `told` in it.

    Raises DriftRecError if the count is off.
    """
    run = _without_what_came_back(run)
    tally = run.ledger.tally((shard.id for shard in run.listing.shards), run.rows_per_image)
    _check_count(run, tally)
    run.known = Known(len(run.listing.shards), tally.statuses, tally.reasons)
    swept = sweep(run.store, tally.outputs(), run.folders, strangers=not run.repair)
    if swept:
        log.info("removed %d leftovers of earlier attempts", swept)
    allowed = allowed_failures(run.max_failed, tally.images)
    code = Exit.TOO_MANY_FAILED if tally.statuses[FAILED] > allowed else Exit.DONE
    lacking = _lacking(run) if run.repair else {}
    leaves = {"leaves": {name: noted(run.store, name) for name in run.at_end}}
    return _write(run, code, tally.statuses, tally.reasons, {**(told or {}), **leaves, **lacking})


def _without_what_came_back(run: Run) -> Run:
    """The run, whose part GONE holds no image that a shard of it has."""
    if run.listing.shards[-1].id != GONE:
        return run
    left = settle_gone(run.ledger, run.listing.shards)
    shards = run.listing.shards[:-1] + [replace(shard, images=len(left)) for shard in run.listing.shards[-1:] if left]
    return replace(run, listing=replace(run.listing, shards=shards))


def with_file(run: Run, result: Result, name: str) -> Result:
    """The result, which now says of one more file what it is, in _RESULT.json too."""
    result = {**result, "leaves": {**result.get("leaves", {}), name: noted(run.store, name)}}
    run.store.put(RESULT, json.dumps(result, indent=2).encode())
    return result


def _check_count(run: Run, tally: Tally) -> None:
    expected = run.listing.images
    if strange := sorted(run.ledger.committed() - {shard.id for shard in run.listing.shards}):
        raise DriftRecError(
            f"{run.store.where(part_name(strange[0]))} is of no shard of this run ({len(strange)} such parts), so that "
            "images would count twice; move it away and run the same command again"
        )
    if tally.repeated:
        raise DriftRecError(
            f"{run.store.where(FOLDER)}: {tally.repeated} keys occur twice, or lack some of their rows; "
            "please report this"
        )
    if expected is not None and tally.images != expected:
        raise DriftRecError(
            f"{run.store.where(FOLDER)} has {tally.images} rows for {expected} listed images; please report this"
        )


def stop(run: Run, code: Exit, error: str | None = None) -> Result:
    """The end of a run that did not get through: _RESULT.json says so. Counts are those of this attempt."""
    return _write(run, code, run.statuses, Counter(), {}, error)


def _write(
    run: Run,
    code: Exit,
    statuses: Counter[str],
    reasons: Counter[str],
    told: Answer,
    error: str | None = None,
) -> Result:
    seconds = time.monotonic() - run.started
    images = run.statuses.total()
    done = len(run.resumed) + (len(run.todo) if code in (Exit.DONE, Exit.TOO_MANY_FAILED) else 0)
    common = {
        "fingerprint": run.fingerprint,
        "images": statuses.total(),
        "status": {name: statuses[name] for name in (OK, FAILED, SKIPPED)},
        "reasons": dict(sorted(reasons.items())),
        "ignored_files": dict(sorted(run.listing.ignored.items())),
        "shards": {"listed": len(run.listing.shards), "done": done, "resumed": len(run.resumed)},
        "seconds": round(seconds, 2),
        "images_this_attempt": images,
        "images_per_second": round(images / seconds, 3) if seconds else 0.0,
        **run.effort.told(seconds),
        **cost_told(run),
    }
    if (last := run.listing.shards[-1]).id == GONE:
        common["no_longer_in_input"] = last.images
    return cast(Result, put_result(run.store, run.job, code, {**common, **told}, error))


def cost_told(run: Run) -> Answer:
    """For the result: of this attempt and of those before; nothing where the price is not known."""
    return {} if run.cost is None else {"cost": round(run.cost, 4), "cost_before": round(run.cost_before, 4)}
