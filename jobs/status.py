"""`driftrec status`: how far is a run, how fast, and for how long will it still run? Reads OUTPUT, and needs no Ray."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from jobs.command import Parser, execute, parsed


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(
        prog="driftrec status",
        description=__doc__,
        epilog="Exit codes: 0 it is told, whatever the run's state; 1 storage does not answer; 2 OUTPUT is no run's.",
    )
    parser.add_argument("output", help="folder or URL of a run of restore, degrade, evaluate, survey or train")
    parser.add_argument("--json", action="store_true", help="as JSON, also on a terminal; elsewhere it is JSON anyway")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Tell of the run in OUTPUT; gives the exit code."""
    arguments, stdout = list(sys.argv[1:] if argv is None else argv), sys.stdout
    for_people = stdout.isatty() and "--json" not in arguments

    def job() -> Mapping[str, Any]:
        asked = parsed(parser(), arguments, stdout)
        from pipeline.status import status_of

        return status_of(asked.output)

    def words(told: Mapping[str, Any]) -> str:
        from pipeline.status import screen

        return screen(told) if for_people else json.dumps(told)

    return execute(job, words)


if __name__ == "__main__":
    sys.exit(main())
