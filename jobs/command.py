"""What all jobs share: stdout carries one JSON object, stderr the talk, and every end has its exit code."""

import argparse
import contextlib
import difflib
import gc
import json
import logging
import os
import pkgutil
import re
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, NoReturn, TextIO

log = logging.getLogger(__name__)

Words = Callable[[Mapping[str, Any]], str]  # how a result is told
AGAIN_S = 0.1  # until a signal that came at a bad moment comes again


class Parts(NamedTuple):
    """Where the parts of a job are, as "module:name": they are imported when their turn comes."""

    settings: str  # a class of settings with a field `output`
    plan: str  # settings -> what --dry-run tells
    run: str  # settings -> the result
    example: str  # a command line, for the help
    files: str = ""  # (settings, INPUTs, stdout) -> the result, where these are files and no archive; "": never


class Parser(argparse.ArgumentParser):
    """A command line whose mistakes are refused as other bad input is, the nearest flag to an unknown one named."""

    def error(self, message: str) -> NoReturn:
        """Raise InvalidInput."""
        from driftrec.errors import InvalidInput

        known = [flag for action in self._actions for flag in action.option_strings]
        unknown = re.findall(r"--[\w-]+", message) if message.startswith("unrecognized") else []
        near = [name for flag in unknown for name in difflib.get_close_matches(flag, known, n=2)]
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise InvalidInput(f"{message}{hint} ({self.prog} --help tells what there is)")


def parsed(
    parser: argparse.ArgumentParser, arguments: Sequence[str], stdout: TextIO, mixed: bool = False
) -> argparse.Namespace:
    """What a command line says; help goes to `stdout`. Raises InvalidInput for a mistake in it, and for credentials,
    which no message of it shows. `mixed`: flags may stand between places of which there are several.
    """
    from driftrec.errors import InvalidInput
    from driftrec.urls import NO_CREDENTIALS_HERE, holds_credentials, redact

    for argument in arguments:
        if holds_credentials(argument):
            raise InvalidInput(f"{redact(argument)}: {NO_CREDENTIALS_HERE}")
    with contextlib.redirect_stdout(stdout):
        return (parser.parse_intermixed_args if mixed else parser.parse_args)(arguments)


def make_parser(name: str, about: str | None, parts: Parts) -> argparse.ArgumentParser:
    """The command line of a job: a flag for every setting, and what every job has."""
    from jobs.flags import add_settings

    settings = pkgutil.resolve_name(parts.settings)
    told = Parser(
        prog=f"driftrec {name}",
        usage=" ".join([f"driftrec {name}", *map(str.upper, settings.required()), "[FLAGS]"]),
        description=(about or "").partition(": ")[2],
        epilog=f"Example: {parts.example}",
        allow_abbrev=False,
    )
    common = told.add_argument_group("Of every job")
    common.add_argument("--config", metavar="FILE", help="YAML file of settings, or an embedded one's name; flags win")
    common.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="any setting; may be repeated")
    common.add_argument(
        "--plugin", action="append", default=[], metavar="MODULE", help="a module or file of your own; may be repeated"
    )
    common.add_argument("--json", action="store_true", help="tell the end as JSON at a terminal, too, as elsewhere")
    common.add_argument("--dry-run", action="store_true", help="tell what would be done at what cost; write nothing")
    common.add_argument("--submit", metavar="URL", help="run as a job of the Ray cluster at URL, say http://HEAD:8265")
    common.add_argument("--detach", action="store_true", help="with --submit: do not wait for the job; tell its name")
    add_settings(told, settings, several="input" if parts.files else None)
    return told


def run_job(name: str, about: str | None, argv: Sequence[str] | None, parts: Parts) -> int:
    """Read the settings of a job; plan, submit or run it; print the result. Gives the exit code."""
    arguments, stdout = list(sys.argv[1:] if argv is None else argv), sys.stdout

    def job() -> Mapping[str, Any]:
        flags = vars(parsed(make_parser(name, about, parts), arguments, stdout, mixed=bool(parts.files)))
        config, assignments, submit, dry_run = (flags.pop(flag) for flag in ("config", "set", "submit", "dry_run"))
        detach, _ = flags.pop("detach"), flags.pop("json")
        from driftrec import plugins
        from driftrec.errors import InvalidInput
        from pipeline.settings import load

        if names := flags.pop("plugin"):
            plugins.add(names)
        if parts.files:
            from pipeline.restore.files import FOR_ARCHIVES, are_files

            inputs: list[str] = flags["input"]
            flags["input"] = inputs[0]
            if are_files(inputs, flags["output"]):
                if submit or dry_run:
                    raise InvalidInput(f"{'--submit' if submit else '--dry-run'} {FOR_ARCHIVES}")
                settings = load(pkgutil.resolve_name(parts.settings), config, assignments, flags)
                return imported(parts.files)(settings, inputs, stdout)
        if detach and not submit:
            raise InvalidInput("--detach goes with --submit; without it the job is this process")

        settings = load(pkgutil.resolve_name(parts.settings), config, assignments, flags)
        if submit and not dry_run:
            choose_token()
            from pipeline.cluster.submit import submit_job

            return submit_job(submit, name, settings, detach)
        return imported(parts.plan if dry_run else parts.run)(settings)

    words = in_short if stdout.isatty() and "--json" not in arguments else json.dumps
    return execute(job, words, of_error=words)


