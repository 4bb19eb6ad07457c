"""requirements/*.lock: exact pins of everything that pyproject.toml asks for, within its bounds."""

import tomllib
from importlib.metadata import version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.deploy.locks import locked

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def unmet(requirements: list[str], pins: dict[str, str]) -> list[str]:
    """The requirements that the pins leave out or break."""
    needs = [(need, pins.get(canonicalize_name(need.name), "0")) for need in map(Requirement, requirements)]
    return [str(need) for need, pin in needs if not need.specifier.contains(pin)]


def test_runtime_is_locked():
    assert unmet(PROJECT["dependencies"] + PROJECT["optional-dependencies"]["s3"], locked()) == []


def test_test_extra_is_locked():
    extras = PROJECT["optional-dependencies"]
    own = [line for line in extras["test"] if not line.startswith("driftrec")] + extras["heif"]
    assert unmet(own, locked() | locked("test")) == []


def test_docs_extra_is_locked():
    assert unmet(PROJECT["optional-dependencies"]["docs"], locked() | locked("docs")) == []


def test_clouds_are_locked():
    extras = PROJECT["optional-dependencies"]
    assert unmet(extras["gs"] + extras["azure"], locked() | locked("clouds")) == []


def test_locks_do_not_overlap():
    assert not locked().keys() & (locked("test") | locked("docs") | locked("clouds")).keys()


def test_tests_and_docs_fit_into_one_environment():
    test, docs = locked("test"), locked("docs")
    assert [name for name in test.keys() & docs.keys() if test[name] != docs[name]] == []


def test_unmet_finds_what_is_missing_or_too_old():
    assert unmet(["numpy>=2.0", "torch>=2.6", "pillow>=11"], {"numpy": "1.26.4", "pillow": "13.0.0"}) == [
        "numpy>=2.0", "torch>=2.6"]


def test_these_tests_run_on_the_locked_versions():
    pins = {name: locked()[name] for name in ("ray", "torch", "numpy", "pillow")}
    assert {name: version(name).partition("+")[0] for name in pins} == pins
