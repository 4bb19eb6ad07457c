"""What a run is done with, for run.json: versions of packages, the kind of CPU. Knows no run."""

import logging
import platform
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from driftrec import __version__

log = logging.getLogger(__name__)

CPU_INFO = Path("/proc/cpuinfo")


def tell_of_another(there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Bytes are the same on one kind of machine: warn where this one is another than that the run began on."""
    then, now = ({"cpu": run.get("cpu"), "torch": run.get("versions", {}).get("torch")} for run in (there, here))
    told = [f"{name} was {then[name]}, is {now[name]}" for name in then if then[name] and then[name] != now[name]]
    if told:
        told_of = "the run began on another machine: %s; images done from now on may differ from the others in a bit"
        log.warning(told_of, ", ".join(told))


def package_versions(packages: Sequence[str]) -> dict[str, str | None]:
    """Of this package, Python and some others; None where one is not installed."""
    ours = {"driftrec": __version__, "python": platform.python_version()}
    return ours | {name: _version(name) for name in packages}


def cpu_kind() -> str:
    """The CPU of this machine as its maker calls it; what kind it is where nobody tells."""
    try:
        told = CPU_INFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        told = ""
    found = re.search(r"^model name\s*:\s*(.+)$", told, re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
