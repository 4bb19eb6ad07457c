"""`driftrec evaluate`: damage clean images, restore and score them, beside what other tools made of the same images."""

import argparse
import sys
from collections.abc import Sequence

from jobs.command import Parts, add_common, run_job

PARTS = Parts(
    settings="pipeline.evaluate.settings:EvaluateSettings",
    plan="pipeline.evaluate.job:plan_evaluate",
    run="pipeline.evaluate.job:run_evaluate",
)


def parser() -> argparse.ArgumentParser:
    """The command line. Settings without a flag (see pipeline/evaluate/settings.py) go by --set or --config."""
    told = argparse.ArgumentParser(prog="driftrec evaluate", description=__doc__)
    told.add_argument("reference", help="clean images: folder, tar, glob of tars, or Parquet; local or any fsspec URL")
    told.add_argument("output", help="folder or URL of this run; the same command again finishes what is missing")
    told.add_argument(
        "--model",
        action="append",
        metavar="[NAME=]MODEL[?SETTING=VALUE&...]",
        help="a model of ours, say mean=tiny?fidelity=1 (in quotes); may be repeated",
    )
    told.add_argument(
        "--candidate",
        action="append",
        metavar="NAME=URL",
        help="files that another tool restored from what `driftrec degrade` writes; below URL/<condition> where there "
        "are several conditions; may be repeated",
    )
    told.add_argument("--quality", metavar="Q,...", help="JPEG qualities; 30/10 compresses twice (default 5,10,20,30)")
    told.add_argument("--second-quality", metavar="Q,...", help="compress each a second time, at these qualities")
    told.add_argument("--shift", type=int, metavar="N", help="before that crop by 0 to N pixels (default 4)")
    told.add_argument("--subsampling", metavar="S,...", help="of 4:2:0 (default), 4:2:2, 4:4:4")
    told.add_argument("--metrics", metavar="M,...", help="see docs/metrics.md (default psnr,ssim,psnrb,bef)")
    told.add_argument(
        "--weights", action="append", metavar="NAME=PATH|URL", help="of a metric; else sought in TORCH_HOME"
    )
    told.add_argument("--classifier", metavar="NAME", help="of torchvision, for accuracy (default resnet50)")
    told.add_argument("--labels", metavar="URL", help="CSV or Parquet with columns key and label, for accuracy")
    told.add_argument("--max-failed", metavar="N|P%", help="images with a failure that are still a success (default 0)")
    told.add_argument("--actors", type=int, metavar="N", help="processes that restore (default: one a GPU, or a CPU)")
    told.add_argument("--scorers", type=int, metavar="N", help="processes that score")
    told.add_argument("--batch-size", type=int, metavar="N", help="conditions restored together (default 4)")
    told.add_argument("--gpus-per-actor", type=float, metavar="G", help="default 1 where the cluster has GPUs")
    told.add_argument("--progress", dest="progress_s", type=float, metavar="S", help="seconds between progress lines")
    add_common(told)
    return told


def main(argv: Sequence[str] | None = None) -> int:
    """Read the settings, evaluate, print the result; gives the exit code."""
    return run_job("evaluate", parser(), argv, PARTS)


if __name__ == "__main__":
    sys.exit(main())
