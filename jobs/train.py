"""`driftrec train`: train a model on clean images, or go on with it."""

import sys
from collections.abc import Sequence

from jobs.command import Parts, run_job

PARTS = Parts(
    settings="pipeline.train.settings:TrainSettings",
    plan="pipeline.train.job:plan_train",
    run="pipeline.train.job:run_train",
    example="driftrec train photos/ run/ --config tiny --set optimizer.lr=2e-4",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Read the settings, train, print the result; gives the exit code."""
    return run_job("train", __doc__, argv, PARTS)


if __name__ == "__main__":
    sys.exit(main())
