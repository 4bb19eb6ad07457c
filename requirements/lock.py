"""Writes runtime.lock, clouds.lock, test.lock and docs.lock: all that DriftRec needs, in the versions installed here.

`make lock` runs it in .venv: first upgrade there what should move, then run the tests, then lock what passed.
Only names and versions are written: whoever installs from a lock uses the registry their pip is set up for.
"""

import tomllib
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HERE = Path(__file__).parent
HEADER = "# {what}: Linux x86-64, Python 3.11. Made by `make lock`; do not edit.\n"
BUILD = "setuptools"   # builds the editable install without a download of its own


def closure(requirements: list[str]) -> dict[str, str]:
    """Name -> installed version of the requirements and of all that they require in turn."""
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    todo = [(Requirement(line), "") for line in requirements]
    while todo:
        requirement, parent_extra = todo.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": parent_extra}):
            continue
        installed = distribution(requirement.name)
        if "+" in installed.version:
            build = f"{requirement.name} {installed.version}"
            raise SystemExit(f"{build} is a build of an index of its own: lock from a .venv without CPU_INDEX")
        name = canonicalize_name(requirement.name)
        found[name] = installed.version
        new = {(name, extra) for extra in ("", *requirement.extras)} - seen
        seen |= new
        todo += [(Requirement(line), extra) for _, extra in new for line in installed.requires or []]
    return found


def lock_text(what: str, versions: dict[str, str], before: str = "") -> str:
    """One lock file: a header, then one pin per line, sorted by name."""
    pins = "".join(f"{name}=={version}\n" for name, version in sorted(versions.items()))
    return HEADER.format(what=what) + before + pins


def main() -> None:
    """The other locks hold what their extras add to the runtime."""
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    runtime = closure([BUILD, *project["dependencies"], *extras["s3"]])
    own = [line for line in extras["test"] if not line.startswith("driftrec")]
    own += [*extras["heif"], *extras["jxl"], *extras["serve"]]
    (HERE / "runtime.lock").write_text(lock_text("What DriftRec runs on, S3 included", runtime))
    added_by = {
        "clouds": ("Google's and Azure's stores add", extras["gs"] + extras["azure"]),
        "test": ("its tests and lint add", own),
        "docs": ("its documentation adds", extras["docs"]),
    }
    for lock, (what, needs) in added_by.items():
        added = {name: version for name, version in closure(needs).items() if name not in runtime}
        (HERE / f"{lock}.lock").write_text(lock_text(f"What {what}", added, "-r runtime.lock\n"))


if __name__ == "__main__":
    main()
