"""What a restore would cost, without writing anything: some images are looked at, the network is timed on a crop."""

import time
from collections.abc import Collection

import numpy as np

from driftrec.errors import BadImage
from driftrec.image import Picture, decode
from driftrec.restoration.options import Sampling
from pipeline.cpus import usable_cpus
from pipeline.inputs.listing import Listing
from pipeline.inputs.shards import Shard, read_shard
from pipeline.job import dry_run, finished_shards
from pipeline.model_source import Weights, find
from pipeline.restore.job import list_restore
from pipeline.restore.settings import RestoreSettings
from pipeline.restore.stage import resolve, sampling_of
from pipeline.runs.ends import Answer

SAMPLE_SHARDS, SAMPLE_IMAGES = 4, 4  # so many images of each of so many shards, spread over the input, are decoded
CROP = 128  # pixels, side of the crop on which the network is timed


def estimate_restore(settings: RestoreSettings) -> Answer:
    """Shards, bytes, resolved settings and an estimate of the cost. Raises InvalidInput as the run would."""
    listing, weights = list_restore(settings), find(settings.model)
    settings = resolve(settings, weights)
    done = finished_shards(settings.output, listing)
    images, megapixels = sample_images(listing, done, settings.max_pixels)
    seconds = megapixels * seconds_per_megapixel(weights, sampling_of(settings), settings.seed)
    actors = settings.actors or usable_cpus()
    estimate = {
        "images": images,
        "megapixels_to_do": round(megapixels, 2),
        "seconds_of_one_actor": round(seconds, 1),
        "actors": actors,
        "seconds": round(seconds / actors, 1),
    }
    return dry_run("restore", settings, listing, done, estimate=estimate)


def sample_images(listing: Listing, done: Collection[str], max_pixels: int) -> tuple[int, float]:
    """(images in all, megapixels in the shards that are not done), as far as some images tell."""
    size = sum(shard.size for shard in listing.shards)
    todo = sum(shard.size for shard in listing.shards if shard.id not in done)
    bytes_each, pixels_each = _sample(listing.shards, max_pixels)
    images = listing.images if listing.images is not None else round(size / bytes_each)
    return images, todo / bytes_each * pixels_each / 1e6


def _sample(shards: list[Shard], max_pixels: int) -> tuple[float, float]:
    """(mean bytes, mean pixels) of some images of some shards. Bad images count with no pixels."""
    some = shards[:: max(1, len(shards) // SAMPLE_SHARDS)][:SAMPLE_SHARDS]
    sizes: list[int] = []
    pixels: list[int] = []
    for shard in some:
        for row in read_shard(shard).slice(0, SAMPLE_IMAGES).to_pylist():
            sizes.append(len(row["data"]))
            try:
                picture = decode(row["data"], "", max_pixels)
                pixels.append(picture.width * picture.height)
            except BadImage:
                pixels.append(0)
    return max(1.0, float(np.mean(sizes or [0]))), float(np.mean(pixels or [0]))


def seconds_per_megapixel(weights: Weights, sampling: Sampling, seed: int) -> float:
    """Of the network alone, on the device of this machine; decoding and encoding go on beside it."""
    restorer = weights.load()
    crop = Picture(np.full((CROP, CROP, 3), 127, np.uint8))
    begun = 0.0
    for _ in range(2):  # the first warms up
        begun = time.perf_counter()
        restorer.restore([crop], ["crop"], seed, sampling)
    return (time.perf_counter() - begun) / CROP**2 * 1e6
