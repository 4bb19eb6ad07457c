"""`driftrec weights`: the files that learned metrics need: which there are, which are here; fetched by name."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from jobs.command import Parser, execute, parsed


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(prog="driftrec weights", description=(__doc__ or "").partition(": ")[2])
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("list", help="all files, where they are published, and whether they are here")
    fetch = actions.add_parser("fetch", help="fetch files from their publishers into TORCH_HOME; what is there stays")
    fetch.add_argument("names", metavar="NAME", nargs="+", help="as in the list, or a classifier of torchvision")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Do what is asked, print the result; gives the exit code."""
    arguments, stdout = list(sys.argv[1:] if argv is None else argv), sys.stdout

    def job() -> Mapping[str, Any]:
        asked = parsed(parser(), arguments, stdout)
        from driftrec.metrics import weights
        from driftrec.models.tensors import file_sha256

        if asked.action == "list":
            return {"folder": str(weights.folder()), "weights": [weights.told(name) for name in weights.WEIGHTS]}
        for name in asked.names:  # a name that is wrong is told before a large file is fetched
            weights.published(name)
        found = {name: weights.fetch(name) for name in asked.names}
        return {"weights": [{"name": n, "path": str(path), "sha256": file_sha256(path)} for n, path in found.items()]}

    return execute(job)


if __name__ == "__main__":
    sys.exit(main())
