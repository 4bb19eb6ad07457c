"""`driftrec completion`: a script by which the shell completes jobs, flags and their choices: bash and zsh."""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

from jobs.command import Parser, execute, make_parser, parsed

SHELLS = ("bash", "zsh")
HOW = {
    "bash": "driftrec completion bash > ~/.local/share/bash-completion/completions/driftrec",
    "zsh": "put  source <(driftrec completion zsh)  into ~/.zshrc",
}
SCRIPT = """\
_driftrec() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}}
    local words=""
    if ((COMP_CWORD == 1)); then
        words="{jobs} --help --version"
    else
        case "${{COMP_WORDS[1]}} $before" in
{choices}
            *)
                case "${{COMP_WORDS[1]}}" in
{flags}
                esac
                ;;
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _driftrec driftrec
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(prog="driftrec completion", description=(__doc__ or "").partition(": ")[2])
    parser.add_argument("shell", choices=SHELLS, help="; ".join(f"{shell}: {how}" for shell, how in HOW.items()))
    return parser


def script(shell: str) -> str:
    """What the shell is to read."""
    from jobs.cli import JOBS

    choices: list[str] = []
    flags: list[str] = []
    for job in JOBS:
        known = dict(_flags(job))
        flags.append(f'                    {job}) words="{" ".join(sorted(known))}" ;;')
        chosen = [(flag, " ".join(words)) for flag, words in sorted(known.items()) if words]
        choices += [f'            "{job} {flag}") words="{words}" ;;' for flag, words in chosen]
    begin = "autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else ""
    return begin + SCRIPT.format(jobs=" ".join(JOBS), choices="\n".join(choices), flags="\n".join(flags))


def _flags(job: str) -> Iterator[tuple[str, list[str]]]:
    """(flag, the words that it may be given) of a job; the actions of one that has some count as flags."""
    module = import_module(f"jobs.{job}")
    told = make_parser(job, None, module.PARTS) if hasattr(module, "PARTS") else module.parser()
    for action in told._actions:
        words = [text for text in str(action.metavar or "").split("|") if "|" in str(action.metavar)]
        for flag in action.option_strings:
            yield flag, [] if flag.startswith("--no-") else words
        if isinstance(action.choices, Mapping):
            yield from ((str(name), []) for name in action.choices)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the script; gives the exit code."""
    arguments, stdout = list(sys.argv[1:] if argv is None else argv), sys.stdout

    def job() -> Mapping[str, Any]:
        return {"script": script(parsed(parser(), arguments, stdout).shell)}

    return execute(job, lambda result: str(result["script"]).rstrip("\n"))


if __name__ == "__main__":
    sys.exit(main())
