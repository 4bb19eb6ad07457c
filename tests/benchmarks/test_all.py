"""Every benchmark that the docs name is there, and starts."""

import importlib
import re
from pathlib import Path

import pytest

import benchmarks

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in Path(benchmarks.__file__).parent.glob("[a-z]*.py"))


@pytest.mark.parametrize("name", NAMES)
def test_it_can_be_loaded(name: str) -> None:
    importlib.import_module(f"benchmarks.{name}")


def test_the_docs_name_none_that_is_not_there() -> None:
    pages = [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("driftrec/models/*.md")]
    texts = [page.read_text() for page in pages]
    named = {name for text in texts for name in re.findall(r"benchmarks[./](\w+)", text)}
    assert named
    assert named <= set(NAMES)
    assert not [text for text in texts if "python benchmarks/" in text]
