"""Training under kills: of a worker, of the driver, by signals, as a job of a cluster. It ends as if none had been."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import psutil
import pytest
import torch
from ray.job_submission import JobSubmissionClient
from safetensors.torch import load_file

from pipeline.train.halt import STOP
from tests import made

ROOT = Path(__file__).parents[2]
STEPS, EVERY = 60, 5
SETTINGS = {
    "network": {"preset": "tiny", "width": 8},
    "optimizer": {"steps": STEPS, "lr": 1e-3, "warmup": 2},
    "patches": {"size": 32, "per_image": 8},
    "batch_size": 4,
    "shuffle_buffer": 64,
    "threads": 1,
    "checkpoint_every": EVERY,
    "log_every": EVERY,
    "keep": 2,
}
TIMEOUT_S = 400  # of one run, on a busy machine

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(4 * TIMEOUT_S)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tars of 12 images."""
    folder = tmp_path_factory.mktemp("data")
    for shard in range(2):
        images = {f"{shard}-{i}.jpg": made.jpeg(12 * shard + i, 64, 64, quality=90) for i in range(12)}
        (folder / f"{shard}.tar").write_bytes(made.tar(images))
    return folder


class Attempt:
    """One `python -m jobs.train` on an OUTPUT."""

    def __init__(self, data: Path, output: Path, *arguments: str, cwd: Path = ROOT) -> None:
        self.output = output
        config = output.with_suffix(".yaml")
        config.write_text(json.dumps(SETTINGS))
        command = [sys.executable, "-m", "jobs.train", str(data), str(output), "--config", str(config), *arguments]
        self.talk = output.with_suffix(".log").open("ab")
        env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        self.process = subprocess.Popen(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=self.talk)

    def wait_for_step(self, step: int) -> None:
        """Until there is a checkpoint of this step or a later one."""
        until = time.monotonic() + TIMEOUT_S
        while newest(self.output) < step:
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < until, self.said()
            time.sleep(0.02)

    def wait_for_workers(self) -> list[psutil.Process]:
        """Until both training workers of this attempt are there."""
        until = time.monotonic() + TIMEOUT_S
        while len(found := training_workers(self.process.pid)) < 2:
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < until, self.said()
            time.sleep(0.1)
        return found

    def end(self, limit_s: float = TIMEOUT_S) -> tuple[int, dict[str, Any]]:
        """(exit code, result on stdout)."""
        stdout, _ = self.process.communicate(timeout=limit_s)
        return self.process.returncode, json.loads(stdout or b"{}")

    def halted_at(self) -> int:
        """The step of which it says that it halted."""
        (step,) = re.findall(r"halted with a checkpoint of step (\d+)", self.said())
        return int(step)

    def said(self) -> str:
        return Path(self.talk.name).read_text()


def newest(output: Path) -> int:
    """The step of the newest checkpoint, 0 without one."""
    return max((int(path.stem.removeprefix("step-")) for path in output.glob("checkpoints/*.json")), default=0)


def training_workers(of: int) -> list[psutil.Process]:
    """The Ray Train workers below a process, oldest first."""
    found: list[psutil.Process] = []
    for process in psutil.Process(of).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it may end, or be a zombie, while we look
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process)
    return sorted(found, key=lambda p: p.create_time())


def undisturbed(data: Path, output: Path, workers: int, steps: int = STEPS) -> Path:
    attempt = Attempt(data, output, "--workers", str(workers), "--steps", str(steps))
    code, result = attempt.end(TIMEOUT_S * max(1.0, steps / 300))
    assert (code, result["state"]) == (0, "done")
    return output


