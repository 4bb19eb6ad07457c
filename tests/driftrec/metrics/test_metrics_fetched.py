"""`driftrec weights`: what is there is told, what is not is fetched whole, checked by its name, or not at all."""

import hashlib
import json
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from driftrec.errors import InvalidInput
from driftrec.metrics import weights
from driftrec.metrics.weights import Published
from jobs.cli import main

GOOD = b"weights" * 1000
DIGEST = hashlib.sha256(GOOD).hexdigest()
NAMED = f"net-{DIGEST[:8]}.pth"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A publisher on loopback, and a TORCH_HOME of this test."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    for name, data in {NAMED: GOOD, "net-00000000.pth": GOOD, "plain.pt": b"no hash"}.items():
        (shelf / name).write_bytes(data)
    handler = partial(SimpleHTTPRequestHandler, directory=str(shelf))
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as found:
        thread = Thread(target=found.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{found.server_port}"
        files = {"good": NAMED, "wrong": "net-00000000.pth", "bare": "plain.pt", "none": "missing-12345678.pth"}
        monkeypatch.setattr(
            weights,
            "WEIGHTS",
            {name: Published((file,), "a test", url) for name, file in files.items()}
            | {"made": Published(("made.safetensors",), "a recipe")},
        )
        yield url
        found.shutdown()
        thread.join()


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict]:
    code = main(["weights", *arguments])
    return code, json.loads(capsys.readouterr().out)


def test_fetched_once(server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = answer(capsys, "list")
    assert code == 0
    assert {one["name"]: (one["path"], one["sha256"]) for one in told["weights"]} == {
        "good": (None, DIGEST[:8]),
        "wrong": (None, "00000000"),
        "bare": (None, None),
        "none": (None, "12345678"),
        "made": (None, None),
    }
    code, told = answer(capsys, "fetch", "good", "bare")
    assert code == 0
    path = tmp_path / "torch/hub/checkpoints" / NAMED
    assert told["weights"][0] == {"name": "good", "path": str(path), "sha256": DIGEST}
    assert path.read_bytes() == GOOD
    before = path.stat().st_mtime_ns
    (tmp_path / "shelf" / NAMED).write_bytes(b"other")
    assert weights.fetch("good") == path == weights.find_weights("good", {})
    assert path.stat().st_mtime_ns == before
    _, told = answer(capsys, "list")
    assert {one["name"] for one in told["weights"] if one["path"]} == {"good", "bare"}


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("wrong", "its sha256 should begin with 00000000, and is " + DIGEST),
        ("none", "could not be fetched: "),
        ("made", "its weights are made, not fetched: by a recipe"),
        ("lpip", "no weights are called 'lpip'; there are good, wrong"),
    ],
)
def test_refused(server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, why: str) -> None:
    code, told = answer(capsys, "fetch", "good", name)
    assert code == 2
    assert why in told["error"]
    there = [path.name for path in (tmp_path / "torch").rglob("*.p*")]
    assert there == ([] if name == "lpip" else [NAMED])  # what was whole stays, and a wrong name is told before


def test_the_way_to_it_is_told(server: str) -> None:
    with pytest.raises(InvalidInput, match="fetch it by `driftrec weights fetch good`"):
        weights.find_weights("good", {})
    with pytest.raises(InvalidInput) as told:
        weights.find_weights("made", {})
    assert "driftrec weights fetch" not in str(told.value)


def test_all_that_is_published_has_a_place() -> None:
    for name, wanted in weights.WEIGHTS.items():
        assert bool(wanted.base) == (wanted.where != weights.STANDINS), name
        assert not wanted.base or wanted.base.startswith("https://")
