"""A secret in a URL is in nothing that a command writes, whatever job, place and end: it is refused or left out."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.cli import main
from pipeline.storage import remote
from tests import made
from tests.made import PASSWORDS, SECRETS, shows

PLACES = {  # of URLs, in each job's arguments
    "restore": "input output --model= --only-listed=",
    "evaluate": "input output --model= --model=m= --candidate=x= --labels= --weights=resnet50=",
    "survey": "input output --model=",
    "degrade": "input output",
    "split": "input output",
    "verify": "output",
    "models": "show import",
    "train": "input output --corrupted= --validation= --set=init_from= --set=optimizer.steps=",
}
CELLS = [(job, place) for job, places in PLACES.items() for place in places.split()]
URLS = [  # with a password
    "s3://key:{}@bucket/x", "https://key:{}@host/x.safetensors?a=1", "https:/key:{}@host/x.tar", "HTTPS://key:{}@h/x",
    "gs:///key:{}@bucket/x", "file://key:{}@host/x", "simplecache::https://:{}@host/x",
]  # fmt: skip
SOME = settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def site(small_model: Path) -> Iterator[str]:
    """A web server that has a model, a broken file, a page, or nothing, by the name of what is asked for."""

    files = {"/broken": made.jpeg(1)[:50], "/page": b"<html>", "/model": small_model.read_bytes()}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = files.get(self.path[: self.path.find(".")], b"")
            self.send_response(200 if body else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def command(job: str, place: str, url: str, folder: Path) -> list[str]:
    """The arguments of a job with the URL at a place and paths elsewhere."""
    given = {"input": str(folder / "in"), "output": str(folder / "out")}
    if job == "models":
        return [job, place, url, *(["x.safetensors"] if place == "import" else [])]
    names = ["output"] if job == "verify" else ["input", "output"]
    values = [url if name == place else given[name] for name in names]
    return [job, *values, *([place + url] if place.startswith("--") else [])]


@pytest.mark.parametrize(("job", "place"), CELLS)
def test_a_password_is_refused_and_not_shown(
    job: str,
    place: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    made.folder(tmp_path / "in", 1)

    @SOME
    @given(PASSWORDS, st.sampled_from(URLS))
    def check(secret: str, url: str) -> None:
        for mistake in ([], ["--stepz"], ["x"]):
            assert main(command(job, place, url.format(secret), tmp_path) + mistake) == 2
            out, err = capfd.readouterr()
            assert json.loads(out)["state"] == "refused"
            assert not shows(out + err + caplog.text, secret), url

    check()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("job", "place"), CELLS)
def test_a_signature_is_not_shown(
    job: str,
    place: str,
    site: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of what is not there, or is no such file; in a run that is refused, and in one that is only planned."""
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 0.0)
    made.folder(tmp_path / "in", 1)

    @SOME
    @given(SECRETS, st.sampled_from(["none", "page", "broken"]), st.sampled_from(["jpg", "safetensors", "csv", "tar"]))
    def check(secret: str, what: str, suffix: str) -> None:
        arguments = command(job, place, f"{site}/{what}.{suffix}?token={secret}", tmp_path)
        main(arguments + (["--dry-run"] if job not in ("verify", "models") else []))
        out, err = capfd.readouterr()
        assert secret not in out + err + caplog.text

    check()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_signature_is_in_nothing_that_a_run_leaves(site: str, tmp_path: Path) -> None:
    """In a process of its own, whose arguments Ray knows: OUTPUT, what it says, and Ray's own logs."""
    secret, ray_folder = "Wq7/a%2B@x:?kX4", Path(tempfile.mkdtemp(prefix="dr-"))
    source = made.folder(tmp_path / "in", 3)
    (source / "bad.jpg").write_bytes(b"<html>")
    command = [sys.executable, "-m", "jobs.restore", source, tmp_path / "out", "--max-failed", "1"]
    command += ["--model", f"{site}/model.safetensors?a=b&token={secret}"]
    where = os.environ | {"RAY_TMPDIR": str(ray_folder)}
    try:
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=500, env=where)
        assert done.returncode == 0, done.stderr
        assert secret not in done.stdout + done.stderr
        left = [path for path in (*tmp_path.rglob("*"), *ray_folder.rglob("*")) if path.is_file()]
        assert {"report.html", "run.json", "_RESULT.json", "gcs_server.out"} < {path.name for path in left}
        assert [path for path in left if secret.encode() in path.read_bytes()] == []
        model = json.loads((tmp_path / "out/run.json").read_text())["settings"]["model"]
        assert model == f"{site}/model.safetensors?..."
    finally:
        shutil.rmtree(ray_folder, ignore_errors=True)
