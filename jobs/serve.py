"""`driftrec serve`: a web page on this machine: drop a picture, see before and after, take it with you."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from jobs.command import Parser, execute, parsed


def parser() -> argparse.ArgumentParser:
    """The command line."""
    from jobs.flags import add_settings
    from pipeline.serve.settings import ServeSettings

    told = Parser(
        prog="driftrec serve",
        description=(__doc__ or "").partition(": ")[2],
        epilog="Example: driftrec serve --port 8000, then open http://127.0.0.1:8000. Over HTTP: "
        "curl --data-binary @photo.jpg 'http://127.0.0.1:8000/restore?look=natural&format=png' -o restored.png",
        allow_abbrev=False,
    )
    add_settings(told, ServeSettings)
    return told


def main(argv: Sequence[str] | None = None) -> int:
    """Answer until a signal comes; gives the exit code."""
    arguments, stdout = list(sys.argv[1:] if argv is None else argv), sys.stdout

    def job() -> Mapping[str, Any]:
        flags = vars(parsed(parser(), arguments, stdout))
        from pipeline.serve.job import run_serve
        from pipeline.serve.settings import ServeSettings
        from pipeline.settings import load

        return run_serve(load(ServeSettings, flags=flags))

    return execute(job)


if __name__ == "__main__":
    sys.exit(main())
