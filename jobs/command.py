"""What all jobs share: stdout carries one JSON object, stderr the talk, and every end has its exit code."""

import argparse
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


def add_common(told: argparse.ArgumentParser) -> None:
    """The flags that every job has."""
    told.add_argument("--config", metavar="FILE", help="YAML file of settings; flags win over it")
    told.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="any setting; may be repeated")
    told.add_argument("--seed", type=int, metavar="N", help="seed of all noise (default 0)")
    told.add_argument("--limit", type=int, metavar="N", help="only the first N images")
    told.add_argument("--dry-run", action="store_true", help="tell what would be done and what it costs; write nothing")


def choose_token() -> None:
    """For --submit, before Ray is imported: it is to send the user's token if there is one, and else none."""
    has_token = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    has_token = has_token or Path("~/.ray/auth_token").expanduser().exists()
    os.environ.setdefault("RAY_AUTH_MODE", "token" if has_token else "disabled")


def execute(job: Callable[[], dict[str, Any]]) -> int:
    """Run `job`, print its result, give the exit code: `exit_code` of the result, or the one that fits what it raised.

    SIGINT and SIGTERM raise `Interrupted` in it, once; a second one ends the process as usual.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    from driftrec.errors import DriftRecError, InvalidInput
    from pipeline.run import Exit, Interrupted

    def interrupt(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise Interrupted

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with contextlib.redirect_stdout(sys.stderr):  # Ray tells of dead workers by print
            result = job()
    except InvalidInput as error:
        result = {"state": "refused", "exit_code": Exit.REFUSED, "error": str(error)}
    except DriftRecError as error:
        result = {"state": "failed", "exit_code": Exit.FAILED, "error": str(error)}
    except Interrupted:
        result = {"state": "interrupted", "exit_code": Exit.INTERRUPTED, "error": "interrupted before the start"}
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if "error" in result:
        log.error("%s", result["error"])
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()
    return int(result.get("exit_code", Exit.DONE))
