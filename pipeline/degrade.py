"""The degrade job: JPEG copies of clean images, as an evaluation makes them, for tests and for other tools.

The copies lie below images/, and where there are several conditions below images/<condition>. What a shift crops off a
reference before its second compression stands in the ledger; an evaluation with the same seed crops it too.
"""

import hashlib
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pyarrow as pa

from driftrec.errors import DriftRecError, Failed, InvalidInput, Reason
from driftrec.image import Picture, decode
from pipeline.cluster.graph import Graph, Pool, work_through
from pipeline.evaluate.conditions import NONE, Condition, conditions_of, crop_of, damage, reference_of
from pipeline.evaluate.settings import DegradeSettings
from pipeline.inputs.listing import Listing, list_input
from pipeline.inputs.location import check_apart
from pipeline.inputs.names import output_name
from pipeline.job import carry_out, dry_run, finished_shards
from pipeline.runs.documents import Result, most_shards
from pipeline.runs.ends import Answer
from pipeline.runs.ledger import IMAGES, OK, Float32, Int16, Int32, Int64, Name, Row, Text, blank, failure, schema_of
from pipeline.runs.run import Run, finish, open_run
from pipeline.runs.settling import WRITE
from pipeline.runs.stage import ShardStage, explain
from pipeline.runs.threads import pooled
from pipeline.storage import open_store
from pipeline.storage.base import InTheWay, Store


class DegradeRow(Row):
    """A row of the ledger: one image under one condition."""

    condition: Name  # its slug, such as q10-420
    input_sha256: Text
    output: Text  # name in OUTPUT; null where failed
    output_sha256: Text
    bytes: Int64  # of the output
    width: Int32  # pixels of the output
    height: Int32
    quality: Int16
    second_quality: Int16  # null where it is compressed once
    subsampling: Text
    crop_y: Int16  # rows and columns cut off the top and left before the second compression
    crop_x: Int16
    seconds: Float32


SCHEMA = schema_of(DegradeRow)


class DegradeShard(ShardStage):
    """Damages the images of shards, one shard per call.

    Args:
        settings: of the run.
        conditions: how images are damaged.
        store: OUTPUT.
    """

    def __init__(self, settings: DegradeSettings, conditions: Sequence[Condition], store: Store) -> None:
        super().__init__(store, SCHEMA, repair=settings.repair)
        self.settings, self.conditions = settings, conditions
        self.threads = ThreadPoolExecutor(settings.threads, "image")

    def rows(self, shard: str, table: pa.Table) -> list[DegradeRow]:
        """The rows of a shard whose files are written, in the order of its images and the conditions."""
        listed = [row for row in range(table.num_rows) if table["key"][row].is_valid]
        images = pooled(self.threads, lambda row: self._image(table, row), listed, 2 * self.settings.threads)
        return [row for rows in images for row in rows]

    def _image(self, table: pa.Table, row: int) -> list[DegradeRow]:
        key, reason = table["key"][row].as_py(), table["reason"][row].as_py()
        if reason:
            failed = Failed(key, "read", Reason(reason), table["detail"][row].as_py())
            return [failure(self._row(key, condition), failed) for condition in self.conditions]
        data: bytes = table["data"][row].as_py()
        digest = hashlib.sha256(data).hexdigest()
        rows: list[DegradeRow] = [{**self._row(key, one), "input_sha256": digest} for one in self.conditions]
        try:
            picture = decode(data, key, self.settings.max_pixels)
        except Exception as error:
            failed = Failed(key, "decode", *explain(error, key))
            return [failure(row, failed) for row in rows]
        return [self._write(row, picture, one) for row, one in zip(rows, self.conditions, strict=True)]

    def _row(self, key: str, condition: Condition) -> DegradeRow:
        """What is known before the image is looked at."""
        down, across = crop_of(key, condition, self.settings.seed)
        return {
            **blank(DegradeRow),
            "key": key,
            "condition": condition.slug,
            "quality": condition.quality,
            "second_quality": condition.second_quality,
            "subsampling": condition.subsampling,
            "crop_y": down,
            "crop_x": across,
        }

    def _write(self, row: DegradeRow, picture: Picture, condition: Condition) -> DegradeRow:
        begun, key = time.perf_counter(), row["key"]
        try:
            data = damage(picture, key, condition, self.settings.seed)
            height, width, _ = reference_of(picture, key, condition, self.settings.seed).shape
            name = output_of(key, condition, self.conditions)
            self.store.put(name, data)
        except InTheWay as error:
            return failure(row, Failed(key, WRITE, Reason.duplicate_name, str(error)))
        except DriftRecError:
            raise
        except Exception as error:
            return failure(row, Failed(key, "degrade", *explain(error, key)))
        return {
            **row,
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


def run_degrade(settings: DegradeSettings) -> Result:
    """Degrade an input, or what an earlier attempt has left of it. Gives what stands in _RESULT.json.

    Raises InvalidInput before anything is started, DriftRecError if the run fails; `_RESULT.json` tells of the latter.
    """
    conditions, listing = _found(settings)
    check_apart(listing.source, open_store(settings.output))
    rows = len(conditions)
    given = (settings.output, listing, settings.public(), settings.determining(), settings.max_failed)
    run = open_run("degrade", *given, schema=SCHEMA, rows_per_image=rows, repair=settings.repair)
    return carry_out(run, settings, partial(_attempt, run, settings, conditions), needs_ray=bool(run.todo))


def plan_degrade(settings: DegradeSettings) -> Answer:
    """What would be done. Raises InvalidInput as the run would; writes nothing."""
    conditions, listing = _found(settings)
    slugs = [condition.slug for condition in conditions]
    return dry_run("degrade", settings, listing, finished_shards(settings.output, listing), conditions=slugs)


def _found(settings: DegradeSettings) -> tuple[tuple[Condition, ...], Listing]:
    if settings.quality == (NONE,):
        raise InvalidInput("--quality none damages nothing; give qualities such as 10,30")
    conditions, name = conditions_of(settings), partial(output_name, wanted="jpeg")
    sizes, bound = (settings.shard_bytes, settings.shard_images, settings.limit), most_shards(settings.output)
    listing = list_input(settings.input, *sizes, name, most_shards=bound, image_column=settings.image_column)
    return conditions, listing.bounded(settings.max_file_bytes)


def _attempt(run: Run, settings: DegradeSettings, conditions: Sequence[Condition]) -> Result:
    if run.todo:
        pool = Pool.fit(settings.actors, None, 0.0, len(run.todo))
        arguments = (settings, conditions, run.store)
        graph = Graph(DegradeShard, arguments, pool, partial(output_name, wanted="jpeg"))
        work_through(run, graph, settings.progress_s)
    return finish(run, {"conditions": [condition.slug for condition in conditions]})
