"""How many local JPEG files a second a survey reads the headers of, and what memory it takes.

    python -m benchmarks.survey data/photos/devtest [--files 2000,20000]

Each number of files is surveyed twice, in processes of their own: by the stage alone (a second of CPU time is then a
second of one core, however busy the machine is), and as `driftrec survey --pixels none --calibration 0` does it, Ray
and report included. Both write the ledger. Memory is the peak of that process: of what a task needs, and of the driver.
"""

import argparse
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
from PIL import Image

from pipeline.inputs.listing import list_input
from pipeline.storage.local import LocalStore
from pipeline.survey.settings import SurveySettings

SIDE = 128  # pixels


def make_files(photos: Path, folder: Path, count: int) -> None:
    """JPEGs of all qualities and subsamplings, every fifth progressive; pieces of the photographs."""
    sources = [Image.open(path).convert("RGB") for path in sorted(photos.glob("*.png"))]
    for index in range(count):
        path = folder / f"{index % 100:02}/{index:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = sources[index % len(sources)]
        left = index % max(1, image.width - SIDE)
        data = io.BytesIO()
        options = {"quality": 5 + index % 96, "subsampling": index % 3, "progressive": index % 5 == 0}
        image.crop((left, 0, left + SIDE, SIDE)).save(data, "JPEG", **options)
        path.write_bytes(data.getvalue())


def survey(folder: str, output: str, alone: bool) -> dict[str, Any]:
    """Files a second of CPU and of wall time, and the peak of this process's memory."""
    settings = SurveySettings(input=folder, output=output, pixels="none", calibration_s=0, max_failed="0")
    wall, cpu = time.perf_counter(), time.process_time()
    if alone:
        from pipeline.survey.stage import SurveyShard

        shards = list_input(folder, settings.shard_bytes, settings.shard_images).shards
        stage = SurveyShard(settings, 0.0, LocalStore(output))
        stage(shards[0])  # imports, and first uses
        wall, cpu = time.perf_counter(), time.process_time()
        files = sum(stage(shard)["ok"][0].as_py() for shard in shards[1:])
    else:
        from pipeline.survey.job import run_survey

        files = run_survey(settings)["status"]["ok"]
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    told = {"files": files, "files_per_s": round(files / wall), "peak_mib": round(peak)}
    return told | ({"files_per_cpu_s": round(files / cpu)} if alone else {"seconds": round(wall, 1)})


def main() -> int:
    """Print JSON."""
    told = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    told.add_argument("photos", type=Path, help="folder of PNGs")
    told.add_argument("--files", default="2000,20000")
    told.add_argument("--one", nargs=3, metavar=("FOLDER", "OUTPUT", "HOW"), help=argparse.SUPPRESS)
    flags = told.parse_args()
    if flags.one:
        folder, output, how = flags.one
        sys.stdout.write(json.dumps(survey(folder, output, how == "alone")) + "\n")
        return 0
    for count in map(int, flags.files.split(",")):
        with tempfile.TemporaryDirectory() as root:
            make_files(flags.photos, Path(root) / "in", count)
            for how in ("alone", "ray"):
                command = [sys.executable, __file__, str(flags.photos), "--one", f"{root}/in", f"{root}/{how}", how]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                print(json.dumps({"count": count, "how": how} | json.loads(done.stdout)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
