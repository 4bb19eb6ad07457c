"""How many CPUs this process may use: fewer than the machine has, under an affinity or in a pod with a limit."""

import os
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")  # of version 2


def usable_cpus(cgroups: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")) -> int:
    """Those of the affinity, or as many as the quota of a control group pays for if that is less; at least one.

    Args:
        cgroups: where control groups are mounted.
        own: the file that names that of this process.
    """
    allowed = len(os.sched_getaffinity(0))
    return max(1, min([allowed, *(int(quota) for quota in _quotas(cgroups, own))]))


def _quotas(cgroups: Path, own: Path) -> Iterator[float]:
    """CPUs that the group of this process may use, and those above it: each of them may set a limit."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    group = next((line.removeprefix("0::").strip("/") for line in lines if line.startswith("0::")), "")
    for folder in (cgroups / group, *(cgroups / group).parents):
        if not folder.is_relative_to(cgroups):
            return
        try:
            quota, period = (folder / "cpu.max").read_text().split()
            if quota != "max":
                yield int(quota) / int(period)
        except (OSError, ValueError):
            continue  # the root has none, nor has another version
