"""CPUs that a process may use: those of its affinity, and of a pod's limit; not the host's."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cpus import usable_cpus

ALL = usable_cpus()


def groups(folder: Path, limits: dict[str, str], own: str) -> tuple[Path, Path]:
    """Control groups with these limits, and the file that says which is ours."""
    for name, text in limits.items():
        (folder / "cgroup" / name).mkdir(parents=True, exist_ok=True)
        (folder / "cgroup" / name / "cpu.max").write_text(text + "\n")
    (folder / "own").write_text(f"1:cpu:/elsewhere\n0::/{own}\n")
    return folder / "cgroup", folder / "own"


@pytest.mark.parametrize(
    ("limits", "own", "cpus"),
    [
        ({}, "", ALL),
        ({"": "max 100000"}, "", ALL),
        ({"": "100000 100000"}, "", 1),
        ({"": "20000 100000"}, "", 1),  # a fifth of one: still one thread
        ({"pod": "100000 100000", "pod/container": "max 100000"}, "pod/container", 1),
        ({"pod": "max 100000", "other": "100000 100000"}, "pod", ALL),
        ({"": "6400000 100000"}, "", ALL),  # more than there are
        ({"": "nonsense"}, "", ALL),
    ],
)
def test_a_quota_bounds_them(limits: dict[str, str], own: str, cpus: int, tmp_path: Path) -> None:
    assert usable_cpus(*groups(tmp_path, limits, own)) == cpus


def test_where_nothing_is_told_the_affinity_counts(tmp_path: Path) -> None:
    assert usable_cpus(tmp_path, tmp_path / "none") == ALL


@pytest.mark.skipif(ALL < 2, reason="one CPU has no part")
@pytest.mark.parametrize("expression", ["usable_cpus()", "connection.resources()[0]"])
def test_an_affinity_bounds_them(expression: str) -> None:
    """In a process of its own, and in the Ray that it starts."""
    code = f"""
import os; os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}})
from pipeline.cluster import connection
from pipeline.cpus import usable_cpus
{"connection.connect()" if "resources" in expression else ""}
print(int({expression}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout.split() == ["1"]
