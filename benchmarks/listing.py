"""What the driver pays for an archive of many loose files, in seconds, memory and requests; no image is read.

    python -m benchmarks.listing [--keys 100000,1000000] [--bytes 60000]
    python -m benchmarks.listing --requests 256

The store is S3 without a network (`benchmarks.fake_s3`), so that what is measured is the driver's own: the network
comes on top, page by page. Each number of keys is a process of its own that does in turn what a run's driver does:
lists INPUT and makes shards, makes Ray's tasks of them, looks what an earlier attempt has finished (all of it), tells
what a dry run tells, and ends the run: the ledger counted, OUTPUT swept. Memory is the growth of the resident set
while a step lasts, and its peak.

--requests does a small restore in this process (no network of the model's either), shard after shard as Ray would have
it done, and counts what the store is asked for.
"""

import argparse
import io
import json
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray.cloudpickle
from PIL import Image

from benchmarks.fake_s3 import BUCKETS, REQUESTS, Bucket, Made
from pipeline.cluster.datasource import ShardSource
from pipeline.cluster.reading import read_in_trial
from pipeline.job import finished_shards
from pipeline.restore.job import list_restore, open_restore
from pipeline.restore.settings import RestoreSettings
from pipeline.restore.stage import RestoreShard
from pipeline.runs.ledger import OK
from pipeline.runs.run import Run, finish, open_run, plan

IN_FOLDER = 1000  # images
SAMPLE = 1000  # shards that are pickled
SETTINGS = RestoreSettings(input="fake://b/in", output="fake://b/out", model="identity")


def stem(at: int) -> str:
    return f"{at // IN_FOLDER:05}/IMG_{at:09}"


def bucket_of(keys: int, size: int) -> Bucket:
    """INPUT with so many images of about so many bytes, and OUTPUT with as many outputs."""
    source = Made("in/", keys, lambda at: f"{stem(at)}.jpg", lambda at: size // 2 + at * 2_654_435_761 % size)
    output = Made("out/images/", keys, lambda at: f"{stem(at)}.png", lambda at: size)
    return Bucket(made=[source, output])


def opened(settings: RestoreSettings) -> Run:
    return open_run("restore", settings.output, list_restore(settings), settings.public(), settings.determining())


def rss_mib(name: str) -> float:
    """A line of /proc/self/status: VmRSS, or VmHWM, the peak since `steps` began one."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


@contextmanager
def step(name: str, told: list[dict[str, Any]]) -> Generator[dict[str, Any]]:
    """Measure what goes on inside."""
    REQUESTS.clear()
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before, begun, used = rss_mib("VmRSS"), time.perf_counter(), time.process_time()
    row: dict[str, Any] = {"step": name}
    yield row
    row["requests"] = dict(REQUESTS)
    row |= {"wall_s": round(time.perf_counter() - begun, 2), "cpu_s": round(time.process_time() - used, 2)}
    row |= {"peak_mib": round(rss_mib("VmHWM") - before, 1), "kept_mib": round(rss_mib("VmRSS") - before, 1)}
    told.append(row)


def write_parts(run: Run) -> None:
    """Every shard's part of the ledger, as if all were done."""
    for shard in run.todo:
        rows = [{"key": key, "status": OK, "output": f"images/{key[:-4]}.png"} for key in shard.all_keys()]
        run.ledger.commit(shard.id, rows)


def measure(keys: int, size: int) -> list[dict[str, Any]]:
    """The steps of one driver."""
    BUCKETS["b"] = bucket_of(keys, size)
    settings = SETTINGS
    told: list[dict[str, Any]] = []
    with step("listing and shards", told) as row:
        listing = list_restore(settings)
    some = listing.shards[:SAMPLE]
    row |= {"shards": len(listing.shards), "pickled_bytes": sum(len(pickle.dumps(one)) for one in some) // len(some)}
    row |= {"images_each": max(shard.images or 0 for shard in some), "bytes_each": max(shard.size for shard in some)}
    with step("tasks", told) as row:
        tasks = ShardSource(listing.shards, listing.source.store, listing.output_name).get_read_tasks(1)
    row["pickled_bytes"] = sum(len(ray.cloudpickle.dumps(task)) for task in tasks[:SAMPLE]) // len(some)
    del tasks
    output = BUCKETS["b"].made.pop()  # not there yet
    write_parts(open_run("restore", settings.output, listing, settings.public(), settings.determining()))
    BUCKETS["b"].made.append(output)
    with step("resume check", told):
        run = open_run("restore", settings.output, listing, settings.public(), settings.determining())
    assert not run.todo
    with step("dry run", told):
        plan(listing, finished_shards(settings.output, listing))
    with step("final pass and sweep", told):
        assert finish(run)["images"] == keys
    return told


def count_requests(images: int) -> list[dict[str, Any]]:
    """What a restore of so many loose files asks of the store, by what it is doing; the driver's first and last."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (90, 120, 50)).save(file, "JPEG")
    BUCKETS["b"] = Bucket({f"in/{stem(at)}.jpg": file.getvalue() for at in range(images)})
    told: list[dict[str, Any]] = []
    with step("open the run", told):
        run, weights, settings = open_restore(SETTINGS)
        stage = RestoreShard(settings, weights, run.store)
    with step("read the shards", told):
        blocks = [read_in_trial(shard, run.listing.output_name, run.store) for shard in run.todo]
    with step("restore and write them", told):
        assert all(stage(block)["error"][0].as_py() is None for block in blocks)
    with step("end the run", told):
        finish(run)
    for row in told:
        row |= {"images": images, "shards": len(run.listing.shards)}
    return told


def main(tell: Callable[[str], None] = print) -> None:
    told = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    told.add_argument("--keys", default="100000,1000000", help="how many images, with commas between")
    told.add_argument("--bytes", type=int, default=60_000, help="of an image, on average")
    told.add_argument("--requests", type=int, help="count the requests of a restore of so many images")
    told.add_argument("--one", type=int, help=argparse.SUPPRESS)
    asked = told.parse_args()
    if asked.one or asked.requests:
        for row in count_requests(asked.requests) if asked.requests else measure(asked.one, asked.bytes):
            tell(json.dumps(row))
        return
    for keys in asked.keys.split(","):
        command = [sys.executable, "-m", "benchmarks.listing", "--one", keys, "--bytes", str(asked.bytes)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        tell(f"{int(keys):,} images")
        tell(done.stdout)


if __name__ == "__main__":
    main()
