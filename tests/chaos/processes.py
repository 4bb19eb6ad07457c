"""Jobs as processes of their own, to be killed: watched by what they leave, looked into through /proc."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq


def start(*arguments: object, job: str = "restore", group: bool = False) -> subprocess.Popen[str]:
    """`python -m jobs.<job> ...` in a process of its own, or in a process group of its own."""
    command = [sys.executable, "-m", f"jobs.{job}", *(str(argument) for argument in arguments)]
    group_of = 0 if group else None
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=group_of)


def end(process: subprocess.Popen[str], code: int = 0) -> dict[str, Any]:
    """Wait for a job; its result. Fails with its talk if the exit code is another."""
    out, err = process.communicate(timeout=600)
    assert process.returncode == code, err[-3000:] + out
    return json.loads(out)


def until(condition: Callable[[], Any], process: subprocess.Popen[str] | None = None, limit_s: float = 300) -> Any:
    """Poll until the condition holds, the process has ended or the time is over. Gives what the condition gives."""
    ends = time.monotonic() + limit_s
    while time.monotonic() < ends and not (process and process.poll() is not None):
        if found := condition():
            return found
        time.sleep(0.02)
    return condition()


def descendants(pid: int) -> Iterator[tuple[int, str]]:
    """(pid, command line) of all processes below `pid`, and of those that share its session's Ray."""
    children: dict[int, list[int]] = {}
    titles: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat, title = (entry / "stat").read_text(), (entry / "cmdline").read_bytes()
        except OSError:
            continue  # it has just ended
        children.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry.name))
        titles[int(entry.name)] = title.replace(b"\0", b" ").decode(errors="replace").strip()
    waiting = [pid]
    while waiting:
        for child in children.get(waiting.pop(), []):
            yield child, titles[child]
            waiting.append(child)


def workers(pid: int, actors: bool) -> list[int]:
    """Ray's worker processes of a job: its actors, or those that run read tasks."""
    found = [(child, title) for child, title in descendants(pid) if title.startswith("ray::")]
    return [child for child, title in found if ("MapWorker" in title) == actors and "Agent" not in title]


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def kill_whole(pid: int) -> None:
    """kill -9 of the driver; its Ray falls with it, which is waited for (two idle agents stay a minute longer)."""
    below = {child: title for child, title in descendants(pid) if "Agent" not in title}
    os.kill(pid, signal.SIGKILL)
    until(lambda: not any(alive(child) for child in below), limit_s=120)
    left = [title for child, title in below.items() if alive(child)]
    assert not left, "outlived its driver"


def parts(output: Path) -> set[Path]:
    return set(output.glob("ledger/*.parquet"))


def images(output: Path) -> dict[str, bytes]:
    folder = output / "images"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows(output: Path) -> list[dict[str, Any]]:
    """All ledger rows without their seconds, by key."""
    found = [row for part in parts(output) for row in pq.read_table(part).to_pylist()]
    return sorted(({**row, "seconds": None, "done": None} for row in found), key=lambda row: row["key"])


def times_of_committed(output: Path) -> dict[str, int]:
    """Modification times of all parts, and of all images that a part names."""
    paths = [*parts(output)]
    for part in parts(output):
        paths += [output / name for name in pq.read_table(part, columns=["output"])["output"].to_pylist() if name]
    return {str(path): os.stat(path).st_mtime_ns for path in paths}
