"""What a run is done with, for run.json: versions of packages, the kind of CPU. Knows no run."""

import logging
import math
import platform
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from driftrec import __version__
from pipeline.inputs.names import printable

log = logging.getLogger(__name__)

CPU_INFO = Path("/proc/cpuinfo")


def tell_of_another(there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Bytes are the same on one kind of machine and of the same input: warn where they are others than when the run
    began. The arguments are what run.json said then, and says now.
    """
    then, now = ({"cpu": run.get("cpu"), "torch": run.get("versions", {}).get("torch")} for run in (there, here))
    told = [f"{name} was {then[name]}, is {now[name]}" for name in then if then[name] and then[name] != now[name]]
    if told:
        told_of = "the run began on another machine: %s; images done from now on may differ from the others in a bit"
        log.warning(told_of, ", ".join(told))
    (before, _), (latest, name) = ((run.get("latest_input") or (math.inf, "")) for run in (there, here))
    if math.inf > latest > before:
        told_of = "%s was changed after the run began; it kept its size, so it is not done again if its shard was done"
        log.warning(told_of, printable(name))


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
