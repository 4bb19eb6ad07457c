"""`driftrec survey`: what is in an archive, what is damaged, and what a restore would cost."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from jobs.command import add_common, choose_token, execute


def parser() -> argparse.ArgumentParser:
    """The command line. Settings without a flag (see pipeline/survey_settings.py) go by --set or --config."""
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
    told.add_argument("--submit", metavar="URL", help="run as a job of the Ray cluster at URL, say http://HEAD:8265")
    add_common(told)
    return told


def main(argv: Sequence[str] | None = None) -> int:
    """Read the settings, survey, print the result; gives the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    flags = vars(parser().parse_args(arguments))
    config, assignments = flags.pop("config"), flags.pop("set")
    submit, dry_run = flags.pop("submit"), flags.pop("dry_run")
    if submit:
        choose_token()

    def job() -> dict[str, Any]:
        from pipeline.settings import load
        from pipeline.survey_settings import SurveySettings

        settings = load(SurveySettings, config, assignments, flags)
        if submit and not dry_run:
            from pipeline.submit import submit_job

            return submit_job(submit, "survey", arguments, settings.output)
        from pipeline.survey import plan_survey, run_survey

        return plan_survey(settings) if dry_run else run_survey(settings)

    return execute(job)


if __name__ == "__main__":
    sys.exit(main())
