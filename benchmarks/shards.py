"""Does a shard cost more where there are many? The restore graph over shards of one small image, identity model.

python -m benchmarks.shards [--shards 1000,20000]

Prints, of each number of shards, wall milliseconds a shard from the first that is finished to the last, CPU
milliseconds a shard of the driver and of everything, and by how many MiB the driver has grown.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.throughput import make_images
from pipeline.cluster import connection
from pipeline.restore.job import graph, open_restore
from pipeline.restore.settings import RestoreSettings
from pipeline.runs.run import finish

SIDE = 16  # pixels


def main() -> None:
    """A row a number of shards."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", default="1000,20000", help="comma-separated numbers")
    args = parser.parse_args()
    columns = ("shards", "wall ms a shard", "driver CPU ms", "all CPU ms", "driver grows, MiB")
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|", flush=True)
    with tempfile.TemporaryDirectory() as folder, connection.connected():
        for count in (50, *map(int, args.shards.split(","))):  # the first warms up
            row = measured(Path(folder) / str(count), count)
            if count != 50:
                print(row, flush=True)


def measured(root: Path, count: int) -> str:
    """One run."""
    make_images(root / "in", count, SIDE)
    given = {"input": str(root / "in"), "output": str(root / "out"), "model": "identity", "report": False}
    before = peak()
    run, weights, settings = open_restore(RestoreSettings(**given, shard_images=1))
    assert len(run.todo) == count, f"{len(run.todo)} shards"
    finished: list[tuple[float, float, float]] = []
    for row in graph(run.todo, settings, weights, run.store):
        finished.append((time.perf_counter(), time.process_time(), machine_cpu_s()))
        run.statuses.update(ok=row["ok"])
    grown = peak() - before
    assert finish(run)["status"]["ok"] == count
    wall, own, all_of_it = ((last - first) / (count - 1) for first, last in zip(finished[0], finished[-1], strict=True))
    return f"| {count:,} | {1000 * wall:.1f} | {1000 * own:.2f} | {1000 * all_of_it:.1f} | {grown:.0f} |"


def peak() -> float:
    """MiB of this process at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def machine_cpu_s() -> float:
    """Seconds that all processes of the machine have computed."""
    user, nice, system, *_ = Path("/proc/stat").read_text().split("\n")[0].split()[1:]
    return (int(user) + int(nice) + int(system)) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(main())
