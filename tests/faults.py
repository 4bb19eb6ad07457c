"""A proxy on loopback that stands before an S3 server and spoils some of its answers, for tests."""

import http.client
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import urlsplit

Kind = Literal["error", "slow", "cut", "lost"]


@dataclass
class Fault:
    """What happens to the next requests that match.

    error: the server is not asked, `status` is answered. slow: the answer comes `seconds` late. cut: the connection
    ends in the middle of the answer's body. lost: the server does what it is asked, and its answer never comes.
    """

    kind: Kind
    method: str = ".*"
    path: str = ".*"
    key: str = ".*"  # id of the access key that signed it
    times: int = 10**9
    status: int = 503
    code: str = ""  # of S3; by default as suits the status
    after: int = 0  # matching requests that go through before
    seconds: float = 0.0
    met: int = 0  # requests that it has spoiled


@dataclass
class Proxy:
    """Where it answers, and what it is told to do."""

    endpoint: str
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)  # "GET /bucket/key", in order
    lock: threading.Lock = field(default_factory=threading.Lock)

    def spoil(self, *faults: Fault) -> None:
        """Do this from now on, and nothing else."""
        with self.lock:
            self.faults, self.requests = list(faults), []

    def take(self, method: str, path: str, key: str) -> Fault | None:
        """The fault for a request, and one time less of it."""
        with self.lock:
            self.requests.append(f"{method} {path}")
            for fault in self.faults:
                meant = re.fullmatch(fault.method, method) and re.search(fault.path, path)
                if fault.met < fault.times and meant and re.fullmatch(fault.key, key):
                    if fault.after > 0:
                        fault.after -= 1
                        continue
                    fault.met += 1
                    return fault
        return None


@contextmanager
def before(endpoint: str) -> Iterator[Proxy]:
    """Run a proxy before the server at `endpoint`."""
    upstream = urlsplit(endpoint).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            signed = re.search(r"Credential=([^/]*)", self.headers.get("Authorization") or "")
            fault = proxy.take(self.command, self.path, signed[1] if signed else "")
            if fault and fault.kind == "error":
                body = _error_body(fault.status, fault.code)
                self._answer(fault.status, [("Content-Type", "application/xml")], body, None)
                return
            if fault and fault.kind == "slow":
                time.sleep(fault.seconds)
            connection = http.client.HTTPConnection(upstream, timeout=60)
            connection.request(self.command, self.path, body, dict(self.headers.items()))
            answer = connection.getresponse()
            self._answer(answer.status, answer.getheaders(), answer.read(), fault)
            connection.close()

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any  # noqa: N815

        def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, fault: Fault | None) -> None:
            if fault and fault.kind == "lost":
                self.close_connection = True
                return
            self.send_response(status)
            length = next((value for name, value in headers if name.lower() == "content-length"), str(len(body)))
            for name, value in headers:
                if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                    self.send_header(name, value)
            self.send_header("Content-Length", length if self.command == "HEAD" else str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                cut = fault is not None and fault.kind == "cut"
                self.wfile.write(body[: len(body) // 2] if cut else body)
                self.close_connection = cut

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except OSError:
                self.close_connection = True  # the client has gone, as after a time-out

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    proxy = Proxy(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()


def _error_body(status: int, code: str) -> bytes:
    code = code or {403: "AccessDenied", 404: "NoSuchKey", 500: "InternalError", 503: "SlowDown"}[status]
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>for a test</Message></Error>".encode()
