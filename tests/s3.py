"""A real S3 server (SeaweedFS) on loopback, for tests: it rejects wrong secrets and honours If-None-Match."""

import json
import random
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

KEY, SECRET = "test", "a-secret-that-must-not-be-seen"


@dataclass(frozen=True)
class Server:
    """Where it answers."""

    endpoint: str

    def environment(self, secret: str = SECRET) -> dict[str, str]:
        """What a user would set."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_REGION": "us-east-1",
        }


@contextmanager
def serve(folder: Path) -> Iterator[Server]:
    """Run a server with its data in `folder`; it takes about 3 s to be ready."""
    config = folder / "s3.json"
    credentials = [{"accessKey": KEY, "secretKey": SECRET}]
    actions = ["Admin", "Read", "List", "Tagging", "Write"]
    config.write_text(json.dumps({"identities": [{"name": "ci", "credentials": credentials, "actions": actions}]}))
    for name in ("data", "log"):
        (folder / name).mkdir()
    process, endpoint = _start(folder, config)
    try:
        yield Server(endpoint)
    finally:
        process.kill()  # it would take half a minute to end well, and nobody wants its data
        process.wait(30)


def _start(folder: Path, config: Path, tries: int = 3) -> tuple[subprocess.Popen[bytes], str]:
    """The server, once it answers, and where. Another process may take a port between our look and its start."""
    master, volume, filer, s3 = _free_ports(4)
    command = [
        str(Path(sys.executable).parent / "weed"), f"-logdir={folder}/log", "server", f"-dir={folder}/data",
        "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-master.port={master}", f"-volume.port={volume}", "-filer",
        f"-filer.port={filer}", "-s3", f"-s3.port={s3}", "-s3.port.iceberg=0", "-s3.port.lance=0",
        f"-s3.config={config}", "-master.volumeSizeLimitMB=64", "-volume.max=1000", "-master.telemetry=false",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _await(f"http://127.0.0.1:{s3}/healthz", process)
    except ConnectionError:
        if tries == 1:
            raise
        return _start(folder, config, tries - 1)
    except BaseException:
        process.kill()
        raise
    return process, f"http://127.0.0.1:{s3}"


def _free_ports(count: int) -> list[int]:
    """Ports that are free, and free 10,000 higher, where the server opens one more each; below the ephemeral ones."""
    found: list[int] = []
    for port in range(20_000 + random.randrange(2000), 22_700):
        if all(_is_free(number) for number in (port, port + 10_000)):
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError("no free ports for the S3 server")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _await(url: str, process: subprocess.Popen[bytes], limit_s: float = 90) -> None:
    ends = time.monotonic() + limit_s
    while time.monotonic() < ends:
        if process.poll() is not None:
            raise ConnectionError(f"the S3 server ended with {process.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.2)
    raise TimeoutError(url)
