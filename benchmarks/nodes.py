"""A cluster whose nodes come and go: a job on four simulated nodes, left alone, and with two killed and one that joins.

python -m benchmarks.nodes [--images 2000] [--job restore|evaluate] [--model tiny]

The head has no CPU for work; "one" and "two" have a CPU and claim a GPU, "three" and "four" have a CPU. In the second
run "one" is killed (SIGKILL to all its processes) when a fifth of the images are done, "three" when two fifths are, and
"five", like "one", joins when half are. Prints what became of the images, who did them, the time, and whether all
outputs are those of the first run. Nodes are processes of this machine, each with an address on loopback and a host
name of its own, for which Linux wants root. Four nodes on two cores: the times say what a loss costs here, no more.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.throughput import make_images

HEAD, CPU, GPU = "head", ("--num-cpus=1",), ("--num-cpus=1", "--num-gpus=1")
START_S, LIMIT_S, END_S = 120, 1800, 30
TIMES = ("seconds", "done")  # of the ledger


class Nodes:
    """A head and the nodes that are added to it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.alive: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = os.environ | {
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "disabled",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",  # what it takes on loopback
            "OMP_NUM_THREADS": "1",
        }
        self._start(HEAD, f"--head --port={self.port} --num-cpus=0 --include-dashboard=false".split(), 1)
        self._wait_for(HEAD)

    @property
    def address(self) -> str:
        """What RAY_ADDRESS is for a job."""
        return f"127.0.0.1:{self.port}"

    def add(self, name: str, resources: tuple[str, ...]) -> None:
        """A node of this host name; one after the other, for a start takes all of a small machine."""
        self._start(name, [f"--address={self.address}", *resources], len(self.alive) + 10)
        self._wait_for(name)

    def _start(self, name: str, arguments: list[str], number: int) -> None:
        ray = f"{Path(sys.executable).with_name('ray')} start --block --disable-usage-stats"
        given = f"--node-ip-address=127.0.0.{number} --temp-dir={self.folder}/r --object-store-memory=200000000"
        command = f"hostname {name} && exec {ray} {given} {' '.join(arguments)}"
        with (self.folder / f"{name}.log").open("wb") as log:
            self.alive[name] = subprocess.Popen(
                ["unshare", "--uts", "sh", "-c", command],
                env=self.environment,
                start_new_session=True,
                stdout=log,
                stderr=log,
            )

    def _wait_for(self, name: str) -> None:
        log = self.folder / f"{name}.log"
        until(lambda: "Ray runtime started" in log.read_text(), START_S)

    def kill(self, name: str) -> None:
        """As a machine that is gone: no process of it says goodbye."""
        kill_session(self.alive.pop(name))

    def end(self) -> None:
        """Kill them all, the head last."""
        for name in [*(name for name in self.alive if name != HEAD), HEAD]:
            self.kill(name)


def main() -> int:
    """Print both runs as JSON; 1 where a law does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--job", choices=("restore", "evaluate"), default="restore")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--side", type=int, default=64, help="pixels")
    args = parser.parse_args()
    told: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="n") as name:
        root = Path(name)
        make_images(root / "in", args.images, args.side)
        for kind in ("undisturbed", "disturbed"):
            told[kind] = run(args, root, kind)
            print(json.dumps({kind: told[kind]}), file=sys.stderr, flush=True)
        quiet, disturbed = (rows_of(root / kind) for kind in ("undisturbed", "disturbed"))
    told["equal"] = quiet == disturbed
    told["time_ratio"] = round(told["disturbed"]["seconds"] / told["undisturbed"]["seconds"], 2)
    print(json.dumps(told, indent=2))
    exact = told["undisturbed"]["keys"] == args.images and len(set(quiet)) == len(quiet)
    return 0 if told["equal"] and exact else 1


def run(args: argparse.Namespace, root: Path, kind: str) -> dict[str, Any]:
    """One run on a cluster of its own."""
    (root / f"c-{kind}").mkdir()
    nodes, output = Nodes(root / f"c-{kind}"), root / kind
    try:
        for name, resources in {"one": GPU, "two": GPU, "three": CPU, "four": CPU}.items():
            nodes.add(name, resources)
        command = [sys.executable, "-m", f"jobs.{args.job}", root / "in", output, "--model", args.model]
        command += ["--allow-local", "--no-report", "--set", "shard_images=20"]
        command += ["--quality", "10", "--metrics", "psnr,bef"] if args.job == "evaluate" else []
        environment = nodes.environment | {"RAY_ADDRESS": nodes.address}
        begun = time.perf_counter()
        with (root / f"{kind}.log").open("wb") as log:
            process = subprocess.Popen(list(map(str, command)), env=environment, stdout=subprocess.PIPE, stderr=log)
        events: list[str] = []
        if kind == "disturbed":
            for share, event, happens in (
                (0.2, "one is killed", lambda: nodes.kill("one")),
                (0.4, "three is killed", lambda: nodes.kill("three")),
                (0.5, "five joins", lambda: nodes.add("five", GPU)),
            ):
                wanted = share * args.images
                until(lambda wanted=wanted: process.poll() is not None or images_done(output) >= wanted, LIMIT_S)
                happens()
                events.append(f"{event} at {time.perf_counter() - begun:.0f} s, {images_done(output)} images done")
        stdout, _ = process.communicate(timeout=LIMIT_S)
        seconds = time.perf_counter() - begun
        if process.returncode:
            print((root / f"{kind}.log").read_text()[-3000:], file=sys.stderr)
        result = json.loads(stdout.splitlines()[-1])
    finally:
        nodes.end()
    rows = rows_of(output)
    return {
        "exit_code": result["exit_code"],
        "status": result["status"],
        "reasons": result.get("reasons", {}),
        "rows": len(rows),
        "keys": len({row[0] for row in rows}),
        "images_by_node": result["images_by_node"],
        "workers": result["workers"],
        "seconds": round(seconds, 1),
        "events": events,
    }


def rows_of(output: Path) -> list[tuple[Any, ...]]:
    """Of the ledger, in order, but for times: what was done must not depend on who did it, or when."""
    rows = [row for part in (output / "ledger").glob("*.parquet") for row in pq.read_table(part).to_pylist()]
    return sorted(tuple(str(value) for name, value in row.items() if name not in TIMES) for row in rows)


def images_done(output: Path) -> int:
    """By the parts of the ledger that are there."""
    return sum(pq.read_metadata(part).num_rows for part in (output / "ledger").glob("*.parquet"))


def until(condition: Callable[[], bool], limit_s: float) -> None:
    ends = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > ends:
            raise TimeoutError
        time.sleep(0.1)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def kill_session(leader: subprocess.Popen[bytes]) -> None:
    """Kill a process and all that its session has started. Raises TimeoutError for what does not die."""
    deadline = time.monotonic() + END_S
    while members := [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and session_of(pid) == leader.pid]:
        if time.monotonic() > deadline:
            raise TimeoutError(f"still there: {members}")
        for pid in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        leader.poll()
        time.sleep(0.1)


def session_of(pid: str) -> int:
    """-1 where there is no such process any more."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return -1
    return -1 if state == "Z" else int(rest[2])


if __name__ == "__main__":
    sys.exit(main())
