"""Weights by URL: fetched once, whole or not at all."""

import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from driftrec import Restorer
from driftrec.errors import InvalidInput
from driftrec.models.download import cache, fetch


class Handler(BaseHTTPRequestHandler):
    content = b""
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path.startswith("/missing"):
            self.send_error(404)
            return
        self.send_response(200)
        if self.path.startswith("/huge"):
            self.send_header("Content-Length", str(2**40))
        if self.path.startswith(("/huge", "/endless")):
            self.end_headers()
            with suppress(OSError):
                for _ in range(1000):
                    self.wfile.write(bytes(2**16))
            return
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content[: len(self.content) // 2] if self.path.startswith("/cut") else self.content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    Handler.content, Handler.asked = small_model.read_bytes(), []
    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{listening.server_port}"
    listening.shutdown()
    thread.join()
    listening.server_close()


def test_a_model_by_url_is_fetched_once(server: str, small_model: Path) -> None:
    by_path, url = Restorer.from_pretrained(str(small_model), device="cpu"), f"{server}/a/small.safetensors"
    for _ in range(2):
        assert Restorer.from_pretrained(url, device="cpu").fingerprint == by_path.fingerprint
    assert Handler.asked == ["/a/small.safetensors"]


@pytest.mark.parametrize(("path", "words"), [("/missing.safetensors", "could not be fetched"), ("/cut", "bytes came")])
def test_what_does_not_come_whole_leaves_nothing(server: str, path: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words) as error:
        fetch(f"{server}{path}?signature=secret")
    assert "secret" not in str(error.value)
    assert not list(cache().iterdir())


def test_other_schemes_are_told_what_to_do() -> None:
    with pytest.raises(InvalidInput, match=r"s3://bucket/model\.safetensors: only http and https"):
        Restorer.from_pretrained("s3://bucket/model.safetensors")


@pytest.mark.parametrize("path", ["/huge", "/endless"])
def test_no_more_is_fetched_than_a_model_has(server: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("driftrec.bounds.MOST_BYTES", 2**21)
    with pytest.raises(InvalidInput, match=r"larger than a model may be, 2097152 bytes"):
        fetch(f"{server}{path}")
    assert not list(cache().iterdir())
