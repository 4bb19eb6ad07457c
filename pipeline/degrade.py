"""The degrade job: JPEG copies of clean images, as an evaluation makes them, for tests and for other tools.

The copies lie below images/, and where there are several conditions below images/<condition>. What a shift crops off a
reference before its second compression stands in the ledger; an evaluation with the same seed crops it too.
"""

import hashlib
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pyarrow as pa

from driftrec.errors import DriftRecError, Failed, InvalidInput, Reason
from driftrec.image import Picture, decode
from pipeline.cluster.graph import Graph, Pool, work_through
from pipeline.evaluate.conditions import NONE, Condition, conditions_of, crop_of, damage, reference_of
from pipeline.evaluate.settings import DegradeSettings
from pipeline.evaluate.stage import failure
from pipeline.inputs.listing import Listing, list_input
from pipeline.inputs.location import check_apart
from pipeline.inputs.names import output_name
from pipeline.job import carry_out, dry_run, finished_shards
from pipeline.runs.ledger import IMAGES, OK
from pipeline.runs.run import Run, finish, open_run
from pipeline.runs.settling import WRITE
from pipeline.runs.stage import ShardStage, explain
from pipeline.runs.threads import pooled
from pipeline.storage import open_store
from pipeline.storage.base import InTheWay, Store

SCHEMA = pa.schema(
    [
        ("key", pa.string()),  # the image's name in the input; unsafe characters escaped
        ("condition", pa.string()),  # its slug, such as q10-420
        ("status", pa.string()),  # ok | failed
        ("reason", pa.string()),  # of driftrec.errors.Reason; null where ok
        ("detail", pa.string()),  # one line for people; a note where ok
        ("stage", pa.string()),  # where it failed: read, decode, degrade; null where ok
        ("input_sha256", pa.string()),
        ("output", pa.string()),  # name in OUTPUT; null where failed
        ("output_sha256", pa.string()),
        ("bytes", pa.int64()),  # of the output
        ("width", pa.int32()),  # pixels of the output
        ("height", pa.int32()),
        ("quality", pa.int16()),
        ("second_quality", pa.int16()),  # null where it is compressed once
        ("subsampling", pa.string()),
        ("crop_y", pa.int16()),  # rows and columns cut off the top and left before the second compression
        ("crop_x", pa.int16()),
        ("seconds", pa.float32()),
    ]
)


class DegradeShard(ShardStage):
    """Damages the images of shards, one shard a call.

    Args:
        settings: of the run.
        conditions: how images are damaged.
        store: OUTPUT.
    """

    def __init__(self, settings: DegradeSettings, conditions: Sequence[Condition], store: Store) -> None:
        super().__init__(store, SCHEMA, repair=settings.repair)
        self.settings, self.conditions = settings, conditions
        self.threads = ThreadPoolExecutor(settings.threads, "image")

    def rows(self, shard: str, table: pa.Table) -> list[dict[str, Any]]:
        """The rows of a shard whose files are written, in the order of its images and the conditions."""
        listed = [row for row in range(table.num_rows) if table["key"][row].is_valid]
        images = pooled(self.threads, lambda row: self._image(table, row), listed, 2 * self.settings.threads)
        return [row for rows in images for row in rows]

    def _image(self, table: pa.Table, row: int) -> list[dict[str, Any]]:
        key, reason = table["key"][row].as_py(), table["reason"][row].as_py()
        if reason:
            failed = failure(Failed(key, "read", Reason(reason), table["detail"][row].as_py()))
            return [self._row(key, condition) | failed for condition in self.conditions]
        data: bytes = table["data"][row].as_py()
        known = {"input_sha256": hashlib.sha256(data).hexdigest()}
        try:
            picture = decode(data, key, self.settings.max_pixels)
        except Exception as error:
            known |= failure(Failed(key, "decode", *explain(error)))
            return [self._row(key, condition) | known for condition in self.conditions]
        return [self._row(key, one) | known | self._write(key, picture, one) for one in self.conditions]

    def _row(self, key: str, condition: Condition) -> dict[str, Any]:
        down, across = crop_of(key, condition, self.settings.seed)
        return {
            "key": key,
            "condition": condition.slug,
            "quality": condition.quality,
            "second_quality": condition.second_quality,
            "subsampling": condition.subsampling,
            "crop_y": down,
            "crop_x": across,
        }

    def _write(self, key: str, picture: Picture, condition: Condition) -> dict[str, Any]:
        begun = time.perf_counter()
        try:
            data = damage(picture, key, condition, self.settings.seed)
            height, width, _ = reference_of(picture, key, condition, self.settings.seed).shape
            name = output_of(key, condition, self.conditions)
            self.store.put(name, data)
        except InTheWay as error:
            return failure(Failed(key, WRITE, Reason.duplicate_name, str(error)))
        except DriftRecError:
            raise
        except Exception as error:
            return failure(Failed(key, "degrade", *explain(error)))
        return {
            "status": OK,
            "detail": picture.note or None,
            "output": name,
            "output_sha256": hashlib.sha256(data).hexdigest(),
            "bytes": len(data),
            "width": width,
            "height": height,
            "seconds": time.perf_counter() - begun,
        }


def output_of(key: str, condition: Condition, conditions: Sequence[Condition]) -> str:
    """Where the copy of an image lies."""
    folder = f"{IMAGES}/{condition.slug}" if len(conditions) > 1 else IMAGES
    return f"{folder}/{output_name(key, 'jpeg')}"


def run_degrade(settings: DegradeSettings) -> dict[str, Any]:
    """Degrade an input, or what an earlier attempt has left of it. Gives what stands in _RESULT.json.

    Raises InvalidInput before anything is started, DriftRecError if the run fails; `_RESULT.json` tells of the latter.
    """
    conditions, listing = _found(settings)
    check_apart(listing.source, open_store(settings.output))
    rows = len(conditions)
    given = (settings.output, listing, settings.public(), settings.determining(), settings.max_failed)
    run = open_run("degrade", *given, schema=SCHEMA, rows_per_image=rows, repair=settings.repair)
    return carry_out(run, partial(_attempt, run, settings, conditions), needs_ray=bool(run.todo))


def plan_degrade(settings: DegradeSettings) -> dict[str, Any]:
    """What would be done. Raises InvalidInput as the run would; writes nothing."""
    conditions, listing = _found(settings)
    slugs = [condition.slug for condition in conditions]
    return dry_run("degrade", settings, listing, finished_shards(settings.output, listing), conditions=slugs)


def _found(settings: DegradeSettings) -> tuple[tuple[Condition, ...], Listing]:
    if settings.quality == (NONE,):
        raise InvalidInput("--quality none damages nothing; give qualities such as 10,30")
    conditions, name = conditions_of(settings), partial(output_name, wanted="jpeg")
    listing = list_input(settings.input, settings.shard_bytes, settings.shard_images, settings.limit, name)
    return conditions, listing.bounded(settings.max_file_bytes)


def _attempt(run: Run, settings: DegradeSettings, conditions: Sequence[Condition]) -> dict[str, Any]:
    if run.todo:
        pool = Pool.fit(settings.actors, None, 0.0, len(run.todo))
        arguments = (settings, conditions, run.store)
        graph = Graph(DegradeShard, arguments, pool, partial(output_name, wanted="jpeg"))
        work_through(run, graph, settings.progress_s)
    return finish(run, {"conditions": [condition.slug for condition in conditions]})
