"""`driftrec survey`: what is in an archive, what is damaged, and what a restore would cost."""

import sys
from collections.abc import Sequence

from jobs.command import Parts, run_job

PARTS = Parts(
    settings="pipeline.survey.settings:SurveySettings",
    plan="pipeline.survey.job:plan_survey",
    run="pipeline.survey.job:run_survey",
    example="driftrec survey s3://archive/photos survey/ --pixels 10%",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Read the settings, survey, print the result; gives the exit code."""
    return run_job("survey", __doc__, argv, PARTS)


if __name__ == "__main__":
    sys.exit(main())
