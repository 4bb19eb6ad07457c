"""The command `driftrec`: gives the arguments to the job that is named. Imports nothing heavy before it knows which."""

import gc
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from driftrec import __version__
from jobs.command import Parser, execute, parsed

JOBS = {
    "restore": "restore an archive of JPEG-damaged images",
    "evaluate": "damage clean images, restore and score them; tables, curves and pictures as one page",
    "survey": "tell what is in an archive, what is damaged, and what a restore would cost",
    "degrade": "make JPEG copies of clean images, for tests and for other tools",
    "status": "tell how far a run is, at what speed, and for how long it will still run",
    "verify": "tell whether all that a run has done is still there, as its ledger says",
    "split": "divide an archive into lists for training, validation and test",
    "train": "train a model on clean images, or go on with it",
    "serve": "a web page on this machine: drop a picture, see before and after",
    "weights": "list and fetch the files that learned metrics need",
    "completion": "a script by which bash or zsh completes jobs and flags",
    "models": "list and show models; import a checkpoint of the authors' implementation",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `driftrec JOB ...`; gives the exit code."""
    parser = Parser(
        prog="driftrec",
        description="Restores JPEG-damaged image archives with a diffusion model, in bulk, on Ray.",
        epilog="driftrec JOB --help tells the rest. Exit codes: 0 done; 1 the run failed; 2 bad settings or input, "
        "nothing was started; 3 done, but more images failed than --max-failed, or outputs are gone; 130 interrupted, "
        "the same command goes on.",
    )
    parser.add_argument("--version", action="version", version=f"driftrec {__version__}")
    jobs = parser.add_subparsers(dest="job", metavar="JOB", required=True)
    for name, purpose in JOBS.items():
        jobs.add_parser(name, help=purpose, add_help=False)
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in JOBS:
        return int(import_module(f"jobs.{arguments[0]}").main(arguments[1:]))
    stdout = sys.stdout
    return execute(lambda: vars(parsed(parser, arguments[:1], stdout)))  # help, or what is wrong


def command() -> NoReturn:
    """What a process of this command does. At its end nothing is sought that could be freed: a third of a second."""
    code = main()
    gc.freeze()
    sys.exit(code)


if __name__ == "__main__":
    command()
