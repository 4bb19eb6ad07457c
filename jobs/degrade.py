"""`driftrec degrade`: JPEG copies of clean images, for tests and for tools that are to be compared."""

import sys
from collections.abc import Sequence

from jobs.command import Parts, run_job

PARTS = Parts(
    settings="pipeline.evaluate.settings:DegradeSettings",
    plan="pipeline.degrade:plan_degrade",
    run="pipeline.degrade:run_degrade",
    example="driftrec degrade clean/ jpegs/ --quality 5,10,30/10",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Read the settings, degrade, print the result; gives the exit code."""
    return run_job("degrade", __doc__, argv, PARTS)


if __name__ == "__main__":
    sys.exit(main())
