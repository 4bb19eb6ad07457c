"""`driftrec train`: train a model on clean images, or go on with it."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from jobs.command import add_common, execute


def parser() -> argparse.ArgumentParser:
    """The command line. Settings without a flag (see pipeline/train_settings.py) go by --set or --config."""
    told = argparse.ArgumentParser(prog="driftrec train", description=__doc__)
    told.add_argument("data", help="clean images: folder, tar, glob of tars, or Parquet; local or any fsspec URL")
    told.add_argument("output", help="folder or URL of this run; the same command again goes on with it")
    told.add_argument("--corrupted", metavar="URL", help="the same images damaged, by name: pairs instead of JPEGs")
    told.add_argument("--validation", metavar="URL", help="clean images that are restored and scored every so often")
    told.add_argument("--workers", type=int, metavar="N", help="training processes (default 1)")
    told.add_argument("--min-workers", type=int, metavar="N", help="go on with so many where there is no room for all")
    told.add_argument("--gpus-per-worker", type=int, choices=(0, 1), help="default 1 where the cluster has GPUs")
    told.add_argument("--steps", type=int, metavar="N", help="length of the training: optimizer.steps")
    told.add_argument(
        "--init", dest="init_from", metavar="STATE", help="training state to go on from, say of another run"
    )
    told.add_argument("--submit", metavar="URL", help="run as a job of the Ray cluster at URL, say http://HEAD:8265")
    add_common(told)
    return told


def main(argv: Sequence[str] | None = None) -> int:
    """Read the settings, train, print the result; gives the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    flags = vars(parser().parse_args(arguments))
    config, assignments, steps = flags.pop("config"), flags.pop("set"), flags.pop("steps")
    submit, dry_run = flags.pop("submit"), flags.pop("dry_run")
    if steps is not None:
        assignments.append(f"optimizer.steps={steps}")

    def job() -> dict[str, Any]:
        from pipeline.settings import load
        from pipeline.train_settings import TrainSettings

        settings = load(TrainSettings, config, assignments, flags)
        if submit and not dry_run:
            from pipeline.submit import submit_job

            return submit_job(submit, "train", arguments, settings.output)
        from pipeline.train import plan_train, run_train

        return plan_train(settings) if dry_run else run_train(settings)

    return execute(job)


if __name__ == "__main__":
    sys.exit(main())
