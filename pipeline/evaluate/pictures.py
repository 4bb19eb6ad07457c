"""Pictures for the page of an evaluation: the damaged image, what became of it, and the reference, made once more.

That is possible because all of it is a function of the reference, its key, the settings and the seed.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from driftrec.errors import BadImage, DriftRecError, Failed
from driftrec.image import decode
from pipeline.evaluate.candidates import JPEG
from pipeline.evaluate.conditions import damage, reference_of
from pipeline.evaluate.evaluation import Evaluation
from pipeline.evaluate.model_pool import Restores
from pipeline.evaluate.reduction import Extreme
from pipeline.inputs.names import output_name
from pipeline.inputs.shards import read_shard
from pipeline.reports.before_after import PAGE_BYTES, Piece, cut
from pipeline.runs.threads import pooled

log = logging.getLogger(__name__)

THREADS = 4  # pictures that are made at once


def load_pictures(
    evaluation: Evaluation, extremes: Sequence[Extreme], restoring: Restores | None
) -> dict[tuple[str, str], Piece]:
    """Pieces by (key, condition); what cannot be made again is left out and logged."""
    share = PAGE_BYTES // max(1, len(extremes))
    pieces: dict[tuple[str, str], Piece] = {}

    def make(reference: tuple[str, str, bytes]) -> None:
        key, slug, data = reference
        try:
            pieces[key, slug] = _piece(evaluation, key, data, slug, restoring, share)
        except (BadImage, DriftRecError) as error:
            log.info("report: no picture of %s under %s: %s", key, slug, error)

    with ThreadPoolExecutor(THREADS) as pool:
        for _ in pooled(pool, make, _references(evaluation, extremes), THREADS):
            pass
    return pieces


def _references(evaluation: Evaluation, extremes: Sequence[Extreme]) -> Iterable[tuple[str, str, bytes]]:
    """(key, condition, bytes) of the references that are shown, one shard in memory at a time."""
    shards = {shard.id: shard for shard in evaluation.run.listing.shards}
    wanted: dict[str, dict[str, dict[str, None]]] = {}
    for one in extremes:
        wanted.setdefault(one.shard, {}).setdefault(one.row["key"], {})[one.row["condition"]] = None
    for shard, keys in wanted.items():
        for row in read_shard(shards[shard]).select(["key", "data"]).to_pylist():
            for slug in keys.get(row["key"], ()):
                yield row["key"], slug, row["data"]


def _piece(
    evaluation: Evaluation, key: str, data: bytes, slug: str, restoring: Restores | None, share: int
) -> Piece:
    """What the page shows of one image under one condition. Raises BadImage, DriftRecError."""
    condition = next(one for one in evaluation.conditions if one.slug == slug)
    most, seed = evaluation.settings.max_pixels, evaluation.settings.seed
    picture = decode(data, key, most)
    reference = reference_of(picture, key, condition, seed)
    sides: Mapping[str, np.ndarray] = {}
    if condition.quality is not None:
        jpeg = damage(picture, key, condition, seed)
        sides = {JPEG: decode(jpeg, max_pixels=most).rgb8}
    main = evaluation.main
    if main in sides:
        return cut(sides[main], reference, share)
    files = {one.name: one.partners[slug] for one in evaluation.candidates.files}
    if main in files:
        made = decode(files[main].read(key) or b"", max_pixels=most).rgb8
    else:
        assert restoring is not None
        (output,) = restoring.restore(main, [jpeg], output_name(key, "jpeg"))
        if isinstance(output, Failed):
            raise BadImage(output.reason, output.detail)
        made = output.rgb
    if JPEG not in sides:
        return cut(made, reference, share)
    return cut(sides[JPEG], made, share, reference)
