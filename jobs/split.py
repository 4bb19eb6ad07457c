"""`driftrec split`: lists of an archive's images for training (80 %), validation (5 %) and test (15 %)."""

import argparse
import sys
from collections.abc import Sequence

from jobs.command import Parts, add_common, run_job

PARTS = Parts(
    settings="pipeline.evaluate.settings:SplitSettings",
    plan="pipeline.split:plan_split",
    run="pipeline.split:run_split",
)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    told = argparse.ArgumentParser(prog="driftrec split", description=__doc__)
    told.add_argument("input", help="folder, tar, glob of tars, or Parquet with images; local or any fsspec URL")
    told.add_argument("output", help="folder or URL for train.txt, validation.txt, test.txt and split.json")
    add_common(told)
    return told


def main(argv: Sequence[str] | None = None) -> int:
    """Read the settings, split, print the result; gives the exit code."""
    return run_job("split", parser(), argv, PARTS)


if __name__ == "__main__":
    sys.exit(main())
