"""What a restore would cost, without writing anything: some images are looked at, and pieces of them restored."""

import io
import os
import time
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch

from driftrec.image import Picture
from driftrec.image.probe import read_header
from driftrec.restoration.options import Sampling
from pipeline.cpus import usable_cpus
from pipeline.inputs.listing import Listing
from pipeline.inputs.shards import read_shard
from pipeline.job import dry_run, finished_shards
from pipeline.model_source import Weights, find_opened
from pipeline.restore.job import list_restore
from pipeline.restore.settings import RestoreSettings
from pipeline.restore.stage import resolve, sampling_of
from pipeline.restore.timing import MOST, START_S, Limits, pieces_of, time_pieces
from pipeline.runs.changed_input import bytes_known
from pipeline.runs.ends import Answer
from pipeline.runs.ledger import Ledger
from pipeline.storage import open_store

SAMPLE_SHARDS, SAMPLE_IMAGES = 4, 4  # so many images of each of so many shards, spread over the input, are looked at
CALIBRATION_S = 3.0  # for so long pieces of them are restored
CROP = 128  # pixels, side of the crop on which the network is timed


def estimate_restore(settings: RestoreSettings) -> Answer:
    """Shards, bytes, resolved settings and an estimate of the cost. Raises InvalidInput as the run would."""
    listing, (weights, restorer) = list_restore(settings), find_opened(settings.model, settings.device)
    settings = resolve(settings, weights)
    done = finished_shards(settings.output, listing)
    files = sample_files(listing)
    known = bytes_known(ledger := Ledger(open_store(settings.output)), listing, ledger.committed())
    images, megapixels = sizes_of(listing, done, files, settings.max_pixels, known)
    limits = Limits(settings.seed, settings.max_pixels, CALIBRATION_S, settings.device)
    gpu = restorer.device.type == "cuda"
    actors = settings.actors or (torch.cuda.device_count() if gpu else usable_cpus())
    together = 1 if gpu else min(actors, usable_cpus(), MOST)  # CPUs slow each other down, as in the run
    pieces = pieces_of(files, settings.max_pixels)
    with ThreadPoolExecutor(together) as pool:
        timed = list(pool.map(partial(time_pieces, restorer, pieces, sampling_of(settings), limits), range(together)))
    pixels, restored = sum(one.pixels for one in timed), sum(one.pieces for one in timed)
    work = megapixels * 1e6 * sum(one.seconds for one in timed) / max(1, pixels)
    left = len(listing.shards) - len(done)
    here = usable_cpus() if not gpu and not os.environ.get("RAY_ADDRESS") else actors  # that work at the same time
    seconds = START_S + work / max(1, min(actors, left, here)) if left else 0.0
    estimate: dict[str, Any] = {
        "images": images,
        "megapixels_to_do": round(megapixels, 2),
        "evaluations_per_image": round(sum(one.nfe for one in timed) / max(1, restored), 2),
        "seconds_of_one_actor": round(work, 3),
        "actors": actors,
        "seconds": round(seconds, 3),
    }
    if megapixels and not pixels:
        estimate |= {"seconds_of_one_actor": None, "seconds": None}  # of the files that were looked at none was sound
    elif settings.price_per_hour:
        estimate["cost"] = round(settings.price_per_hour * seconds / 3600, 6)
    return dry_run("restore", settings, listing, done, estimate=estimate)


def sample_images(listing: Listing, done: Collection[str], max_pixels: int) -> tuple[int, float]:
    """(images in all, megapixels in the shards that are not done), as far as some images tell."""
    return sizes_of(listing, done, sample_files(listing), max_pixels)


def sizes_of(
    listing: Listing, done: Collection[str], files: Sequence[tuple[str, bytes]], max_pixels: int, known: int = 0
) -> tuple[int, float]:
    """The same, of these images, where so many bytes of what is not done are `known`. Bad ones count with no pixels."""
    size = sum(shard.size for shard in listing.shards)
    todo = sum(shard.size for shard in listing.shards if shard.id not in done) - known
    headers = [read_header(io.BytesIO(data), len(data), max_pixels) for _, data in files]
    pixels = [0 if header.reason else (header.width or 0) * (header.height or 0) for header in headers]
    bytes_each = max(1.0, float(np.mean([len(data) for _, data in files] or [0])))
    images = listing.images if listing.images is not None else round(size / bytes_each)
    return images, todo / bytes_each * float(np.mean(pixels or [0])) / 1e6


def sample_files(listing: Listing) -> list[tuple[str, bytes]]:
    """(key, bytes) of some images of some shards."""
    some = listing.shards[:: max(1, len(listing.shards) // SAMPLE_SHARDS)][:SAMPLE_SHARDS]
    rows = (row for shard in some for row in read_shard(shard).slice(0, SAMPLE_IMAGES).to_pylist())
    return [(row["key"], row["data"]) for row in rows if row["data"] is not None]


def seconds_per_megapixel(weights: Weights, sampling: Sampling, seed: int) -> float:
    """Of the network alone, on the device of this machine; decoding and encoding go on beside it."""
    restorer = weights.load()
    crop = Picture(np.full((CROP, CROP, 3), 127, np.uint8))
    begun = 0.0
    for _ in range(2):  # the first warms up
        begun = time.perf_counter()
        restorer.restore([crop], ["crop"], seed, sampling)
    return (time.perf_counter() - begun) / CROP**2 * 1e6
