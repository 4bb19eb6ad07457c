"""`driftrec split`: lists of an archive's images for training (80 %), validation (5 %) and test (15 %)."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from jobs.command import add_common, execute


def parser() -> argparse.ArgumentParser:
    """The command line."""
    told = argparse.ArgumentParser(prog="driftrec split", description=__doc__)
    told.add_argument("input", help="folder, tar, glob of tars, or Parquet with images; local or any fsspec URL")
    told.add_argument("output", help="folder or URL for train.txt, validation.txt, test.txt and split.json")
    add_common(told)
    return told


def main(argv: Sequence[str] | None = None) -> int:
    """Read the settings, split, print the result; gives the exit code."""
    flags = vars(parser().parse_args(argv))
    config, assignments, dry_run = flags.pop("config"), flags.pop("set"), flags.pop("dry_run")

    def job() -> dict[str, Any]:
        from pipeline.evaluate_settings import SplitSettings
        from pipeline.settings import load
        from pipeline.split import plan_split, run_split

        settings = load(SplitSettings, config, assignments, flags)
        return plan_split(settings) if dry_run else run_split(settings)

    return execute(job)


if __name__ == "__main__":
    sys.exit(main())
