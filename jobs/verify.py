"""`driftrec verify`: is all that a run has done still there, as its ledger says? Touches nothing, and needs no Ray."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from jobs.command import Parser, execute, parsed


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(
        prog="driftrec verify",
        description=__doc__,
        epilog="Exit codes: 0 all is there; 3 something is not, as `found` tells; 2 OUTPUT is no run's.",
    )
    parser.add_argument("output", help="folder or URL of a run of restore, degrade, evaluate, survey or train")
    parser.add_argument("--quick", action="store_true", help="look at names and sizes only, and read no output")
    parser.add_argument("--list", metavar="FILE", help="write all that is found to FILE, one per line: kind, tab, name")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Look through OUTPUT, print what was found; gives the exit code."""
    arguments, stdout = list(sys.argv[1:] if argv is None else argv), sys.stdout

    def job() -> Mapping[str, Any]:
        asked = parsed(parser(), arguments, stdout)
        from pipeline.runs.verify import listing_to, verify

        with listing_to(Path(asked.list)) if asked.list else nullcontext() as tell:
            return verify(asked.output, asked.quick, tell)

    return execute(job)


if __name__ == "__main__":
    sys.exit(main())
