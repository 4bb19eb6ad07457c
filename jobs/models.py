"""`driftrec models`: the embedded models, what a weights file holds, and the import of the authors' checkpoints."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from jobs.command import Parser, execute, parsed


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(prog="driftrec models", description=__doc__)
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("list", help="the embedded models")
    show = actions.add_parser("show", help="network, process and history of one model")
    show.add_argument("model", metavar="NAME", help="an embedded model, or the path of a .safetensors file")
    taken = actions.add_parser(
        "import", help="turn a checkpoint of the authors' implementation into a .safetensors file"
    )
    taken.add_argument(
        "source", metavar="AUTHORS.ckpt", help="a PyTorch Lightning checkpoint; its pickle is not executed"
    )
    taken.add_argument(
        "--kind",
        choices=("driftrec", "qgac"),
        default="driftrec",
        help="driftrec: that checkpoint; qgac: QGAC's weights, any names in the network's order, for qgac:PATH",
    )
    taken.add_argument("target", metavar="OUT.safetensors", help="written whole or not at all")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Do what is asked, print the result; gives the exit code."""
    arguments, stdout = list(sys.argv[1:] if argv is None else argv), sys.stdout

    def job() -> Mapping[str, Any]:
        asked = parsed(parser(), arguments, stdout)
        from driftrec.models import qgac
        from driftrec.models.checkpoint import describe, embedded, import_authors

        if asked.action == "list":
            return {"models": [describe(name) for name in embedded()]}
        if asked.action == "show":
            return describe(asked.model)
        if asked.kind == "qgac":
            return {"model": f"qgac:{asked.target}", "matched": qgac.import_published(asked.source, asked.target)}
        import_authors(asked.source, asked.target)
        return describe(asked.target)

    return execute(job)


if __name__ == "__main__":
    sys.exit(main())
