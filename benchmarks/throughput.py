"""The restore graph with the identity model against a bare pool of two processes that decodes, encodes and writes.

    python -m benchmarks.throughput [--images 1500] [--pairs 3]

Interleaved pairs (pool, graph, pool, graph, ...), because a shared machine is not equally fast all the time. The graph
does more: it hashes inputs and outputs, reads the JPEG's tables, measures blocking before and after, and writes the
ledger. Two rates of the graph are told: `steady`, from the first finished shard to the last, which is what a large
archive sees; and `whole`, with the listing, the start of the actors (they import PyTorch), the sweep and the count.
`cpu_ms`: milliseconds of CPU an image, of the pool's processes; and of the driver and all that Ray started, from the
first finished shard on. These are less moved by what else the machine does.
"""

import argparse
import contextlib
import json
import logging
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np
from PIL import Image

from driftrec.image import decode, encode
from pipeline.cluster import connection
from pipeline.restore.job import graph, open_restore
from pipeline.restore.settings import RestoreSettings
from pipeline.runs.run import finish
from pipeline.storage.local import LocalStore

log = logging.getLogger("benchmark")

PROCESSES = 2


def make_images(folder: Path, count: int, side: int) -> None:
    """JPEGs of quality 30 with colours and noise about as a photograph's; 20 different ones, each at many offsets."""
    for kind in range(20):
        rng = np.random.default_rng(kind)
        coarse = rng.integers(0, 256, (side // 16, side // 16, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)).astype(int)
        pixels = np.clip(smooth + rng.normal(0, 5, smooth.shape), 0, 255).astype(np.uint8)
        for index in range(kind, count, 20):
            path = folder / f"{index % 7}/{index:06}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.roll(pixels, index * 8, (0, 1))).save(path, quality=30)


def one(task: tuple[str, str, str]) -> None:
    """What the bare pool does to an image."""
    source, output, name = task
    data = (Path(source) / name).read_bytes()
    LocalStore(output).put(f"{name}.png", encode(decode(data, name)))


def run_pool(source: Path, output: Path, pool: Any) -> dict[str, float]:
    """Images a second of the bare pool."""
    names = sorted(str(path.relative_to(source)) for path in source.rglob("*.jpg"))
    begun = time.perf_counter()
    cpu = cpu_s(pool_pids(pool))
    for _ in pool.imap_unordered(one, [(str(source), str(output), name) for name in names], chunksize=16):
        pass
    rate = len(names) / (time.perf_counter() - begun)
    return {"whole": rate, "cpu_ms": 1000 * (cpu_s(pool_pids(pool)) - cpu) / len(names)}


def pool_pids(pool: Any) -> set[int]:
    """Its processes."""
    return {process.pid for process in pool._pool}


def cpu_s(pids: set[int]) -> float:
    """Seconds of CPU that these have taken, and those of their children that have ended."""
    total = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            total += sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]))
    return total / os.sysconf("SC_CLK_TCK")


def descendants() -> set[int]:
    """This process and all that it has started, and so on."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def run_graph(source: Path, output: Path, settings: dict[str, Any], others: set[int]) -> dict[str, float]:
    """Images a second of the graph; `others` are processes that have nothing to do with it."""
    begun = time.perf_counter()
    given = {"model": "identity", "actors": PROCESSES, "report": False} | settings
    run, weights, resolved = open_restore(RestoreSettings(input=str(source), output=str(output), **given))
    finished: list[tuple[float, int]] = []
    cpu: list[float] = []
    for row in graph(run.todo, resolved, weights, run.store):
        finished.append((time.perf_counter(), row["ok"]))
        run.statuses.update(ok=row["ok"])
        cpu.append(cpu_s(descendants() - others))
    result = finish(run)
    seconds = time.perf_counter() - begun
    (first, before), (last, _) = finished[0], finished[-1]
    images = result["status"]["ok"]
    return {
        "steady": (images - before) / (last - first),
        "cpu_ms": 1000 * (cpu[-1] - cpu[0]) / (images - before),
        "whole": images / seconds,
        "fixed_s": first - begun,
    }


def main() -> int:
    """Print the rates of all pairs and their ratios as JSON."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    told = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    told.add_argument("--images", type=int, default=1500)
    told.add_argument("--side", type=int, default=512, help="pixels")
    told.add_argument("--pairs", type=int, default=3)
    told.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the graph")
    flags = told.parse_args()
    settings = dict(assignment.split("=", 1) for assignment in flags.set)
    pairs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        root = Path(folder)
        make_images(root / "in", flags.images, flags.side)
        make_images(root / "warm", 40, flags.side)
        run_pool(root / "warm", root / "warm-out", pool)  # the pool's processes import what they need
        with connection.connected():
            for pair in range(flags.pairs):
                bare = run_pool(root / "in", root / f"pool-{pair}", pool)
                ours = run_graph(root / "in", root / f"graph-{pair}", settings, pool_pids(pool))
                ratios = {"rate": ours["steady"] / bare["whole"], "cpu": ours["cpu_ms"] / bare["cpu_ms"]}
                pairs.append({"pool": bare, "graph": ours, "ratios": ratios})
                log.info("%s", json.dumps(pairs[-1]))
    medians = {name: statistics.median(pair["ratios"][name] for pair in pairs) for name in ("rate", "cpu")}
    result = {"images": flags.images, "side": flags.side, "pairs": pairs, "median_ratios": medians}
    sys.stdout.write(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