@pytest.fixture(scope="module")
def one(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OUTPUT of an undisturbed run of one worker."""
    return undisturbed(data, tmp_path_factory.mktemp("one") / "run", 1)


@pytest.fixture(scope="module")
def two(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OUTPUT of an undisturbed run of two workers."""
    return undisturbed(data, tmp_path_factory.mktemp("two") / "run", 2)


def assert_same(output: Path, undisturbed: Path, steps: int = STEPS) -> None:
    """The same weights and the same loss curve, bit for bit, each step once."""
    state = f"checkpoints/step-{steps:08d}.safetensors"
    assert (output / state).read_bytes() == (undisturbed / state).read_bytes()
    models = [load_file(path / "model.safetensors") for path in (output, undisturbed)]  # whose cards tell other seconds
    assert models[0].keys() == models[1].keys()
    assert all(torch.equal(weight, models[1][name]) for name, weight in models[0].items())
    curves = [
        [json.loads(line) for line in (p / "metrics.jsonl").read_text().splitlines()] for p in (output, undisturbed)
    ]
    told, expected = ([(line["step"], line["loss"], line["gradient_norm"]) for line in curve] for curve in curves)
    assert [step for step, _, _ in told] == list(range(EVERY, steps + 1, EVERY))
    assert told == expected


def test_a_killed_training_worker_is_replaced_and_the_run_goes_on_by_itself(data: Path, two: Path, tmp_path: Path):
    attempt = Attempt(data, tmp_path / "run", "--workers", "2")
    for step, rank in ((10, 1), (25, 0)):
        attempt.wait_for_step(step)
        workers = training_workers(attempt.process.pid)
        assert len(workers) == 2
        workers[rank].kill()
        assert newest(attempt.output) < STEPS  # else the kill came too late to show anything
        psutil.wait_procs(workers, timeout=TIMEOUT_S)  # the other one goes too: the group starts anew
    code, result = attempt.end()
    assert (code, result["steps"]) == (0, STEPS)
    assert_same(attempt.output, two)


@pytest.mark.timeout(3600)
def test_kills_at_ten_random_moments_leave_no_trace(data: Path, tmp_path: Path):
    """Of a worker, of the driver, of both: while they start, in a step, in a checkpoint, wherever they are."""
    steps, kills, random = 900, 10, Random(7)
    output, arguments = tmp_path / "run", ("--workers", "2", "--steps", "900")
    attempt = Attempt(data, output, *arguments)
    for number, kind in enumerate([("worker", "driver", "both")[i % 3] for i in range(kills)]):
        workers = attempt.wait_for_workers()
        if random.random() < 0.7:  # else while they start
            attempt.wait_for_step(random.randrange(number * steps // 20, (number + 1) * steps // 20))
        time.sleep(random.uniform(0, 0.5))
        assert newest(output) < steps  # else the kill comes too late to show anything
        below = psutil.Process(attempt.process.pid).children(recursive=True)
        if kind != "driver":
            workers[random.randrange(len(workers))].kill()
        if kind == "worker":
            psutil.wait_procs(workers, timeout=TIMEOUT_S)  # the other one goes too: the group starts anew
        else:
            attempt.process.kill()
            attempt.process.wait()
            psutil.wait_procs(below, timeout=60)
            attempt = Attempt(data, output, *arguments)
    code, result = attempt.end()
    assert (code, result["steps"]) == (0, steps), attempt.said()
    assert_same(output, undisturbed(data, tmp_path / "unbroken", 2, steps), steps)


def test_a_killed_driver_is_followed_by_the_same_command(data: Path, one: Path, tmp_path: Path):
    for step in (5, 20, 35):
        attempt = Attempt(data, tmp_path / "run")
        attempt.wait_for_step(step)
        below = psutil.Process(attempt.process.pid).children(recursive=True)
        attempt.process.kill()
        attempt.process.wait()
        assert newest(attempt.output) < STEPS
        psutil.wait_procs(below, timeout=60)  # Ray's processes notice that their driver has gone
    code, result = Attempt(data, tmp_path / "run").end()
    assert (code, result["steps"]) == (0, STEPS)
    assert_same(tmp_path / "run", one)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_130_and_it_can_go_on(data: Path, one: Path, tmp_path: Path, number: signal.Signals):
    attempt = Attempt(data, tmp_path / "run")
    attempt.wait_for_step(15)
    below = psutil.Process(attempt.process.pid).children(recursive=True)
    attempt.process.send_signal(number)
    code, result = attempt.end()
    assert (code, result["state"]) == (130, "interrupted")
    assert json.loads((attempt.output / "_RESULT.json").read_text()) == result
    assert not psutil.wait_procs(below, timeout=60)[1]
    assert attempt.halted_at() == newest(attempt.output) < STEPS
    assert not (attempt.output / STOP).exists()
    code, result = Attempt(data, tmp_path / "run").end()
    assert (code, result["steps"]) == (0, STEPS)
    assert_same(tmp_path / "run", one)


def test_a_worker_that_is_told_to_end_halts_both_and_no_step_is_done_again(data: Path, two: Path, tmp_path: Path):
    attempt = Attempt(data, tmp_path / "run", "--workers", "2")
    attempt.wait_for_step(15)
    training_workers(attempt.process.pid)[1].terminate()
    code, result = attempt.end()
    assert (code, result["steps"]) == (0, STEPS)
    assert 15 <= attempt.halted_at() < STEPS
    assert "started anew" not in attempt.said()
    assert_same(tmp_path / "run", two)


def test_another_number_of_workers_can_finish_the_run(data: Path, tmp_path: Path):
    attempt = Attempt(data, tmp_path / "run", "--workers", "2")
    attempt.wait_for_step(15)
    attempt.process.send_signal(signal.SIGTERM)
    assert attempt.end()[0] == 130
    code, result = Attempt(data, tmp_path / "run", "--workers", "1").end()
    assert (code, result["steps"]) == (0, STEPS)
    marks = [json.loads(path.read_text()) for path in sorted(attempt.output.glob("checkpoints/*.json"))]
    assert len(marks[-1]["positions"]) == 1


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def wait_for_jobs(url: str) -> None:
    """Until the cluster takes jobs: its agent starts later than the rest."""
    until = time.monotonic() + 120
    while True:
        try:
            JobSubmissionClient(url).submit_job(entrypoint="true")
        except (RuntimeError, ConnectionError):
            assert time.monotonic() < until
            time.sleep(0.5)
        else:
            return


@pytest.fixture
def head() -> Iterator[tuple[int, str]]:
    """(pid, job URL) of the head of a cluster with two CPUs, on loopback, with ports of its own."""
    names = ("port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:  # short: it holds sockets
        here = str(Path(sys.executable).parent)
        command = [f"{here}/ray", "start", "--head", "--block", "--num-cpus=2", f"--temp-dir={folder}"]
        command += ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", "--include-dashboard=true"]
        command += [f"--{name}={port}" for name, port in ports.items()]
        env = os.environ | {"PATH": f"{here}:{os.environ['PATH']}"}  # jobs start as `python -m ...`
        with Path(folder, "talk.log").open("wb") as talk:
            process = psutil.Popen(command, env=env, stdout=talk, stderr=talk)
        try:
            wait_for_jobs(f"http://127.0.0.1:{ports['dashboard-port']}")
            yield process.pid, f"http://127.0.0.1:{ports['dashboard-port']}"
        finally:
            started = [process, *process.children(recursive=True)]
            for each in started:
                each.terminate()
            for each in psutil.wait_procs(started, timeout=30)[1]:
                each.kill()


def test_a_submitted_job_with_two_workers_survives_the_kill_of_one(
    data: Path, two: Path, head: tuple[int, str], tmp_path: Path
):
    pid, url = head
    work = tmp_path / "work"  # what is sent to the cluster
    for package in ("driftrec", "pipeline", "jobs"):
        shutil.copytree(ROOT / package, work / package, ignore=shutil.ignore_patterns("__pycache__"))
    attempt = Attempt(data, tmp_path / "run", "--workers", "2", "--submit", url, cwd=work)
    attempt.wait_for_step(15)
    training_workers(pid)[-1].kill()
    assert newest(attempt.output) < STEPS
    code, result = attempt.end()
    assert (code, result["steps"]) == (0, STEPS), attempt.said()
    assert_same(attempt.output, two)
