"""The wheel holds what the packages need and nothing else; the layering rules of pyproject.toml do refuse."""

import json
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests import made

ROOT = Path(__file__).parents[2]
PACKAGES = ("driftrec", "pipeline", "jobs", "recipes")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel built, without network, from a copy: a build leaves traces beside its sources."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
               "--wheel-dir", str(out), str(source)]
    subprocess.run(command, check=True)
    return next(out.glob("driftrec-*.whl"))


@pytest.fixture(scope="module")
def wheel_names(wheel) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def test_wheel_holds_every_file_of_the_packages(wheel_names):
    """Weights, model card, templates and the typing marker included."""
    files = {path.relative_to(ROOT).as_posix() for package in PACKAGES for path in (ROOT / package).rglob("*")
             if path.is_file() and "__pycache__" not in path.parts}
    assert files - wheel_names == set()
    assert {"driftrec/py.typed", "jobs/cli.py"} <= wheel_names


def test_wheel_holds_nothing_else(wheel_names):
    assert {name.split("/")[0] for name in wheel_names if ".dist-info/" not in name} == set(PACKAGES)


def test_it_works_away_from_the_checkout(wheel, tmp_path):
    """One photo, and a training's settings from an embedded config, with what the wheel holds alone."""
    site, here = tmp_path / "site", tmp_path / "elsewhere"
    zipfile.ZipFile(wheel).extractall(site)
    made.folder(here / "photos", 3, 112, 112)
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}

    def answer(*arguments: str) -> dict:
        command = [sys.executable, "-P", "-m", "jobs.cli", *arguments]
        done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    (restored,) = answer("restore", "photos/a/0000.jpg", "restored.png")["images"]
    assert restored["status"] == "ok"
    assert (here / "restored.png").is_file()
    told = answer("train", "photos", "run", "--config", "tiny", "--steps", "5", "--dry-run")
    assert told["settings"]["optimizer"]["steps"] == 5
    assert told["settings"]["network"]["width"] == 64


@pytest.mark.parametrize(
    ("package", "line", "kept"),
    [
        ("pipeline", "import driftrec", True),
        ("jobs", "import pipeline", True),
        ("driftrec", "import ray", False),
        ("driftrec", "import argparse", False),
        ("driftrec", "from fsspec import filesystem", False),
        ("driftrec", "import pipeline", False),
        ("pipeline", "import jobs", False),
        ("pipeline/storage", "import pipeline.runs", False),
        ("pipeline/runs", "import pipeline.storage", True),
        ("driftrec/image", "import driftrec.restoration", False),
        ("driftrec/restoration", "import driftrec.image", True),
    ],
)
def test_import_rules(tmp_path, package, line, kept):
    """The project's own contracts, on packages without a line but one."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    inner = [path.relative_to(ROOT) for top in PACKAGES for path in (ROOT / top).rglob("*.py")]
    for path in inner:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    for name in PACKAGES:
        (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / package / "__init__.py").write_text(line + "\n")
    lint_imports = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    run = subprocess.run(
        [sys.executable, "-c", lint_imports, "--no-cache"], cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
    assert (run.returncode == 0) == kept, run.stdout + run.stderr
    assert "Contracts:" in run.stdout


def test_what_words_name_is_there():
    """Dotted names between backticks, in docs and docstrings."""
    own = r"(?:`|^::: )((?:driftrec|pipeline|jobs|benchmarks|recipes)(?:\.\w+)+)(?:`|$)"
    texts = [path for top in (*PACKAGES, "benchmarks", "recipes", "docs") for path in (ROOT / top).rglob("*")]
    texts = [path for path in (*texts, *ROOT.glob("*.md")) if path.suffix in (".py", ".md")]
    named = {name for path in texts for name in re.findall(own, path.read_text(), re.M)}
    named -= {"driftrec.run"}  # a tag's name
    assert len(named) > 10
    for name in sorted(named):
        pkgutil.resolve_name(name)
