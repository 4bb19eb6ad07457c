"""The job submitted to a Ray head, by Ray's own command and by --submit."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import s3fs
from ray.job_submission import JobSubmissionClient

from driftrec.errors import InvalidInput
from pipeline.cluster import package, submit
from pipeline.restore.settings import RestoreSettings
from tests import made, s3
from tests.chaos.processes import end, start, until

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


@dataclass(frozen=True)
class Head:
    """A Ray head on loopback, of its own."""

    url: str  # of its dashboard
    address: str  # for RAY_ADDRESS
    folder: Path  # where its session and all its logs lie


@contextmanager
def started_head(environment: Mapping[str, str]) -> Iterator[Head]:
    port, dashboard, agent = free_port(), free_port(), free_port()
    folder = Path(tempfile.mkdtemp(prefix="dr-"))  # short: it holds sockets
    command = [
        RAY, "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=2",
        "--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}",
        f"--dashboard-agent-listen-port={agent}", "--disable-usage-stats", f"--temp-dir={folder}",
    ]  # fmt: skip
    # Not `ray stop`: that ends every Ray of the machine. This one falls with its process.
    path = {"PATH": f"{RAY.parent}:{os.environ['PATH']}"}  # so that `python` is ours on this cluster
    with (folder / "talk").open("w") as talk:
        where = {**os.environ, **path, **environment}
        process = subprocess.Popen(list(map(str, command)), stdout=talk, stderr=subprocess.STDOUT, env=where)
    url = f"http://127.0.0.1:{dashboard}"
    try:
        for _ in range(120):
            assert process.poll() is None, (folder / "talk").read_text()
            try:
                urllib.request.urlopen(f"{url}/api/version", timeout=2)
                break
            except urllib.error.HTTPError:
                break  # it answers, if only that it wants the token
            except OSError:
                time.sleep(0.5)
        yield Head(url, f"127.0.0.1:{port}", folder)
    finally:
        process.terminate()
        process.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def head(s3_server: s3.Server) -> Iterator[Head]:
    """Its nodes have access to the store of their own."""
    with started_head(s3_server.environment()) as started:
        await_agent(JobSubmissionClient(started.url))
        yield started


def as_user(**variables: str) -> dict[str, str]:
    """The environment of one who submits, and has no access to the store but what is given here."""
    return {name: value for name, value in os.environ.items() if not name.startswith("AWS_")} | variables


def test_ray_job_submit(head: Head, tmp_path: Path) -> None:
    source, output = made.folder(tmp_path / "in", 12), tmp_path / "out"
    job = ["python", "-m", "jobs.restore", source, output, "--model", "identity"]
    environment = ["--working-dir", ".", "--runtime-env-json", EXCLUDES]
    command = [RAY, "job", "submit", "--address", head.url, *environment, "--", *job]
    done = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert json.loads((output / "_RESULT.json").read_text())["status"]["ok"] == 12
    assert len(list(output.rglob("*.png"))) == 12


def test_submit_by_flag_gives_the_jobs_own_result_and_exit_code(head: Head, tmp_path: Path) -> None:
    source, output = made.folder(tmp_path / "in", 3), tmp_path / "out"
    (source / "bad.jpg").write_bytes(b"")
    flags = ["--model", "identity", "--submit", head.url]
    result = end(start(source, output, *flags), code=3)
    assert result["reasons"] == {"empty": 1}
    assert result == json.loads((output / "_RESULT.json").read_text())
    (source / "bad.jpg").unlink()
    # What lies in OUTPUT is of the earlier job: another that is refused says so itself.
    assert "seed is 0 there, 1 here" in end(start(source, output, *flags, "--seed", "1"), code=2)["error"]
    assert end(start(source, output / "2", *flags))["status"]["ok"] == 3


def test_a_head_that_is_not_there_is_refused(tmp_path: Path) -> None:
    source = made.folder(tmp_path / "in", 1)
    url = f"http://127.0.0.1:{free_port()}"
    result = end(start(source, tmp_path / "out", "--submit", url), code=2)
    assert url in result["error"]


def test_the_log_is_told_while_the_job_runs(head: Head, tmp_path: Path) -> None:
    source, output = made.folder(tmp_path / "in", 40, 160, 160), tmp_path / "out"
    process = start(source, output, "--actors", "1", "--shard-images", "1", "--progress", "0.5", "--submit", head.url)
    assert process.stderr
    told = []
    while "done" not in "".join(told[-1:]) and (line := process.stderr.readline()):
        told.append(line)
    assert not (output / "_RESULT.json").exists()
    assert any("sending" in line and "the code of this checkout" in line for line in told)
    result = end(process)
    assert result == json.loads((output / "_RESULT.json").read_text())


def test_files_that_git_ignores_are_found(
    head: Head, tmp_path: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, output = made.folder(tmp_path / "in", 4), tmp_path / "out"
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/mine").mkdir(parents=True)
    (tmp_path / ".gitignore").write_text("/runs/\n/list.txt\n")
    shutil.copy(small_model, tmp_path / "runs/mine/model.safetensors")
    keys = sorted(path.relative_to(source).as_posix() for path in source.rglob("*.jpg"))[:2]
    (tmp_path / "list.txt").write_text("\n".join(keys))
    (tmp_path / "c.yaml").write_text("model: runs/mine/model.safetensors\n")
    flags = ["--config", "c.yaml", "--only-listed", "list.txt", "--submit", head.url]
    assert end(start("in", "out", *flags))["status"]["ok"] == 2
    assert json.loads((output / "run.json").read_text())["settings"]["steps"] == 2  # what this model recommends


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_job(head: Head, tmp_path: Path, number: int) -> None:
    source, output = made.folder(tmp_path / "in", 60, 200, 200), tmp_path / "out"
    flags = ["--actors", "1", "--shard-images", "1"]
    process = start(source, output, *flags, "--submit", head.url)
    until(lambda: list(output.glob("ledger/*.parquet")), process)
    process.send_signal(number)
    result = end(process, code=130)
    assert result["state"] == "interrupted"
    assert result == json.loads((output / "_RESULT.json").read_text())
    (job,) = [job for job in JobSubmissionClient(head.url).list_jobs() if f"{output} " in job.entrypoint]
    assert job.status == "STOPPED"


def test_detached_it_goes_on_alone(head: Head, tmp_path: Path) -> None:
    source, output = made.folder(tmp_path / "in", 3), tmp_path / "out"
    result = end(start(source, output, "--model", "identity", "--submit", head.url, "--detach"))
    assert result["state"] == "submitted"
    assert not (output / "_RESULT.json").exists()
    client = JobSubmissionClient(head.url)
    assert until(lambda: client.get_job_status(result["job"]).is_terminal(), limit_s=120)
    assert json.loads((output / "_RESULT.json").read_text())["status"]["ok"] == 3


def test_no_secret_is_left_in_ray(head: Head, s3_server: s3.Server, tmp_path: Path) -> None:
    """The user's keys differ from those of the nodes, and the store knows only the latter."""
    marker = "wJalr7XUtnFEMI-K7MDENG-bPxRfiCY"
    keys = {"AWS_ACCESS_KEY_ID": "AKIAMARKER0000000000", "AWS_SECRET_ACCESS_KEY": marker, "AWS_SESSION_TOKEN": marker}
    fs = s3fs.S3FileSystem(key=s3.KEY, secret=s3.SECRET, endpoint_url=s3_server.endpoint)
    fs.mkdirs("secrets/in")
    for path in made.folder(tmp_path / "in", 3).rglob("*.jpg"):
        fs.put_file(str(path), f"secrets/in/{path.name}")
    flags = ["--model", "identity", "--submit", head.url]
    command = [sys.executable, "-m", "jobs.restore", "s3://secrets/in", "s3://secrets/out", *flags]
    user = as_user(**keys, AWS_ENDPOINT_URL=s3_server.endpoint)
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=user)
    assert done.returncode == 0, done.stderr
    assert "AWS_SECRET_ACCESS_KEY" in done.stderr
    assert "access of its own" in done.stderr
    assert json.loads(done.stdout)["status"]["ok"] == 3
    listed = subprocess.run(
        [RAY, "job", "list", "--address", head.url], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert "s3://secrets/out" in listed
    left = [path for path in head.folder.rglob("*") if path.is_file()]
    assert {"runtime_env_agent.log", "gcs_server.out"} < {path.name for path in left}
    for secret in (marker, keys["AWS_ACCESS_KEY_ID"], s3.SECRET):
        assert secret not in listed + done.stdout + done.stderr
        assert [path for path in left if secret.encode() in path.read_bytes()] == []


def test_ray_takes_what_the_limit_lets_through_and_not_much_more(
    head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit.connection, "checkout", lambda: None)
    limit, model = package.LIMIT, tmp_path / "m.safetensors"
    settings = RestoreSettings(input="s3://none/a", output=f"s3://none/{tmp_path.name}", model=str(model))
    model.write_bytes(bytes(limit))
    answer = submit.submit_job(head.url, "restore", settings, detach=True)
    JobSubmissionClient(head.url).stop_job(answer["job"])
    monkeypatch.setattr(package, "LIMIT", 2 * limit)
    model.write_bytes(bytes(limit + 2**20))
    with pytest.raises(InvalidInput):
        submit.submit_job(head.url, "restore", settings, detach=True)


@pytest.mark.parametrize(("token", "words"), [("", "wants a token"), ("1" * 32, "refuses the token")])
def test_a_head_that_wants_another_token(token: str, words: str, locked_head: Head, tmp_path: Path) -> None:
    source = made.folder(tmp_path / "in", 1)
    command = [sys.executable, "-m", "jobs.restore", source, tmp_path / "out", "--submit", locked_head.url]
    user = as_user(HOME=str(tmp_path), RAY_AUTH_TOKEN=token)
    user.pop("RAY_AUTH_MODE", None)
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=100, env=user)
    assert done.returncode == 2, done.stderr
    assert words in json.loads(done.stdout)["error"]
    assert "Traceback" not in done.stderr
    assert token == "" or token not in done.stdout + done.stderr


@pytest.mark.parametrize("mode", ["token", "disabled"])
def test_an_address_that_wants_another_token(mode: str, locked_head: Head, tmp_path: Path) -> None:
    source = made.folder(tmp_path / "in", 1)
    command = [sys.executable, "-m", "jobs.restore", source, tmp_path / "out", "--model", "identity"]
    user = as_user(HOME=str(tmp_path), RAY_ADDRESS=locked_head.address, RAY_AUTH_MODE=mode, RAY_AUTH_TOKEN="1" * 32)
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=200, env=user)
    assert done.returncode == 1, done.stderr
    assert "RAY_AUTH_MODE=token" in json.loads(done.stdout)["error"]
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def locked_head() -> Iterator[Head]:
    with started_head({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 32}) as started:
        yield started
