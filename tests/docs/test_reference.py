"""The pages that are made from the code name all that the code has, and the commands in the docs are understood."""

import dataclasses
import pkgutil
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from docs.generate import COPIES, pages, relinked
from driftrec.diffusion import PROCESSES
from driftrec.errors import Reason
from driftrec.restoration import Sampling
from jobs.cli import JOBS
from jobs.command import make_parser
from pipeline.degrade import DegradeRow
from pipeline.evaluate.metrics import known_metrics
from pipeline.evaluate.stage import ScoreRow
from pipeline.runs.ends import Exit
from pipeline.runs.ledger import RestoreRow, schema_of
from pipeline.settings import load
from pipeline.survey.stage import SurveyRow

ROOT = Path(__file__).parents[2]
MADE = pages()
TEXTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def parser_of(job: str):
    module = import_module(f"jobs.{job}")
    return make_parser(job, module.__doc__ or "", module.PARTS) if hasattr(module, "PARTS") else module.parser()


@pytest.mark.parametrize("job", JOBS)
def test_every_flag_is_on_its_page(job):
    flags = {flag for action in parser_of(job)._actions for flag in action.option_strings} - {"-h", "--help"}
    told = set(re.findall(r"`(--[\w.-]+)[ `]", MADE[f"reference/jobs/{job}.md"]))
    assert flags - told == set()


def test_every_column_reason_metric_option_and_process_is_on_its_page():
    known = {
        "ledger": {name for kind in (RestoreRow, DegradeRow, ScoreRow, SurveyRow) for name in schema_of(kind).names},
        "reasons": set(Reason),
        "metrics": set(known_metrics()),
        "api/options": {field.name for field in dataclasses.fields(Sampling)},
        "jobs/train": set(PROCESSES),
    }
    for page, names in known.items():
        assert [name for name in sorted(names) if f"| `{name}` |" not in MADE[f"reference/{page}.md"]] == [], page


def test_every_exit_code_is_told():
    told = re.findall(r"^\| (\d+) \|", (ROOT / "docs/reference/runs.md").read_text(), re.MULTILINE)
    assert {int(code) for code in told} == set(Exit)


def commands() -> list[str]:
    """Command lines of driftrec in indented blocks, without those that are cut short with ... and those of a plugin,
    which test_plugins runs.
    """
    texts = (path.read_text().replace("\\\n", " ") for path in TEXTS)
    lines = (line for text in texts for line in re.findall(r"^    (driftrec .+)$", text, re.MULTILINE))
    return sorted({line for line in lines if "..." not in line and "--plugin" not in line})


def test_there_are_commands():
    assert len(commands()) > 20


@pytest.mark.parametrize("command", commands())
def test_a_printed_command_is_understood(command, monkeypatch):
    monkeypatch.chdir(ROOT)  # where configs/ is
    _, job, *arguments = shlex.split(command, comments=True)
    flags = vars(parser_of(job).parse_args(arguments))
    if isinstance(flags.get("input"), list):  # a restore may have several
        flags["input"] = flags["input"][0]
    module = import_module(f"jobs.{job}")
    if hasattr(module, "PARTS"):
        of_every_job = ("config", "set", "submit", "detach", "dry_run", "json", "plugin")
        config, assignments, *_ = (flags.pop(name) for name in of_every_job)
        load(pkgutil.resolve_name(module.PARTS.settings), config, assignments, flags)


def nav_pages(entry) -> set[str]:
    """All pages below an entry of the navigation."""
    if isinstance(entry, str):
        return {entry}
    inner = entry.values() if isinstance(entry, dict) else entry
    return set().union(*map(nav_pages, inner))


def test_the_navigation_has_every_page():
    written = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    assert nav_pages(nav) == written | set(MADE) | set(COPIES.values())


@pytest.mark.parametrize(
    ("link", "page", "there"),
    [
        ("../../driftrec/models/tiny.md", "guides/train.md", "../reference/tiny.md"),
        ("docs/explanation/metrics.md", "contributing.md", "explanation/metrics.md"),
        ("CHANGELOG.md", "contributing.md", "changelog.md"),
        ("samplers.md#the-process", "explanation/metrics.md", "samplers.md#the-process"),
        ("https://example.org/a.md", "index.md", "https://example.org/a.md"),
        ("#start", "index.md", "#start"),
    ],
)
def test_links_to_files_become_links_to_pages(link, page, there):
    assert relinked(f"[a]({link})", page) == f"[a]({there})"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_site_builds_without_a_warning_and_asks_no_other_host(tmp_path):
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True)
    wanted = re.compile(r"""(?:<(?:script|img|iframe)[^>]*src=|<link [^>]*href=|url\()["']?(?:https?:)?//[^"'\s>]+""")
    files = [path for path in tmp_path.rglob("*") if path.suffix in (".html", ".css")]
    assert len(files) > 40
    assert [found for path in files for found in wanted.findall(path.read_text())] == []
