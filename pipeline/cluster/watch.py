"""Ray, watched from its driver. Where the cluster's GCS is gone, Ray ends this process after a minute, without a word
and before anything of ours can run; where this machine's raylet is gone, it may wait for ever. So a thread looks
whether both still answer, and ends the run as runs end: with a message, _RESULT.json, and an exit code.

Knows no run: what is to be done at such an end is given.
"""

import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

import ray

from pipeline.runs.ends import Exit

log = logging.getLogger(__name__)

PAUSE_S, CONNECT_S = 1.0, 5.0  # between two looks; of one
PATIENCE_S = 15.0  # so long may one be silent
GONE_S = 3.0  # one that refuses, where nothing can bring it back: Ray ends this process 14 s after its raylet
CLUSTER_PATIENCE_S = 45.0  # for a GCS that may come back, less than Ray's own minute
AFTER = (
    "killed, out of memory, or without room in Ray's temporary folder; finished shards are valid, the same command "
    "goes on with the rest"
)

End = Callable[[str], dict[str, Any]]  # from a message to the result, which is written


@contextmanager
def watched(end: End | None) -> Generator[Callable[[], None]]:
    """While connected: if Ray is gone, do `end`, print its result and end this process. None: let Ray have its way.

    Gives what ends the watch before the block does, to be called before Ray is left; after an error it does nothing if
    Ray is gone, since leaving it may then take for ever.
    """
    done = threading.Event()
    doors = _doors() if end else {}
    if end:
        threading.Thread(target=_watch, args=(doors, end, done), name="watch", daemon=True).start()

    def enough() -> None:
        if not any(_silence(name, address) for name, address in doors.items()):
            done.set()

    try:
        yield enough
    finally:
        done.set()


def _doors() -> dict[str, tuple[str, int]]:
    """Where those answer without whom nothing goes on."""
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    ours = ray.get_runtime_context().get_node_id()
    node = next(node for node in ray.nodes() if node["NodeID"] == ours)
    return {"GCS": (host.strip("[]"), int(port)), "raylet": (node["NodeManagerAddress"], node["NodeManagerPort"])}


def _watch(doors: Mapping[str, tuple[str, int]], end: End, done: threading.Event) -> None:
    heard = dict.fromkeys(doors, time.monotonic())
    while not done.wait(PAUSE_S):
        silent: list[str] = []
        for name, address in doors.items():
            if patience := _silence(name, address):
                silent += [name] if time.monotonic() - heard[name] > patience else []
            else:
                heard[name] = time.monotonic()
        if silent and not done.is_set():
            _end(end, f"Ray's {' and '.join(silent)} on {doors[silent[0]][0]} does not answer any more: {AFTER}")


def _silence(name: str, address: tuple[str, int]) -> float:
    """0 if one answers; if not, the seconds after which it is gone."""
    may_come_back = name == "GCS" and bool(os.environ.get("RAY_ADDRESS"))
    try:
        with socket.create_connection(address, CONNECT_S):
            return 0.0
    except ConnectionRefusedError:
        return CLUSTER_PATIENCE_S if may_come_back else GONE_S
    except OSError:
        return CLUSTER_PATIENCE_S if may_come_back else PATIENCE_S


def _end(end: End, message: str) -> None:
    """End the process from this thread: the main one may be inside Ray, for as long as Ray likes."""
    log.error("%s", message)
    try:
        result = end(message)
        assert sys.__stdout__
        sys.__stdout__.write(json.dumps(result) + "\n")
        sys.__stdout__.flush()
    finally:
        os._exit(Exit.FAILED)
