"""The evaluate stage: a shard of clean images in, one row per image, condition and candidate out. Testable without Ray.

Threads have some images in work at once: one waits for its restorations while another is scored. How many pixels they
hold together is bounded; a shard's size is not felt.
"""

import hashlib
import threading
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from driftrec.errors import BadImage, DriftRecError, Failed, Reason
from driftrec.image import Picture, decode
from pipeline.evaluate.candidates import JPEG, Candidates, Files
from pipeline.evaluate.conditions import Condition, crop_of, damage, reference_of
from pipeline.evaluate.damaged import Damaged
from pipeline.evaluate.metrics import Plan
from pipeline.evaluate.model_pool import Output, Outputs, Restores
from pipeline.evaluate.set_features import REFERENCE, SetStates, crop_group
from pipeline.evaluate.settings import EvaluateSettings
from pipeline.inputs.names import output_name
from pipeline.inputs.shards import Incoming
from pipeline.runs.ledger import OK, Float32, Int16, Int32, Int64, Name, Row, Text, blank, failure, schema_of
from pipeline.runs.stage import ShardStage, explain
from pipeline.runs.threads import pooled
from pipeline.storage.base import StorageError, Store, is_of_object

PIXELS = 64_000_000  # of uint8 pictures that a scorer holds at once; one image alone may hold more

class ScoreRow(Row):
    """A row of the ledger: one candidate for one image under one condition. Metrics follow: see `metric_in`."""

    condition: Name  # its slug, such as q10-420
    candidate: Name
    reference_sha256: Text  # of the file
    reference_format: Text  # JPEG, PNG, ...: a reference that is a JPEG has lost something before
    reference_quality: Int16  # JPEG quality estimated from the reference's tables; null where it is no JPEG
    quality: Int16  # of the first JPEG of the condition; null where it damages nothing
    second_quality: Int16  # of the second; null where there is none
    subsampling: Text
    crop_y: Int16  # rows and columns cut off the reference's top and left before the second JPEG
    crop_x: Int16
    width: Int32  # pixels, of what is compared
    height: Int32
    jpeg_bytes: Int64  # of the damaged file
    nfe: Int32  # evaluations of the network; null where no model of ours restored
    seconds: Float32  # of restoring; null likewise. Not in the report: it differs from run to run


def ledger_schema(plan: Plan) -> pa.Schema:
    """Of a ledger part: ScoreRow, and one float64 column per metric; null where it does not apply."""
    return pa.schema([*schema_of(ScoreRow), *(pa.field(name, pa.float64()) for name in plan.columns)])


def metric_in(row: ScoreRow, column: str) -> float | None:
    """What a row says of a metric."""
    return cast(Mapping[str, Any], row)[column]


@dataclass(frozen=True)
class Scored:
    """One image, done."""

    key: str
    rows: list[ScoreRow]
    features: dict[tuple[str, str], dict[str, NDArray[np.float32]]] = field(default_factory=dict)  # (group, candidate)


