"""What a restore of the surveyed archive would cost: the chosen model timed on pieces of its own files.

As many processes as a restore would start run at once, each on one thread where there is no GPU: what they slow each
other down is measured with them. GPUs do not slow each other down, so one tells enough, and no more nodes are started
for it. A GPU's speed is never guessed: the user states it or it is left out.
"""

import logging
from collections.abc import Sequence
from typing import NotRequired, Required, TypedDict

import ray
import ray.exceptions

from driftrec.restoration.options import Sampling
from pipeline.cluster import connection
from pipeline.cluster.graph import Pool
from pipeline.model_source import Weights, find
from pipeline.restore.settings import RestoreSettings
from pipeline.restore.stage import resolve, sampling_of
from pipeline.restore.timing import MOST, START_S, Limits, calibrate
from pipeline.storage.base import redact
from pipeline.survey.settings import SurveySettings
from pipeline.survey.summary import GOOD, Summary, Survey

log = logging.getLogger(__name__)


class Measured(TypedDict, total=False):
    """What was measured on this cluster; `pieces` alone where nothing could be."""

    model: str  # without credentials
    steps: int | None
    samples: int
    fidelity: float | None  # 0 to 1
    pieces: Required[int]
    processes: int  # that a restore would start
    processes_measured: int
    device: str  # as PyTorch names it
    seconds_per_megapixel_and_process: float
    nfe_mean: float  # evaluations of the network a piece
    megapixels_per_s: float  # of all processes
    images_per_s: float
    hours: float  # for all sound files, and without the JPEGs of good quality
    hours_below_good: float
    cost: float  # money, likewise; where the price of the cluster is known
    cost_below_good: float


class Stated(TypedDict):
    """What follows from a GPU's speed, which the user has stated."""

    gpu_megapixels_per_s: float
    gpu_hours: float
    gpu_hours_below_good: float
    gpu_cost: NotRequired[float]  # money, where the price of the GPU is known
    gpu_cost_below_good: NotRequired[float]


class Cost(TypedDict):
    """What a restore would cost."""

    good_quality: int  # JPEGs of which, or of more, may be left
    megapixels: float  # of all sound files
    megapixels_below_good: float
    measured: NotRequired[Measured]
    stated: NotRequired[Stated]


class WholeSummary(Summary):
    """summary.json."""

    cost: Cost


def find_model(settings: SurveySettings) -> tuple[Weights, Sampling]:
    """The model and how it is sampled. Raises InvalidInput if it cannot be so."""
    weights = find(settings.model)
    asked = {name: getattr(settings, name) for name in ("model", "steps", "samples", "fidelity", "seed", "max_pixels")}
    resolved = resolve(RestoreSettings(input=settings.input, output=settings.output, **asked), weights)
    return weights, sampling_of(resolved)


def estimate(
    settings: SurveySettings, model: tuple[Weights, Sampling] | None, survey: Survey, files: Sequence[tuple[str, bytes]]
) -> Cost:
    """What summary.json says of the cost. Needs Ray if anything is to be measured.

    Args:
        settings: of the survey.
        model: from `find_model`; None: nothing is measured.
        survey: whose pixels are to be restored.
        files: (key, bytes) of some of them, to measure with.
    """
    cost: Cost = {
        "good_quality": GOOD,
        "megapixels": round(survey.pixels / 1e6, 3),
        "megapixels_below_good": round((survey.pixels - survey.good_pixels) / 1e6, 3),
    }
    if model and files:
        cost["measured"] = _measured(settings, model, survey, files)
    if speed := settings.gpu_megapixels_per_s:
        hours, below_good = _hours(survey, speed)
        cost["stated"] = {"gpu_megapixels_per_s": speed, "gpu_hours": hours, "gpu_hours_below_good": below_good}
        if price := settings.gpu_price_per_hour:
            cost["stated"]["gpu_cost"] = price * hours
            cost["stated"]["gpu_cost_below_good"] = price * below_good
    return cost


def _measured(
    settings: SurveySettings, model: tuple[Weights, Sampling], survey: Survey, files: Sequence[tuple[str, bytes]]
) -> Measured:
    pool = Pool.fit(None, None, None, 1 << 20)
    processes = 1 if pool.gpus else min(MOST, pool.actors)
    task = ray.remote(calibrate).options(num_cpus=pool.cpus, num_gpus=pool.gpus, max_retries=1)
    given: ray.ObjectRef[Sequence[tuple[str, bytes]]] = ray.put(files)
    log.info("measuring %s for %g s in %d processes", redact(settings.model), settings.calibration_s, processes)
    try:
        with connection.waiting(pool.cpus, pool.gpus):
            limits = Limits(settings.seed, settings.max_pixels, settings.calibration_s)
            found = ray.get([task.remote(given, *model, limits, turn) for turn in range(processes)])
    except ray.exceptions.RayError as error:  # what the survey has found is as good without it
        log.warning("the cost could not be measured: %s", " ".join(str(error).split())[-300:])
        return {"pieces": 0}
    pixels, seconds = sum(one.pixels for one in found), sum(one.seconds for one in found)
    if not pixels:
        return {"pieces": 0}
    speed, sampling = pool.actors * pixels / seconds / 1e6, model[1]
    hours, below_good = (START_S / 3600 + work for work in _hours(survey, speed))
    measured: Measured = {
        "model": redact(settings.model),
        "steps": sampling.steps,
        "samples": sampling.samples,
        "fidelity": sampling.fidelity,
        "pieces": sum(one.pieces for one in found),
        "processes": pool.actors,
        "processes_measured": processes,
        "device": found[0].device,
        "seconds_per_megapixel_and_process": round(seconds / pixels * 1e6, 4),
        "nfe_mean": round(sum(one.nfe for one in found) / sum(one.pieces for one in found), 2),
        "megapixels_per_s": round(speed, 4),
        "images_per_s": round(speed / max(1e-9, survey.pixels / 1e6 / max(1, survey.sound)), 4),
        "hours": hours,
        "hours_below_good": below_good,
    }
    if price := settings.price_per_hour:
        measured["cost"], measured["cost_below_good"] = price * hours, price * below_good
    return measured


def _hours(survey: Survey, megapixels_per_s: float) -> tuple[float, float]:
    """Of all sound files, and without the JPEGs of good quality."""
    per_hour = megapixels_per_s * 1e6 * 3600  # pixels
    return survey.pixels / per_hour, (survey.pixels - survey.good_pixels) / per_hour