def imported(name: str) -> Any:
    """What a name of Parts means. Nothing that is imported becomes garbage: not to look for any is an eighth quicker,
    and leaves less to look through from then on.
    """
    gc.disable()
    try:
        return pkgutil.resolve_name(name)
    finally:
        gc.freeze()
        gc.enable()


def in_short(result: Mapping[str, Any]) -> str:
    """A result for a person: where the outputs are, or how many of what came out, and where the page is; of an error
    alone nothing, for that has been said.
    """
    from pipeline.inputs.names import visible

    output, lines = visible(str(result.get("output", ""))), list[str]()
    if isinstance(files := result.get("images"), list):
        return "\n".join(f"{visible(file['output'])}: {file['status']}" for file in files)
    if not isinstance(status := result.get("status"), dict) or not output:
        return "" if "error" in result else json.dumps(result, indent=2)
    reasons = ", ".join(f"{count} {reason}" for reason, count in result.get("reasons", {}).items())
    counted = [f"{status['ok']} ok", *(f"{status[name]} {name}" for name in ("failed", "skipped") if status[name])]
    lines.append(f"{result['state']}: {', '.join(counted)}" + (f" ({reasons})" if reasons else ""))
    lines += [f"page: {output}/report.html"] if "report.html" in result.get("leaves", {}) else []
    return "\n".join([*lines, f"all else: {output}/_RESULT.json"])


def choose_token() -> None:
    """For --submit, before Ray is imported: it is to send the user's token if there is one, and else none."""
    has_token = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    has_token = has_token or Path("~/.ray/auth_token").expanduser().exists()
    os.environ.setdefault("RAY_AUTH_MODE", "token" if has_token else "disabled")


class Visible(logging.Formatter):
    """Messages in which no file's name can play with the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        from pipeline.inputs.names import visible

        return visible(super().format(record))


def tell() -> None:
    """Send the talk to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Visible("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def _imports(frame: FrameType | None) -> bool:
    """Whether something is being imported where a signal came."""
    while frame and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None


def execute(job: Callable[[], Mapping[str, Any]], words: Words = json.dumps, of_error: Words = json.dumps) -> int:
    """Run `job`, print its result in `words`, what went wrong in others, on stdout unless a picture has gone there;
    give the exit code: `exit_code` of the result, or the one that fits what it raised.

    SIGINT and SIGTERM raise `Interrupted` in it, once; a second one ends the process as usual. Not inside an import,
    which may hide it and leave modules half made: there the process ends at once, or, once the run has begun, after it.
    """
    from driftrec.errors import DriftRecError, InvalidInput
    from driftrec.urls import redact
    from pipeline.runs.ends import Exit, Interrupted, begun

    early = {"state": "interrupted", "exit_code": Exit.INTERRUPTED, "error": "interrupted before the start"}

    def interrupt(number: int, frame: FrameType | None) -> None:
        if not _imports(frame):
            signal.signal(number, signal.SIG_DFL)
            raise Interrupted
        if begun.is_set():
            threading.Timer(AGAIN_S, os.kill, (os.getpid(), number)).start()
            return
        print(early["error"], file=sys.__stderr__, flush=True)
        print(json.dumps(early), file=sys.__stdout__, flush=True)
        os._exit(Exit.INTERRUPTED)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number in before:
            signal.signal(number, interrupt)
        tell()
        with contextlib.redirect_stdout(sys.stderr):  # Ray tells of dead workers by print
            result = job()
            text = words(result)
    except DriftRecError as error:
        refused = isinstance(error, InvalidInput)
        ended = {"state": "refused" if refused else "failed", "exit_code": Exit.REFUSED if refused else Exit.FAILED}
        result = {**ended, **(error.result or {}), "error": redact(str(error))}
        text = of_error(result)
    except Interrupted:
        result, text = early, of_error(early)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    code = int(result.get("exit_code", Exit.DONE))
    if "error" in result and code != Exit.DONE:
        log.error("%s", result["error"])
    stream = sys.stderr if result.get("stdout") == "picture" else sys.stdout
    stream.write(text and text + "\n")
    stream.flush()
    return code
