"""`driftrec degrade`: JPEG copies of clean images, for tests and for tools that are to be compared."""

import argparse
import sys
from collections.abc import Sequence

from jobs.command import Parts, add_common, run_job

PARTS = Parts(
    settings="pipeline.evaluate.settings:DegradeSettings",
    plan="pipeline.degrade:plan_degrade",
    run="pipeline.degrade:run_degrade",
)


def parser() -> argparse.ArgumentParser:
    """The command line. Settings without a flag (see pipeline/evaluate/settings.py) go by --set or --config."""
    told = argparse.ArgumentParser(prog="driftrec degrade", description=__doc__)
    told.add_argument("input", help="clean images: folder, tar, glob of tars, or Parquet; local or any fsspec URL")
    told.add_argument("output", help="folder or URL of this run; the same command again finishes what is missing")
    told.add_argument("--quality", metavar="Q,...", help="JPEG qualities; 30/10 compresses twice (default 5,10,20,30)")
    told.add_argument("--second-quality", metavar="Q,...", help="compress each a second time, at these qualities")
    told.add_argument("--shift", type=int, metavar="N", help="before that crop by 0 to N pixels (default 4)")
    told.add_argument("--subsampling", metavar="S,...", help="of 4:2:0 (default), 4:2:2, 4:4:4")
    told.add_argument("--max-failed", metavar="N|P%", help="failed images that are still a success (default 0)")
    told.add_argument(
        "--repair", action="store_true", default=None, help="do images again whose copies are missing or were changed"
    )
    told.add_argument("--actors", type=int, metavar="N", help="processes (default: one a CPU)")
    told.add_argument("--progress", dest="progress_s", type=float, metavar="S", help="seconds between progress lines")
    add_common(told)
    return told


def main(argv: Sequence[str] | None = None) -> int:
    """Read the settings, degrade, print the result; gives the exit code."""
    return run_job("degrade", parser(), argv, PARTS)


if __name__ == "__main__":
    sys.exit(main())
