"""Reference pages made from the code, and pages of the repository's root: a hook of MkDocs (see mkdocs.yml).

`pages()` needs no MkDocs, so that tests can look at what it makes. A settings page says what `--help` says.
"""

import argparse
import dataclasses
import inspect
import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
COPIES = {  # pages outside docs/, and where they are in the site
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "driftrec/models/tiny.md": "reference/tiny.md",
    "examples/CREDITS.md": "credits.md",
}
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")
DOCS_PAGE = re.compile(r"docs/([\w/-]+\.md)")  # as comments and docstrings name one
SETTING_NAMES = """`--set NAME=VALUE` and lines of a `--config` file take each flag's name without its dashes, and with
`_` for `-`; names that differ stand in brackets.

"""


def pages() -> dict[str, str]:
    """Path below docs/ -> Markdown, of every page that is made."""
    from jobs.cli import JOBS

    made = {f"reference/jobs/{name}.md": job_page(name, purpose) for name, purpose in JOBS.items()}
    made |= {"reference/api/options.md": options_page(), "reference/ledger.md": ledger_page()}
    return made | {"reference/reasons.md": reasons_page(), "reference/metrics.md": metrics_page()}


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    lines = [list(head), *(list(row) for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def prose(text: str) -> str:
    """A comment as a cell of a table, its docs page a link."""
    text = text.replace("<", "&lt;").replace("|", "\\|")
    return DOCS_PAGE.sub(lambda page: f"[{title(page[1])}](../../{page[1]})", text)


def title(page: str) -> str:
    """The heading of a page below docs/."""
    return (ROOT / "docs" / page).read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")


# settings


def job_page(name: str, purpose: str) -> str:
    """The command line of one job."""
    from jobs.command import make_parser

    module = import_module(f"jobs.{name}")
    parser = make_parser(name, module.__doc__ or "", module.PARTS) if hasattr(module, "PARTS") else module.parser()
    page = f"# driftrec {name}\n\n{purpose[:1].upper() + purpose[1:]}.\n\n    {usage(parser)}\n\n"
    page += f"{parser.epilog}\n\n" if parser.epilog and not parser.epilog.startswith("Example") else ""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return page + "".join(subcommand(action, inner) for inner in action.choices)
    if parser.epilog and parser.epilog.startswith("Example: "):
        page += f"Example:\n\n    {parser.epilog.removeprefix('Example: ')}\n\n"
    if hasattr(module, "PARTS"):
        page += SETTING_NAMES
    page += "".join(group_section(group) for group in parser._action_groups)
    return page + (processes_section() if name == "train" else "")


def usage(parser: argparse.ArgumentParser) -> str:
    """In one line."""
    return " ".join(parser.format_usage().removeprefix("usage: ").split())


def subcommand(action: argparse._SubParsersAction, name: str) -> str:
    """A section for one action of a job."""
    parser: argparse.ArgumentParser = action.choices[name]
    about = next(choice.help or "" for choice in action._choices_actions if choice.dest == name)
    arguments = [one for group in parser._action_groups for one in group._group_actions if one.dest != "help"]
    rows = [(f"`{one.metavar}`", prose(one.help or "")) for one in arguments]
    section = f"## {name}\n\n{about[:1].upper() + about[1:]}.\n\n    {usage(parser)}\n\n"
    return section + (table(("argument", ""), rows) + "\n" if rows else "")


def group_section(group: argparse._ArgumentGroup) -> str:
    """A table of the settings of one group."""
    actions = [action for action in group._group_actions if action.dest != "help"]
    if not actions:
        return f"## {group.title}\n\n{group.description}\n\n" if group.description else ""
    heading = {"positional arguments": "What must be given", "options": "Flags"}.get(group.title or "", group.title)
    rows = ((flags(one), prose((one.help or "").replace("%%", "%"))) for one in actions)
    about = f"{group.description}\n\n" if group.description else ""
    return f"## {heading}\n\n{about}{table(('flag', 'what it is'), rows)}\n"


def flags(action: argparse.Action) -> str:
    """How an argument is given on a command line, and its name for --set where that is another."""
    if not action.option_strings:
        return f"`{action.dest.upper()}`"
    words = f" {action.metavar}" if action.metavar and action.nargs != 0 else ""
    given = "<br>".join(f"`{flag}{words}`" for flag in action.option_strings)
    same = action.option_strings[0].removeprefix("--").replace("-", "_") == action.dest
    return given if same else f"{given}<br>(`{action.dest}`)"


def processes_section() -> str:
    """Settings of the processes, which `driftrec train` takes as process.NAME."""
    from driftrec.diffusion import PROCESSES
    from jobs.flags import comments

    rows = []
    for name, process in PROCESSES.items():
        beside, _ = comments(process)
        known = dataclasses.fields(process)
        fields = [f"`{one.name}` = {one.default}: {beside[one.name]}".removesuffix(": ") for one in known]
        rows.append((f"`{name}`", "<br>".join(fields) or "none"))
    return f"## Processes\n\nAs `--set process.NAME=VALUE`.\n\n{table(('`process.name`', 'its settings'), rows)}"


def options_page() -> str:
    """Fields of Sampling; what they mean stands beside the settings of the same names."""
    from driftrec.restoration.options import Options, Sampling
    from jobs.flags import comments
    from pipeline.restore.settings import RestoreSettings

    beside, _ = comments(RestoreSettings)
    known = dataclasses.fields(Sampling)
    rows = ((f"`{one.name}`", f"`{one.default!r}`", prose(beside[one.name])) for one in known)
    return f"""# Options of a restoration

Fields of `driftrec.restoration.Sampling`, which [`Restorer.restore`](driftrec.md) takes. A call of a `Restorer` takes
{", ".join(f"`{name}`" for name in Options.__annotations__)} as keyword arguments, and turns `adaptive` on. None: what
the model's file recommends, or else what the sampler or process has by default.

{table(("option", "default", ""), rows)}"""


# tables that runs leave


def ledger_page() -> str:
    """The columns of ledgers and of report.parquet."""
    from pipeline.degrade import DegradeRow
    from pipeline.evaluate.stage import ScoreRow
    from pipeline.runs.ledger import RestoreRow
    from pipeline.survey.stage import SurveyRow

    return f"""# Ledgers and tables

One Parquet file per shard below `ledger/`; `evaluate` and `survey` also leave their rows, in the order of the input, as
`report.parquet`.

    select status, reason, count(*) from 'restored/ledger/*.parquet' group by all

## restore

One row per image.

{columns(RestoreRow)}
## degrade

One row per image and condition.

{columns(DegradeRow)}
## evaluate

One row per image, condition and candidate. After these columns comes one per metric, of type double, with its raw
value; the name of `ssim` carries its window: `ssim7`.

{columns(ScoreRow)}
## survey

One row per file.

{columns(SurveyRow)}"""


def columns(kind: type) -> str:
    """A table of the columns of a kind of row, with the comments that stand beside them."""
    from pipeline.runs.ledger import Row, schema_of

    source, rows = inspect.getsource(kind) + inspect.getsource(Row), []
    for column in schema_of(kind):
        comment = re.search(rf"^ +{column.name}: .*?  # (.+)$", source, re.MULTILINE)
        rows.append((f"`{column.name}`", str(column.type), prose(comment[1]) if comment else ""))
    return table(("column", "type", ""), rows)


def reasons_page() -> str:
    """Why an image has no output."""
    from driftrec.errors import MEANING

    rows = ((f"`{reason}`", meaning) for reason, meaning in MEANING.items())
    return f"""# Reasons

Why an image has no output, or was left as it is: the column `reason` of the [ledger](ledger.md). `detail` says more.
`--retry-failed REASON` tries the images that failed for this reason again.

{table(("reason", "what it means, and what to do"), rows)}"""


def metrics_page() -> str:
    """What `--metrics` of an evaluation takes."""
    from driftrec import metrics

    rows = []
    for name, label in metrics.LABELS.items():
        weights = f"`{name}`" if name in metrics.WEIGHTED_PAIR_METRICS else ""
        weights = f"`{metrics.SET_METRICS[name].features}`" if name in metrics.SET_METRICS else weights
        weights = "the classifier's" if name == "accuracy" else weights
        of = "two sets" if name in metrics.SET_METRICS else "an image"
        better = "higher" if name in metrics.HIGHER_IS_BETTER else "lower"
        smallest = str(metrics.SMALLEST_SIDE.get(name, "")) if name not in metrics.SET_METRICS else ""
        rows.append((f"`{name}`", label.replace("*", "\\*"), of, better, smallest, weights))
    head = ("name", "on the page", "of", "better", "smallest side", "weights (`--weights`)")
    return f"""# Metrics of `--metrics`

[How each is computed](../explanation/metrics.md).

{table(head, rows)}
`pyiqa:NAME` is the metric NAME of the package `pyiqa`, where that is installed: see
[Metrics of pyiqa](../explanation/metrics.md#metrics-of-pyiqa).
"""


# the hook


def sources() -> Iterator[tuple[str, str]]:
    """(path below docs/, Markdown) of every page that is not a file in docs/."""
    yield from pages().items()
    for source, target in COPIES.items():
        yield target, (ROOT / source).read_text(encoding="utf-8")


def relinked(markdown: str, page: str) -> str:
    """The text of a page of the site, with its links to files of the repository as links to pages of the site."""
    origins = {target: source for source, target in COPIES.items()}
    origin = origins.get(page, f"docs/{page}")

    def moved(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(origin), link[1]))
        target = COPIES.get(target, target.removeprefix("docs/"))
        return os.path.relpath(target, posixpath.dirname(page) or ".")

    return LINK.sub(moved, markdown)


def on_files(files: Any, config: Mapping[str, Any]) -> Any:
    """Called by MkDocs: adds the pages that are made."""
    from mkdocs.structure.files import File

    for path, text in sources():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Called by MkDocs for each page."""
    return relinked(markdown, page.file.src_uri)
