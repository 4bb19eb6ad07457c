"""How long `driftrec verify` takes on a sound run, and what memory: by hand-made pictures and the real ledger.

    python -m benchmarks.verify [--images 4000] [--side 192] [--shard-images 64]

Outputs are small PNGs of noise (192x192: about 110 KB), written as a run writes them. Each line is a process of its
own: its seconds of wall and CPU time, and its peak of memory. "quick" is `--quick`; "again" is what a run that is
finished already does: the same command with the same INPUT, for which only sizes count.
"""

import argparse
import hashlib
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np
from PIL import Image

from pipeline.inputs.listing import list_input
from pipeline.runs.ledger import OK
from pipeline.runs.run import Run, earlier_result, finish, open_run
from pipeline.runs.verify import verify
from pipeline.storage import open_store


def open_again(source: Path, output: Path, most: int) -> Run:
    return open_run("restore", str(output), list_input(str(source), max_images=most), {}, {})


def make_run(source: Path, output: Path, images: int, side: int, most: int) -> None:
    """A finished run over files of a few bytes."""
    for index in range(images):
        path = source / f"{index % 100:02}/{index:07}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(str(index).encode())
    run, store = open_again(source, output, most), open_store(str(output))
    rng = np.random.default_rng(0)
    for shard in run.todo:
        rows: list[dict[str, Any]] = []
        for key, _ in shard.files():
            file, name = io.BytesIO(), f"images/{key[:-4]}.png"
            Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).save(file, "PNG", compress_level=0)
            store.put(name, file.getvalue())
            row = {"key": key, "status": OK, "output": name, "output_bytes": len(file.getvalue())}
            rows.append(row | {"output_sha256": hashlib.sha256(file.getvalue()).hexdigest()})
        run.ledger.commit(shard.id, rows)
    finish(run)


def measure(way: str, source: str, output: str, most: str) -> dict[str, Any]:
    """One way of looking at the run."""
    begun = time.perf_counter()
    if way == "again":
        result = earlier_result(open_again(Path(source), Path(output), int(most)))
        assert result and result["state"] == "done"
    else:
        assert verify(output, quick=way == "quick")["state"] == "sound"
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "wall_s": round(time.perf_counter() - begun, 2),
        "cpu_s": round(used.ru_utime + used.ru_stime, 2),
        "peak_mib": used.ru_maxrss // 1024,
    }


def main() -> None:
    told = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    told.add_argument("--images", type=int, default=4000)
    told.add_argument("--side", type=int, default=192)
    told.add_argument("--shard-images", type=int, default=64)
    told.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    asked = told.parse_args()
    if asked.one:
        print(json.dumps(measure(*asked.one)))
        return
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder) / "in", Path(folder) / "out"
        make_run(source, output, asked.images, asked.side, asked.shard_images)
        size = sum(path.stat().st_size for path in output.rglob("*.png")) / 2**20
        print(f"{asked.images} images, {size:.0f} MiB, {len(list(output.glob('ledger/*')))} shards")
        for way in ("full", "quick", "again"):
            command = [sys.executable, __file__, "--one", way, str(source), str(output), str(asked.shard_images)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            print(f"{way:6} {done.stdout.strip()}")


if __name__ == "__main__":
    main()
