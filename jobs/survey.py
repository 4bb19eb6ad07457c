"""`driftrec survey`: what is in an archive, what is damaged, and what a restore would cost."""

import argparse
import sys
from collections.abc import Sequence

from jobs.command import Parts, add_common, run_job

PARTS = Parts(
    settings="pipeline.survey.settings:SurveySettings",
    plan="pipeline.survey.job:plan_survey",
    run="pipeline.survey.job:run_survey",
)


def parser() -> argparse.ArgumentParser:
    """The command line. Settings without a flag (see pipeline/survey/settings.py) go by --set or --config."""
    told = argparse.ArgumentParser(prog="driftrec survey", description=__doc__)
    told.add_argument("input", help="folder, tar, glob of tars, or Parquet with images; local or any fsspec URL")
    told.add_argument("output", help="folder or URL of this run; the same command again finishes what is missing")
    told.add_argument(
        "--pixels",
        metavar="SHARE|all|none",
        help="files that are decoded, for blocking and earlier compressions: a share such as 10%% (default auto: some "
        "500, or 1%% of large archives); of the others headers are read",
    )
    told.add_argument("--model", help="whose cost is measured: as for restore (default tiny)")
    told.add_argument("--steps", type=int, metavar="N", help="evaluations of the network for a sample")
    told.add_argument("--samples", type=int, metavar="K", help="samples to average (default 1)")
    told.add_argument("--fidelity", type=float, metavar="F", help="0: a posterior sample; 1: the posterior mean")
    told.add_argument("--calibration", dest="calibration_s", type=float, metavar="S", help="seconds; 0: do not measure")
    told.add_argument("--gpu-megapixels-per-s", type=float, metavar="X", help="of one GPU, to reckon GPU hours with")
    told.add_argument("--max-failed", metavar="N|P%", help="damaged images that are still a success (default 0)")
    told.add_argument("--progress", dest="progress_s", type=float, metavar="S", help="seconds between progress lines")
    add_common(told)
    return told


def main(argv: Sequence[str] | None = None) -> int:
    """Read the settings, survey, print the result; gives the exit code."""
    return run_job("survey", parser(), argv, PARTS)


if __name__ == "__main__":
    sys.exit(main())
