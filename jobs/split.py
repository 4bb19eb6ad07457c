"""`driftrec split`: lists of an archive's images for training (80 %), validation (5 %) and test (15 %)."""

import sys
from collections.abc import Sequence

from jobs.command import Parts, run_job

PARTS = Parts(
    settings="pipeline.evaluate.settings:SplitSettings",
    plan="pipeline.split:plan_split",
    run="pipeline.split:run_split",
    example="driftrec split photos/ lists/",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Read the settings, split, print the result; gives the exit code."""
    return run_job("split", __doc__, argv, PARTS)


if __name__ == "__main__":
    sys.exit(main())
