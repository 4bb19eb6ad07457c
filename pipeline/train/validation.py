"""A fixed validation set, restored by the averaged weights and scored every so often. Starts no Ray.

The set is the middle of each of the first images, and their JPEGs or damaged partners. Restoring draws its noise from
the key, as always: neither the set nor the moment changes anything in the training.
"""

import copy
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from driftrec.diffusion.baselines import Regression
from driftrec.diffusion.denoiser import Denoiser
from driftrec.errors import BadImage, InvalidInput, Reason
from driftrec.image import Picture
from driftrec.jpeg.codec import degrade, middle
from driftrec.metrics import PAIR_METRICS
from driftrec.models.checkpoint import Checkpoint
from driftrec.restoration.options import Sampling
from driftrec.restoration.restorer import Restorer
from driftrec.training.learner import Learner
from pipeline.inputs.listing import list_input
from pipeline.inputs.pairing import Pairing, join
from pipeline.inputs.shards import Incoming, Shard, rows_of
from pipeline.train.settings import TrainSettings
from pipeline.train.windows import decode_row

log = logging.getLogger(__name__)

METRICS = ("psnr", "ssim", "bef")  # PSNR in dB; BEF raw, for pixels in [0, 1]
SIDE = 256  # pixels: the middle of an image that is restored, at most; a multiple of 16 keeps whole blocks
ROWS, GAP = 8, 4  # images in the picture grid, and pixels between them
SUBSAMPLING = "4:2:0"
FIDELITIES = {"mean": 1.0, "sample": 0.0}  # the posterior mean, and one draw with the steps that the model recommends

Pixels = NDArray[np.uint8]
Scores = dict[str, dict[str, float]]  # by candidate and metric


@dataclass(frozen=True)
class Source:
    """Where the validation images are; small, and picklable."""

    shards: list[Shard]
    pairings: list[Pairing] | None


@dataclass(frozen=True)
class Sample:
    """One image of the set."""

    key: str
    clean: Pixels  # (H, W, 3)
    damaged: Pixels


def list_validation(settings: TrainSettings) -> Source | None:
    """Where the set is; None if none is wanted. Raises InvalidInput if there is nothing."""
    if settings.validation is None:
        return None
    try:
        listing = list_input(settings.validation, limit=settings.validation_images)
        if settings.validation_corrupted is None:
            return Source(listing.shards, None)
        return Source(listing.shards, join(listing, list_input(settings.validation_corrupted)))
    except InvalidInput as error:
        raise InvalidInput(f"validation: {error}") from None


def load_samples(source: Source, settings: TrainSettings) -> list[Sample]:
    """The set. Images that cannot be used are left out and told."""
    found: list[Sample] = []
    for number, shard in enumerate(source.shards):
        rows = list(rows_of(shard))
        partners = source.pairings[number].find([row.key for row in rows]) if source.pairings else [None] * len(rows)
        for row, partner in zip(rows, partners, strict=True):
            try:
                found.append(_sample(row, partner, settings))
            except BadImage as error:
                log.warning("validation: %s is left out: %s", row.key, error)
    return found[: settings.validation_images]


def _sample(row: Incoming, partner: Incoming | None, settings: TrainSettings) -> Sample:
    clean = decode_row(row, settings.max_pixels)
    if partner is None:
        clean = _middle(clean)
        return Sample(row.key, clean, degrade(clean, settings.validation_quality, SUBSAMPLING))
    damaged = decode_row(partner, settings.max_pixels, "its partner: ")
    if clean.shape != damaged.shape:
        raise BadImage(Reason.size_mismatch, "its partner has another size")
    return Sample(row.key, _middle(clean), _middle(damaged))


def _middle(pixels: Pixels) -> Pixels:
    """At most SIDE x SIDE pixels, on the JPEG grid of the whole."""
    return np.ascontiguousarray(pixels[middle(pixels.shape, SIDE, grid=16)])


def validate(learner: Learner, samples: Sequence[Sample], settings: TrainSettings) -> tuple[Scores, bytes]:
    """Mean scores of what went in and of what the averaged weights make of it, and the picture grid as a PNG: a row an
    image, from left to right clean, damaged, mean, sample. A regression has no samples.
    """
    restorer = averaged(learner, settings)
    candidates = FIDELITIES if not isinstance(learner.denoiser.process, Regression) else {"mean": 1.0}
    rows = [
        [one.clean, one.damaged, *(_restored(restorer, one, fidelity) for fidelity in candidates.values())]
        for one in samples
    ]
    names = enumerate(("damaged", *candidates), start=1)
    return {name: _score([(row[0], row[column]) for row in rows]) for column, name in names}, _grid(rows[:ROWS])


def averaged(learner: Learner, settings: TrainSettings) -> Restorer:
    """A restorer of the averaged weights, which shares nothing with the learner."""
    theirs = learner.denoiser
    network = copy.deepcopy(theirs.network)
    network.load_state_dict(learner.ema.state_of(network))
    denoiser = Denoiser(network, theirs.process, theirs.form, theirs.residual_std).eval().requires_grad_(False)
    device = next(network.parameters()).device
    return Restorer(Checkpoint(denoiser, settings.recommend or {}), device)


def _restored(restorer: Restorer, sample: Sample, fidelity: float) -> Pixels:
    return restorer.restore([Picture(sample.damaged)], [sample.key], 0, Sampling(fidelity=fidelity))[0].picture.rgb


def _score(pairs: Sequence[tuple[Pixels, Pixels]]) -> dict[str, float]:
    """Means over (clean, other) pairs."""
    values = {name: [PAIR_METRICS[name](*map(_as_batch, pair)).item() for pair in pairs] for name in METRICS}
    return {name: round(float(np.mean(column)), 8) for name, column in values.items()}


def _as_batch(pixels: Pixels) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


def _grid(rows: Sequence[Sequence[Pixels]]) -> bytes:
    height, width = (max(row[0].shape[axis] for row in rows) + GAP for axis in (0, 1))
    canvas = np.full((len(rows) * height, len(rows[0]) * width, 3), 255, np.uint8)
    for i, row in enumerate(rows):
        for j, cell in enumerate(row):
            canvas[i * height : i * height + cell.shape[0], j * width : j * width + cell.shape[1]] = cell
    file = io.BytesIO()
    Image.fromarray(canvas).save(file, "PNG", compress_level=6)
    return file.getvalue()
