"""The job submitted to a Ray head, by Ray's own command and by --submit."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.job_submission import JobSubmissionClient

from tests import made
from tests.chaos.processes import end, start

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
RAY = Path(sys.executable).parent / "ray"
EXCLUDES = json.dumps({"excludes": [".git", ".venv", "out", "tests", "docs"]})


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def await_agent(client: JobSubmissionClient) -> None:
    """A head answers before it takes jobs."""
    for attempt in range(20):
        try:
            client.submit_job(entrypoint="true")
            return
        except RuntimeError:
            if attempt == 19:
                raise
            time.sleep(1)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The dashboard's URL of a Ray head on loopback, of its own."""
    port, dashboard, agent = free_port(), free_port(), free_port()
    command = [
        RAY, "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=2",
        "--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}",
        f"--dashboard-agent-listen-port={agent}", "--disable-usage-stats",
    ]  # fmt: skip
    log = (tmp_path_factory.mktemp("head") / "log").open("w")
    # Not `ray stop`: that ends every Ray of the machine. This one falls with its process.
    path = {"PATH": f"{RAY.parent}:{os.environ['PATH']}"}  # so that `python` is ours on this cluster
    process = subprocess.Popen(
        [str(part) for part in command], stdout=log, stderr=subprocess.STDOUT, env=os.environ | path
    )
    url = f"http://127.0.0.1:{dashboard}"
    try:
        for _ in range(120):
            assert process.poll() is None, Path(log.name).read_text()
            try:
                urllib.request.urlopen(f"{url}/api/version", timeout=2)
                break
            except urllib.error.HTTPError:
                break  # it answers, if only that it wants the token
            except OSError:
                time.sleep(0.5)
        await_agent(JobSubmissionClient(url))
        yield url
    finally:
        process.terminate()
        process.wait(60)


def test_ray_job_submit(head: str, tmp_path: Path) -> None:
    source, output = made.folder(tmp_path / "in", 12), tmp_path / "out"
    job = ["python", "-m", "jobs.restore", source, output, "--model", "identity"]
    environment = ["--working-dir", ".", "--runtime-env-json", EXCLUDES]
    command = [RAY, "job", "submit", "--address", head, *environment, "--", *job]
    done = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert json.loads((output / "_RESULT.json").read_text())["status"]["ok"] == 12
    assert len(list(output.rglob("*.png"))) == 12


def test_submit_by_flag_gives_the_jobs_own_result_and_exit_code(head: str, tmp_path: Path) -> None:
    source, output = made.folder(tmp_path / "in", 3), tmp_path / "out"
    (source / "bad.jpg").write_bytes(b"")
    flags = ["--model", "identity", "--submit", head]
    result = end(start(source, output, *flags), code=3)
    assert result["reasons"] == {"empty": 1}
    assert result == json.loads((output / "_RESULT.json").read_text())
    (source / "bad.jpg").unlink()
    assert end(start(source, output / "2", *flags))["status"]["ok"] == 3


def test_a_head_that_is_not_there_is_refused(tmp_path: Path) -> None:
    source = made.folder(tmp_path / "in", 1)
    url = f"http://127.0.0.1:{free_port()}"
    result = end(start(source, tmp_path / "out", "--submit", url), code=2)
    assert url in result["error"]
