"""A cluster without workers, whose autoscaler brings nodes with claimed GPUs: the run asks for what it needs.

Ray's own AutoscalingCluster ends by `ray stop`, which ends every Ray of the machine; this one ends its own processes.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.nodes import kill_session
from pipeline.cluster.connection import BOOTSTRAP
from tests import made

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(400)]

CONFIG: dict[str, Any] = {
    "cluster_name": "from-zero",
    "max_workers": 4,
    "upscaling_speed": 1.0,
    "idle_timeout_minutes": 1,
    "provider": {
        "type": "fake_multinode",
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
    },
    "auth": {},
    "file_mounts": {},
    "cluster_synced_files": [],
    "file_mounts_sync_continuously": False,
    **{
        f"{name}_commands": []
        for name in ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    },
    "head_node_type": "ray.head.default",
    "available_node_types": {  # as in cluster.yaml, but smaller
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "gpu": {"resources": {"CPU": 2, "GPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 3},
        "cpu": {"resources": {"CPU": 2}, "node_config": {}, "min_workers": 0, "max_workers": 1},
    },
}


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The home folder of a head without CPUs, as `ray up` leaves it; the environment knows the way to its cluster."""
    port = 6379  # Ray's simulated nodes know no other
    if not socket.socket().connect_ex(("127.0.0.1", port)):
        pytest.skip(f"port {port} is taken")
    with tempfile.TemporaryDirectory(prefix="z") as name:
        folder = Path(name)
        (folder / BOOTSTRAP).write_text(json.dumps(CONFIG))
        environment = os.environ | {
            "HOME": name,
            "RAY_FAKE_CLUSTER": "1",
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_AUTH_MODE": "disabled",
        }
        command = [
            str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--node-ip-address=127.0.0.1",
            f"--port={port}", "--num-cpus=0", "--include-dashboard=false", f"--temp-dir={name}/r",
            f"--autoscaling-config={folder / BOOTSTRAP}", "--disable-usage-stats",
        ]  # fmt: skip
        head = subprocess.Popen(command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)
        for key in ("HOME", "RAY_AUTH_MODE", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"):
            monkeypatch.setenv(key, environment[key])
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
        try:
            deadline = time.monotonic() + 60
            while socket.socket().connect_ex(("127.0.0.1", port)):
                assert time.monotonic() < deadline and head.poll() is None
                time.sleep(0.2)
            yield folder
        finally:
            kill_session(head)


def run(*arguments: object) -> tuple[dict[str, Any], str]:
    command = [sys.executable, "-m", "jobs.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.stdout, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_a_restore_without_flags_takes_the_gpus_that_may_come(home: Path, tmp_path: Path, small_model: Path) -> None:
    source = made.folder(tmp_path / "in", 160, 256, 256)
    result, told = run("restore", source, tmp_path / "out", "--model", small_model, "--allow-local")
    assert (result["exit_code"], result["status"]["ok"]) == (0, 160), told
    assert "asking for 3 actors of 1.5 CPU and 1 GPU" in told  # what a node has for its one GPU, and a rest to read
    assert "waiting for a node with 1.5 CPUs and 1 GPUs; the cluster has 0 CPUs and 0 GPUs now" in told
    assert result["workers"] == 3, told


def test_the_other_jobs_without_flags(home: Path, tmp_path: Path, small_model: Path) -> None:
    source = made.folder(tmp_path / "in", 48, 128, 128)
    evaluated, told = run(
        *("evaluate", source, tmp_path / "scores", "--model", small_model, "--quality", "10", "--allow-local")
    )
    assert (evaluated["exit_code"], evaluated["status"]["ok"]) == (0, 48), told
    assert "1 GPU" in told
    degraded, told = run("degrade", source, tmp_path / "degraded", "--quality", "10", "--allow-local")
    assert (degraded["exit_code"], degraded["status"]["ok"]) == (0, 48), told
    surveyed, told = run("survey", source, tmp_path / "survey", "--pixels", "all", "--allow-local")
    assert (surveyed["exit_code"], surveyed["status"]["ok"]) == (0, 48), told
    settings = ("network.width=8", "patches.size=32", "batch_size=2", "optimizer.steps=4", "shuffle_buffer=8")
    flags = [word for setting in settings for word in ("--set", setting)]
    trained, told = run("train", source, tmp_path / "run", "--allow-local", *flags)
    assert trained["steps"] == 4, told


@pytest.mark.parametrize("job", ["restore", "evaluate"])
def test_a_lost_node_loses_no_image(home: Path, tmp_path: Path, small_model: Path, job: str) -> None:
    source, output = made.folder(tmp_path / "in", 480, 256, 256), tmp_path / "out"
    command = [sys.executable, "-m", "jobs.cli", job, source, output, "--model", small_model, "--allow-local"]
    command += ["--quality", "10"] if job == "evaluate" else []
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 200
        while len(nodes := gpu_nodes(home)) < 3 or not any((output / "ledger").glob("*.parquet")):
            assert time.monotonic() < deadline and process.poll() is None, nodes
            time.sleep(0.2)
        os.kill(nodes[0], signal.SIGKILL)
        assert process.poll() is None
        stdout, told = process.communicate(timeout=200)
    finally:
        process.kill()
    result = json.loads(stdout.splitlines()[-1])
    assert (result["exit_code"], result["status"]["ok"]) == (0, 480), told
    assert result["workers"] >= 3, told


def gpu_nodes(home: Path) -> list[int]:
    """The processes that are this cluster's nodes with GPUs; other clusters of the machine are not ours to touch."""
    commands = {int(file.parent.name): arguments_of(file) for file in Path("/proc").glob("[0-9]*/cmdline")}
    return [
        pid
        for pid, (program, *words) in commands.items()
        if program.endswith("/raylet") and f"{home}/" in " ".join(words) and any("GPU,1" in word for word in words)
    ]


def arguments_of(file: Path) -> list[str]:
    try:
        return file.read_text().split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return [""]
