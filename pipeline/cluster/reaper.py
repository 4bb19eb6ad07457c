"""Ends what a local cluster leaves running: `python reaper.py NAME=VALUE`, beside the driver, whose end it outlives.

Ray's agents may wait a minute for a server that is gone. Processes of the cluster have the variable NAME in their
environment, or are of the process group of one that has: agents write their titles over their environment. Standard
library alone: it is run by its path, so that it starts at once. Without /proc it does nothing.
"""

import contextlib
import os
import select
import signal
import sys
import time
from pathlib import Path

GRACE_S = 5.0  # in which they may end by themselves
FIRST_S, MOST_S = 0.5, 30.0  # between two looks at the groups while the driver lives, at first and later


def processes() -> list[int]:
    """Ids of all there are."""
    return [int(place.name) for place in Path("/proc").glob("[0-9]*")]


def groups_of(mark: bytes) -> set[int]:
    """The groups of the processes that have this in their environment."""
    found: set[int] = set()
    for process in processes():
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            if mark in Path(f"/proc/{process}/environ").read_bytes().split(b"\0"):
                found.add(os.getpgid(process))
    return found


def members(groups: set[int]) -> list[int]:
    """Ids of the processes of these groups."""
    found: list[int] = []
    for process in processes():
        with contextlib.suppress(OSError):
            if os.getpgid(process) in groups:
                found.append(process)
    return found


def main(mark: bytes) -> None:
    """Wait until standard input ends, which the driver holds open; then for the cluster's end, and see to it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    wait, groups, drivers = FIRST_S, set[int](), {os.getpgid(os.getppid())}  # in which others may be, too
    while not select.select([sys.stdin], [], [], wait)[0]:
        wait, groups = min(2 * wait, MOST_S), groups_of(mark) - drivers
    groups |= groups_of(mark) - drivers
    end = time.monotonic() + GRACE_S
    while time.monotonic() < end and members(groups):
        time.sleep(0.2)
    for process in members(groups):
        with contextlib.suppress(OSError):
            os.kill(process, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1].encode())
