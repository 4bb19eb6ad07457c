"""What the tests of evaluations share: clean images, stages without Ray, rows by place."""

from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from pipeline.evaluate.candidates import find_candidates
from pipeline.evaluate.conditions import conditions_of
from pipeline.evaluate.metrics import plan_metrics
from pipeline.evaluate.model_pool import Restoring
from pipeline.evaluate.settings import EvaluateSettings
from pipeline.evaluate.stage import ScoreShard
from pipeline.inputs.listing import list_shards
from pipeline.inputs.location import open_input
from pipeline.inputs.shards import read_shard
from pipeline.settings import load
from pipeline.storage.local import LocalStore
from tests import made

Row = dict[str, Any]


def clean(path: Path, count: int, height: int = 40, width: int = 56) -> Path:
    """A folder of `count` PNGs in two subfolders, of several heights."""
    for index in range(count):
        file = path / f"{'ab'[index % 2]}/{index:04}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(made.pixels(index, height + index % 3 * 8, width)).save(file)
    return path


def settings_of(source: Path, output: Path, **changes: Any) -> EvaluateSettings:
    return load(EvaluateSettings, flags={"reference": str(source), "output": str(output), "quality": "10"} | changes)


def make(source: Path, output: Path, threads: int = 2, **changes: Any) -> ScoreShard:
    """A stage that restores in this process."""
    settings = settings_of(source, output, **changes)
    conditions, plan = conditions_of(settings), plan_metrics(settings)
    candidates = find_candidates(settings, conditions, open_input(str(source)))
    restoring = Restoring(candidates.models, settings.seed, settings.max_pixels) if candidates.models else None
    return ScoreShard(settings, conditions, candidates, plan, restoring, LocalStore(str(output)), threads)


def score(source: Path, output: Path, **changes: Any) -> list[Row]:
    """The rows of all of `source`, evaluated as one shard, in order and without their seconds."""
    stage = make(source, output, **changes)
    shards = list_shards(str(source))
    summary = stage(pa.concat_tables([read_shard(shard) for shard in shards])).to_pylist()[0]
    assert summary["error"] is None
    return [row | {"seconds": None} for row in stage.ledger.read_part(shards[0].id).to_pylist()]


def by_place(rows: list[Row]) -> dict[tuple[str, str, str], Row]:
    return {(row["key"], row["condition"], row["candidate"]): row for row in rows}