class ScoreShard(ShardStage):
    """Damages, has restored, and scores the images of shards, one shard per call.

    Args:
        settings: of the run.
        conditions: how images are damaged.
        candidates: what is compared.
        plan: the metrics.
        restoring: who restores; None where no candidate is a model.
        store: OUTPUT.
        threads: images in work at once.
        damaged: where the damaged files are, if they are given; None: they are made.
    """

    def __init__(
        self,
        settings: EvaluateSettings,
        conditions: Sequence[Condition],
        candidates: Candidates,
        plan: Plan,
        restoring: Restores | None,
        store: Store,
        threads: int = 2,
        damaged: Damaged | None = None,
    ) -> None:
        super().__init__(store, ledger_schema(plan))
        torch.set_num_threads(1)  # more actors use more cores; and sums in one order give the same values everywhere
        self.settings, self.conditions, self.candidates, self.plan = settings, conditions, candidates, plan
        self.restoring, self.damaged = restoring, damaged
        self.files = {one.name: one for one in candidates.files}
        self.ahead, self.threads = 2 * threads, ThreadPoolExecutor(threads, "image")
        self.gate = Gate(PIXELS)
        try:
            self.meter = plan.load()
        except DriftRecError as error:
            self.broken = error

    def begin(self, shard: str, again: Collection[str]) -> None:
        self.shard, self.states = shard, SetStates(self.plan)

    def end(self) -> None:
        """Write what set metrics need beside the ledger."""
        if self.plan.sets:
            self.states.commit(self.store, self.shard)

    def rows(self, shard: str, table: pa.Table) -> list[ScoreRow]:
        """The rows of a shard, in the order of its images."""
        listed = [row for row in range(table.num_rows) if table["key"][row].is_valid]
        sound = [table["key"][row].as_py() for row in listed if not table["reason"][row].as_py()]
        self.given = self.damaged.find(shard, sound) if self.damaged else {}
        rows: list[ScoreRow] = []
        for image in pooled(self.threads, lambda row: self._image(table, row), listed, self.ahead):
            rows += image.rows
            self.states.add(image.key, image.features)
        return rows

    def _image(self, table: pa.Table, row: int) -> Scored:
        """All rows of one image."""
        key, reason = table["key"][row].as_py(), table["reason"][row].as_py()
        known: ScoreRow = {**blank(ScoreRow), "key": key}
        if reason:
            where = "" if reason in (Reason.crashed, Reason.timeout) else "read"
            return self._lost(known, Failed(key, where, Reason(reason), table["detail"][row].as_py()))
        data: bytes = table["data"][row].as_py()
        known["reference_sha256"] = hashlib.sha256(data).hexdigest()
        try:
            picture = decode(data, key, self.settings.max_pixels)
            known = {**known, "reference_format": picture.source_format, "detail": _note(picture)}
            known["reference_quality"] = picture.quality
        except Exception as error:
            return self._lost(known, Failed(key, "decode", *explain(error, key)))
        pixels, models = picture.width * picture.height, len(self.candidates.models)
        together = max(1, min(self.settings.batch_size, PIXELS // (2 * max(1, models) * pixels)))
        with self.gate.holding(pixels * (3 + models * together)):
            return ImageScorer(self, picture, known, self.given.get(key)).score(together)

    def _lost(self, known: ScoreRow, failed: Failed) -> Scored:
        """An image without a usable reference: every row says why."""
        rows = [
            failure(row_of(known, condition, candidate, (0, 0)), failed)
            for condition in self.conditions
            for candidate in self.candidates.names
        ]
        return Scored(failed.key, rows)


class ImageScorer:
    """One image on its way through all conditions and candidates."""

    def __init__(self, stage: ScoreShard, picture: Picture, known: ScoreRow, given: Incoming | None = None) -> None:
        self.stage, self.key, self.picture, self.known = stage, known["key"], picture, known
        self.given = given  # its damaged file; None where that is made
        self.seed = stage.settings.seed
        self.features: dict[tuple[str, str], dict[str, NDArray[np.float32]]] = {}
        self._expected: dict[int, int | None] = {}  # class by crop

    def score(self, together: int) -> Scored:
        """All rows, in the order of conditions and candidates; so many conditions are restored together."""
        rows: list[ScoreRow] = []
        conditions = self.stage.conditions
        for first in range(0, len(conditions), together):
            rows += self._some(conditions[first : first + together])
        return Scored(self.key, rows, self.features)

    def _some(self, conditions: Sequence[Condition]) -> Iterator[ScoreRow]:
        damaged = {one: self._damage(one) for one in conditions if self.given or one.quality is not None}
        restored = {model.name: self._restore(model.name, damaged) for model in self.stage.candidates.models}
        for condition in conditions:
            jpeg = damaged.get(condition)
            known: ScoreRow = {**self.known, "jpeg_bytes": len(jpeg) if isinstance(jpeg, bytes) else None}
            try:
                reference = reference_of(self.picture, self.key, condition, self.seed)
                self._reference_features(condition, reference)
            except Exception as error:
                reference = Failed(self.key, "degrade", *explain(error, self.key))
            for name in self.stage.candidates.names:
                row = row_of(known, condition, name, crop_of(self.key, condition, self.seed))
                yield self._pair(row, condition, name, reference, jpeg, restored)

    def _damage(self, condition: Condition) -> bytes | Failed:
        if self.given:
            return given_file(self.key, self.given)
        try:
            return damage(self.picture, self.key, condition, self.seed)
        except Exception as error:
            return Failed(self.key, "degrade", *explain(error, self.key))

    def _restore(self, model: str, damaged: dict[Condition, bytes | Failed]) -> dict[Condition, Output | Failed]:
        """What a model makes of the conditions' files; the noise is that of the file that `degrade` writes."""
        files = {condition: file for condition, file in damaged.items() if isinstance(file, bytes)}
        outputs: Outputs = []
        if files and self.stage.restoring:
            outputs = self.stage.restoring.restore(model, list(files.values()), output_name(self.key, "jpeg"))
        failed = {condition: file for condition, file in damaged.items() if isinstance(file, Failed)}
        return failed | dict(zip(files, outputs, strict=True))

    def _pair(
        self,
        row: ScoreRow,
        condition: Condition,
        name: str,
        reference: NDArray[np.uint8] | Failed,
        jpeg: bytes | Failed | None,
        restored: dict[str, dict[Condition, Output | Failed]],
    ) -> ScoreRow:
        """The row with what it says of one candidate."""
        if isinstance(reference, Failed):
            return failure(row, reference)
        row = {**row, "width": reference.shape[1], "height": reference.shape[0]}
        try:
            if name == JPEG:
                most = self.stage.settings.max_pixels
                made = jpeg if isinstance(jpeg, Failed) else decode(jpeg or b"", max_pixels=most).rgb8
            elif name in restored:
                made = restored[name][condition]
            else:
                made = self._partner(self.stage.files[name], condition)
        except BadImage as error:
            made = Failed(self.key, "decode", error.reason, f"the candidate: {error.detail}")
        if isinstance(made, Output):
            row = {**row, "nfe": made.nfe, "seconds": made.seconds}
            made = made.rgb
        if isinstance(made, Failed):
            return failure(row, made)
        return self._scores(row, condition, name, reference, made)

    def _partner(self, files: Files, condition: Condition) -> NDArray[np.uint8] | Failed:
        """The file that another tool made. Raises BadImage if it cannot be decoded, StorageError to end the run."""
        partners = files.partners[condition.slug]
        try:
            data = partners.read(self.key)
        except StorageError as error:
            if not is_of_object(partners.store, self.key, error):
                raise
            return Failed(self.key, "read", Reason.unreadable, str(error))
        if data is None:
            return Failed(self.key, "read", Reason.no_partner, f"{partners.source.url} has no file for this key")
        return decode(data, "", self.stage.settings.max_pixels).rgb8

    def _scores(
        self, row: ScoreRow, condition: Condition, name: str, reference: NDArray[np.uint8], made: NDArray[np.uint8]
    ) -> ScoreRow:
        sizes = [f"{image.shape[1]}x{image.shape[0]}" for image in (made, reference)]
        if made.shape != reference.shape:
            detail = f"the candidate has {sizes[0]} pixels, the reference {sizes[1]}"
            return failure(row, Failed(self.key, "score", Reason.size_mismatch, detail))
        side, metric = self.stage.plan.smallest_side
        if min(made.shape[:2]) < side:
            detail = f"{metric} needs sides of {side} pixels, the image has {sizes[1]}"
            return failure(row, Failed(self.key, "score", Reason.too_small, detail))
        try:
            values = self.stage.meter.pair(reference, made)
            if self.stage.meter.classifier:
                values |= self._accuracy(condition, reference, made)
            if features := self.stage.meter.features(made):
                self.features[condition.slug, name] = features
        except Exception as error:
            return failure(row, Failed(self.key, "score", *explain(error, self.key)))
        return cast(ScoreRow, {**row, "status": OK, **values})

    def _accuracy(
        self, condition: Condition, reference: NDArray[np.uint8], made: NDArray[np.uint8]
    ) -> dict[str, float | None]:
        if condition.crop not in self._expected:
            self._expected[condition.crop] = self.stage.meter.expected(self.key, reference)
        expected = self._expected[condition.crop]
        return {"accuracy": None if expected is None else float(self.stage.meter.seen(made) == expected)}

    def _reference_features(self, condition: Condition, reference: NDArray[np.uint8]) -> None:
        """Those of the reference, once a crop."""
        place = (crop_group(condition.crop), REFERENCE)
        if place not in self.features and (features := self.stage.meter.features(reference)):
            self.features[place] = features


def given_file(key: str, given: Incoming) -> bytes | Failed:
    """The damaged file of an image, or why it has none."""
    if given.reason:
        return Failed(key, "read", Reason(given.reason), f"the damaged image: {given.detail}")
    return bytes(given.data)


def row_of(known: ScoreRow, condition: Condition, candidate: str, crop: tuple[int, int]) -> ScoreRow:
    """What is known of an image, as the row of one candidate under one condition."""
    return {
        **known,
        "condition": condition.slug,
        "candidate": candidate,
        "quality": condition.quality,
        "second_quality": condition.second_quality,
        "subsampling": condition.subsampling or None,
        "crop_y": crop[0],
        "crop_x": crop[1],
    }


def _note(picture: Picture) -> str | None:
    """What a reader of the row should know."""
    left_out = "transparency is not compared" if picture.alpha is not None else ""
    return "; ".join(filter(None, (picture.note, left_out))) or None


class Gate:
    """Lets threads in while what they hold together is less than a budget; one alone always."""

    def __init__(self, budget: int) -> None:
        self._budget, self._held = budget, 0
        self._changed = threading.Condition()

    @contextmanager
    def holding(self, amount: int) -> Generator[None]:
        """Wait for room for so much, and hold it inside the block."""
        with self._changed:
            self._changed.wait_for(lambda: self._held == 0 or self._held + amount <= self._budget)
            self._held += amount
        try:
            yield
        finally:
            with self._changed:
                self._held -= amount
                self._changed.notify_all()
