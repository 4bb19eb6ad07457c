"""`driftrec evaluate`: damage clean images, restore and score them, beside what other tools made of the same images."""

import sys
from collections.abc import Sequence

from jobs.command import Parts, run_job

PARTS = Parts(
    settings="pipeline.evaluate.settings:EvaluateSettings",
    plan="pipeline.evaluate.job:plan_evaluate",
    run="pipeline.evaluate.job:run_evaluate",
    example="driftrec evaluate clean/ scores/ --model mean=tiny?fidelity=1 --model tiny --quality 10,30/10",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Read the settings, evaluate, print the result; gives the exit code."""
    return run_job("evaluate", __doc__, argv, PARTS)


if __name__ == "__main__":
    sys.exit(main())
