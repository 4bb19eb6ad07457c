"""`driftrec restore`: restore an archive, or what an earlier attempt has left of it."""

import argparse
import sys
from collections.abc import Sequence

from jobs.command import Parts, add_common, run_job

PARTS = Parts(
    settings="pipeline.restore.settings:RestoreSettings",
    plan="pipeline.restore.estimate:estimate_restore",
    run="pipeline.restore.job:run_restore",
)


def parser() -> argparse.ArgumentParser:
    """The command line. Settings without a flag (see pipeline/settings.py) go by --set or --config."""
    told = argparse.ArgumentParser(prog="driftrec restore", description=__doc__)
    told.add_argument("input", help="folder, tar, glob of tars, or Parquet with images; local or any fsspec URL")
    told.add_argument("output", help="folder or URL of this run; the same command again finishes what is missing")
    told.add_argument("--model", help="embedded model, or path or URL of a .safetensors (default tiny)")
    told.add_argument("--sampler", choices=("multistep", "euler-maruyama", "euler-heun", "ode"))
    told.add_argument("--steps", type=int, metavar="N", help="evaluations of the network for a sample")
    told.add_argument("--samples", type=int, metavar="K", help="samples to average (default 1)")
    told.add_argument("--fidelity", type=float, metavar="F", help="0: a posterior sample; 1: the posterior mean")
    told.add_argument("--no-color-correction", dest="color_correction", action="store_false", default=None)
    told.add_argument("--tile", type=int, metavar="N", help="longest side that is restored in one piece (default 512)")
    told.add_argument("--start", type=float, metavar="T", help="begin at a time below 1, from the mean with noise")
    told.add_argument("--grid", choices=("uniform", "quadratic", "lambda"), help="where the sampler evaluates")
    told.add_argument("--eta", type=float, metavar="E", help="multistep: 0 is the ODE (default), 1 the reverse SDE")
    told.add_argument("--tolerance", type=float, metavar="E", help="ode: largest error of a step (default 0.01)")
    told.add_argument(
        "--no-projection",
        dest="projection",
        action="store_false",
        default=None,
        help="let outputs contradict the coefficients of their JPEG files",
    )
    told.add_argument(
        "--adaptive",
        action=argparse.BooleanOptionalAction,
        help="do as much as a JPEG's quality asks for (default), or the same for all",
    )
    told.add_argument("--skip-above", type=int, metavar="Q", help="leave JPEGs of this quality or more as they are")
    told.add_argument("--skipped", choices=("copy", "list"), help="copy skipped files (default), or only list them")
    told.add_argument("--frames", choices=("first", "skip"), help="of animations and TIFF pages (default first)")
    told.add_argument("--format", choices=("png", "same", "jpeg", "webp", "tiff"), help="of the outputs (default png)")
    told.add_argument("--layout", choices=("tree", "tar"), help="outputs as the inputs lie (default), or a tar a shard")
    told.add_argument("--include", action="append", metavar="PATTERN", help="only keys that match; may be repeated")
    told.add_argument("--exclude", action="append", metavar="PATTERN", help="no keys that match; may be repeated")
    told.add_argument("--only-listed", metavar="FILE", help="only the keys in a text, CSV or Parquet file")
    told.add_argument("--max-failed", metavar="N|P%", help="failed images that are still a success (default 0)")
    told.add_argument(
        "--retry-failed",
        nargs="?",
        const="all",
        metavar="REASON",
        help="do images of a finished shard again that failed (for this reason)",
    )
    told.add_argument(
        "--repair",
        action="store_true",
        default=None,
        help="do images of a finished shard again whose output is missing or was changed",
    )
    told.add_argument(
        "--copy-failed", action="store_true", default=None, help="put files that failed, as they are, among the outputs"
    )
    told.add_argument(
        "--image-timeout",
        dest="image_timeout_s",
        type=float,
        metavar="S",
        help="seconds after which a step on one image counts as hung (default 3600)",
    )
    told.add_argument("--actors", type=int, metavar="N", help="processes with a model (default: one a GPU, or a CPU)")
    told.add_argument("--batch-size", type=int, metavar="N", help="images given to the network together (default 4)")
    told.add_argument("--gpus-per-actor", type=float, metavar="G", help="default 1 where the cluster has GPUs")
    told.add_argument("--progress", dest="progress_s", type=float, metavar="S", help="seconds between progress lines")
    add_common(told)
    return told


def main(argv: Sequence[str] | None = None) -> int:
    """Read the settings, restore, print the result; gives the exit code."""
    return run_job("restore", parser(), argv, PARTS)


if __name__ == "__main__":
    sys.exit(main())
