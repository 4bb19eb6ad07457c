"""`driftrec train`: train a model on clean images, or go on with it."""

import argparse
import sys
from collections.abc import Sequence

from jobs.command import Parts, add_common, run_job

PARTS = Parts(
    settings="pipeline.train.settings:TrainSettings",
    plan="pipeline.train.job:plan_train",
    run="pipeline.train.job:run_train",
)


def parser() -> argparse.ArgumentParser:
    """The command line. Settings without a flag (see pipeline/train/settings.py) go by --set or --config."""
    told = argparse.ArgumentParser(prog="driftrec train", description=__doc__)
    told.add_argument("data", help="clean images: folder, tar, glob of tars, or Parquet; local or any fsspec URL")
    told.add_argument("output", help="folder or URL of this run; the same command again goes on with it")
    told.add_argument("--corrupted", metavar="URL", help="the same images damaged, by name: pairs instead of JPEGs")
    told.add_argument("--validation", metavar="URL", help="clean images that are restored and scored every so often")
    told.add_argument("--workers", type=int, metavar="N", help="training processes (default 1)")
    told.add_argument("--min-workers", type=int, metavar="N", help="go on with so many where there is no room for all")
    told.add_argument("--gpus-per-worker", type=int, choices=(0, 1), help="default 1 where the cluster has GPUs")
    told.add_argument(
        "--steps",
        dest="set",
        action="append",
        default=[],
        type=lambda steps: f"optimizer.steps={int(steps)}",
        metavar="N",
        help="length of the training: optimizer.steps",
    )
    told.add_argument(
        "--init", dest="init_from", metavar="STATE", help="training state to go on from, say of another run"
    )
    add_common(told)
    return told


def main(argv: Sequence[str] | None = None) -> int:
    """Read the settings, train, print the result; gives the exit code."""
    return run_job("train", parser(), argv, PARTS)


if __name__ == "__main__":
    sys.exit(main())
