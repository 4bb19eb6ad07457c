"""The web page and what is behind it: the bytes of the command, clear refusals, one picture at a time, a browser."""

import asyncio
import base64
import http.client
import io
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
import numpy as np
import pytest
from PIL import Image

from jobs import serve
from pipeline.restore.settings import RestoreSettings
from pipeline.restore.without_ray import restore_files
from pipeline.serve import app
from pipeline.serve.settings import ServeSettings
from tests import made
from tests.driftrec.pictures import exif_bytes, saved

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "tiff": ".tif"}
PIXELS = made.pixels(3, 48, 72)
TILES = 2  # that the widest of the pictures below goes through the network in
CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def server(small_model: Path) -> Iterator[str]:
    """HOST:PORT of the command itself, ended by Ctrl-C."""
    command = [sys.executable, "-m", "jobs.cli", "serve", "--port", "0", "--model", str(small_model)]
    command += ["--max-upload-bytes", "1000000", "--max-pixels", "100000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr and process.stdout
    address = re.search(r"http://([0-9.]+:[0-9]+) in a browser", process.stderr.readline())
    assert address
    yield address[1]
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 0
    assert json.loads(process.stdout.read())["state"] == "done"


def asked(
    server: str, body: bytes, method: str = "POST", path: str = "/restore", **query: object
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(server, timeout=60)
    connection.request(method, f"{path}?{urlencode(query)}", body)
    answer = connection.getresponse()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


PICTURES = {
    "10.jpg": made.jpeg(1, 48, 72),
    "turned.jpg": saved(Image.fromarray(PIXELS), "JPEG", quality=60, exif=exif_bytes(6)),
    "clean.png": saved(Image.fromarray(PIXELS), "PNG"),
    "grey.webp": saved(Image.fromarray(PIXELS[..., 0]), "WEBP", lossless=True),
    "tiles of 300.jpg": made.jpeg(2, 40, 600),
}


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("look", ["natural", "faithful"])
@pytest.mark.parametrize("kind", SUFFIXES)
def test_the_bytes_are_the_commands(
    server: str, small_model: Path, tmp_path: Path, name: str, look: str, kind: str
) -> None:
    source, target = tmp_path / name, tmp_path / f"out{SUFFIXES[kind]}"
    source.write_bytes(PICTURES[name])
    settings = RestoreSettings(input="-", output=str(target), model=str(small_model), look=look, seed=4)
    told = restore_files(settings, [str(source)], sys.stdout)["images"][0]
    status, headers, found = asked(server, PICTURES[name], look=look, format=kind, name=name, seed=4)
    assert (status, headers["content-type"]) == (200, f"image/{kind}")
    assert found == target.read_bytes()
    done = json.loads(headers["driftrec-done"])
    assert done == {key: told[key] for key in done}
    assert done["status"] == "ok"


REFUSED = {
    "nothing": (b"", {}, 400, "empty"),
    "text": (b"Dear reader, this is no image.", {}, 415, "not_an_image"),
    "another kind": (b"8BPS" + bytes(60), {}, 415, "unsupported"),
    "cut": (PICTURES["10.jpg"][:500], {}, 422, "truncated"),
    "too many pixels": (made.jpeg(0, 400, 300), {}, 413, "too_large"),
    "too many bytes": (bytes(1_000_001), {}, 413, "too_large"),
    "look": (PICTURES["10.jpg"], {"look": "nice"}, 400, "unknown"),
    "format": (PICTURES["10.jpg"], {"format": "gif"}, 400, "unknown"),
    "seed": (PICTURES["10.jpg"], {"seed": "-1"}, 400, "unknown"),
    "a long seed": (PICTURES["10.jpg"], {"seed": "9" * 5000}, 400, "unknown"),
    "parameter": (PICTURES["10.jpg"], {"fidelity": "1"}, 400, "unknown"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_said_and_the_next_is_served(server: str, case: str) -> None:
    body, query, status, reason = REFUSED[case]
    found, headers, answer = asked(server, body, **query)
    told = json.loads(answer)["error"]
    assert (found, headers["content-type"], told["reason"]) == (status, "application/json", reason)
    assert len(told["detail"]) > 5
    assert asked(server, PICTURES["clean.png"])[0] == 200


def test_a_body_without_a_length_ends_where_it_is_too_long(server: str) -> None:
    connection = http.client.HTTPConnection(server, timeout=60)
    connection.request("POST", "/restore", iter([bytes(300_000)] * 4), encode_chunked=True)
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["error"]["reason"]) == (413, "too_large")


def test_names_do_no_harm_to_headers(server: str) -> None:
    for name in ('a"b\r\nX: y.jpg', "../../etc/passwd", "für dich.jpg", "." * 300, "\u200e"):
        status, headers, _ = asked(server, PICTURES["clean.png"], name=name)
        assert (status, "x" in headers) == (200, False)
        assert re.fullmatch(r'attachment; filename="[\w. -]+\.png"', headers["content-disposition"], re.ASCII)


@pytest.mark.parametrize(("host", "status"), [("localhost", 200), ("127.0.0.1:1", 200), ("evil.example", 400)])
def test_only_this_machines_names_lead_here(server: str, host: str, status: int) -> None:
    connection = http.client.HTTPConnection(server, timeout=60)
    connection.request("GET", "/", headers={"Host": host})
    assert connection.getresponse().status == status


@pytest.mark.parametrize(
    ("origin", "status"), [(None, 200), ("here", 200), ("http://evil.example", 403), ("null", 403)]
)
def test_a_page_of_another_site_may_not_ask(server: str, origin: str | None, status: int) -> None:
    connection = http.client.HTTPConnection(server, timeout=60)
    headers = {} if origin is None else {"Origin": f"http://{server}" if origin == "here" else origin}
    connection.request("POST", "/restore", PICTURES["clean.png"], headers)
    assert connection.getresponse().status == status


def test_the_page_loads_nothing_from_elsewhere(server: str) -> None:
    status, headers, page = asked(server, b"", "GET", "/")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert not re.findall(rb"""(?:src|href)=["'](?!data:)[^"']+|url\(|@import""", page)
    assert asked(server, b"", "GET", "/restore")[0] == 405
    assert asked(server, b"", "GET", "/x")[0] == 404


@pytest.mark.parametrize("waiting", [1, 3])
def test_one_at_a_time_and_no_more_than_there_is_room_for(
    waiting: int, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restoring = app.Restoring(ServeSettings(model=str(small_model), max_waiting=waiting))
    inside, most, go_on = [0], [0], threading.Event()
    restore = app.Single.restore

    def slow(self: app.Single, *given: Any, **changes: Any) -> Any:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        go_on.wait(60)
        try:
            return restore(self, *given, **changes)
        finally:
            inside[0] -= 1

    monkeypatch.setattr(app.Single, "restore", slow)
    ends = list[str]()

    def ask(look: str) -> None:
        try:
            restoring.restore(PICTURES["clean.png"], look, "png", "a", 0)
            ends.append("done")
        except app.Refused as refused:
            ends.append(json.loads(bytes(refused.answer.body))["error"]["reason"])
            if len(ends) == 8 - waiting - 1:
                go_on.set()

    threads = [threading.Thread(target=ask, args=(("natural", "faithful")[i % 2],)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(ends) == ["busy"] * (7 - waiting) + ["done"] * (1 + waiting)
    assert most == [1]
    ends.clear()
    ask("natural")
    assert ends == ["done"]


@pytest.mark.parametrize("rounds", [0, 1, 2, 99])
def test_a_picture_that_nobody_waits_for_any_more_is_given_up(rounds: int, small_model: Path) -> None:
    """Before its turn, or after a tile; the next has its turn, and the same bytes as ever."""
    restoring, looked = app.Restoring(ServeSettings(model=str(small_model), max_waiting=1)), [0]
    given = (PICTURES["tiles of 300.jpg"], "faithful", "png", "a", 0)
    expected, _ = restoring.restore(*given)

    def gone() -> bool:
        looked[0] += 1
        return looked[0] > rounds

    if rounds == 99:
        assert restoring.restore(*given, gone)[0] == expected
        assert looked[0] == 1 + TILES
    else:
        with pytest.raises(app.Abandoned):
            restoring.restore(*given, gone)
        assert looked[0] == rounds + 1
    assert restoring.restore(*given)[0] == expected


@pytest.mark.parametrize("waiting", [1, 3])
def test_who_waits_no_more_leaves_room(waiting: int, small_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    restoring = app.Restoring(ServeSettings(model=str(small_model), max_waiting=waiting))
    monkeypatch.setattr(app, "LOOK_S", 0.01)
    inside, go_on, left = threading.Event(), threading.Event(), threading.Event()
    restore = app.Single.restore

    def slow(self: app.Single, *given: Any, **changes: Any) -> Any:
        inside.set()
        go_on.wait(60)
        return restore(self, *given, **changes)

    monkeypatch.setattr(app.Single, "restore", slow)
    ends = list[str]()

    def ask(gone: Any) -> None:
        try:
            restoring.restore(PICTURES["clean.png"], "faithful", "png", "a", 0, gone)
            ends.append("done")
        except app.Abandoned:
            ends.append("abandoned")

    def begin(gone: Any) -> threading.Thread:
        thread = threading.Thread(target=ask, args=(gone,))
        thread.start()
        return thread

    first = begin(lambda: False)
    assert inside.wait(60)
    others = [begin(left.is_set) for _ in range(waiting)]
    left.set()
    for thread in others:
        thread.join(60)
    assert ends == ["abandoned"] * waiting
    last = [begin(lambda: False) for _ in range(waiting)]  # none is told that all places are taken
    go_on.set()
    for thread in (first, *last):
        thread.join(60)
    assert ends == ["abandoned"] * waiting + ["done"] * (1 + waiting)


@pytest.mark.parametrize("leaves", ["while it waits", "in its turn"])
def test_who_closes_the_connection_waits_no_more(
    leaves: str, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a page does that is given another picture."""
    ends, left, body = list[str](), threading.Event(), [PICTURES["10.jpg"]]
    restore = app.Restoring.restore

    def watched(self: app.Restoring, *given: Any) -> Any:
        *others, gone = given
        if leaves == "while it waits":
            assert wait_for(gone)
        try:
            return restore(self, *others, lambda: wait_for(gone))
        except BaseException as error:
            ends.append(type(error).__name__)
            raise

    def wait_for(gone: Any) -> bool:
        left.set()
        return any(gone() or time.sleep(0.01) for _ in range(3000))

    async def receive() -> dict[str, Any]:
        if body:
            return {"type": "http.request", "body": body.pop(), "more_body": False}
        while not left.is_set():
            await asyncio.sleep(0.01)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        pass

    monkeypatch.setattr(app.Restoring, "restore", watched)
    headers = [(b"host", b"localhost")]
    scope = {"type": "http", "method": "POST", "path": "/restore", "query_string": b"", "headers": headers}
    asyncio.run(app.application(ServeSettings(model=str(small_model)))(scope, receive, send))
    assert ends == ["Abandoned"]


def test_where_it_cannot_listen_or_lacks_packages_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert serve.main(["--port", str(port)]) == 2
    assert f"127.0.0.1:{port}" in json.loads(capsys.readouterr().out)["error"]
    assert serve.main(["--host", "no.such.host.invalid"]) == 2
    assert "give another --port or --host" in json.loads(capsys.readouterr().out)["error"]
    assert serve.main(["--model", "/no/such/model", "--port", "0"]) == 2
    assert "/no/such/model" in json.loads(capsys.readouterr().out)["error"]
    assert serve.main(["--port", "70000"]) == 2
    assert "port" in json.loads(capsys.readouterr().out)["error"]
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert serve.main([]) == 2
    assert "pip install starlette uvicorn" in json.loads(capsys.readouterr().out)["error"]


class Tab:
    """A page of a headless browser, by Chrome's DevTools protocol."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket, self.number = socket, 0

    async def call(self, method: str, **given: Any) -> dict[str, Any]:
        self.number += 1
        await self.socket.send_json({"id": self.number, "method": method, "params": given})
        while (answer := await self.socket.receive_json(timeout=30)).get("id") != self.number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    async def value(self, expression: str) -> Any:
        """Of a JavaScript expression; a promise's once it is kept."""
        told = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    async def until(self, expression: str) -> None:
        for _ in range(300):
            if await self.value(expression):
                return
            await asyncio.sleep(0.1)
        raise AssertionError(f"never: {expression}")

    async def choose(self, path: Path) -> None:
        """A file, as a person does."""
        document = await self.call("DOM.getDocument")
        node = await self.call("DOM.querySelector", nodeId=document["root"]["nodeId"], selector="#file")
        await self.call("DOM.setFileInputFiles", files=[str(path)], nodeId=node["nodeId"])


SAID = "document.getElementById('say').textContent"
FETCHED = """
fetch(document.getElementById("save").href).then(answer => answer.blob()).then(blob => new Promise(done => {
  const reader = new FileReader();
  reader.onload = () => done(reader.result.split(",")[1]);
  reader.readAsDataURL(blob);
}))
"""


@pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed")
def test_in_a_browser(server: str, small_model: Path, tmp_path: Path) -> None:
    """Choose a picture, move the slider, take the result; then a file that is none."""
    photo, text = tmp_path / "holiday.jpg", tmp_path / "notes.jpg"
    photo.write_bytes(PICTURES["10.jpg"])
    text.write_text("Dear reader, this is no image.")

    async def use(tab: Tab) -> None:
        await tab.call("Page.navigate", url=f"http://{server}/")
        await tab.until("document.readyState == 'complete' && !!document.getElementById('drop')")
        await tab.choose(photo)
        await tab.until("!document.getElementById('result').hidden && after.complete && after.naturalWidth")
        assert await tab.value("[after.naturalWidth, after.naturalHeight, before.hidden]") == [72, 48, False]
        assert "holiday.jpg: JPEG of quality" in await tab.value(SAID)
        assert await tab.value("document.getElementById('save').download") == "holiday-restored.png"
        found = base64.b64decode(await tab.value(FETCHED))
        expected = tmp_path / "holiday.png"
        settings = RestoreSettings(input="-", output=str(expected), model=str(small_model), look="natural")
        restore_files(settings, [str(photo)], sys.stdout)
        assert found == expected.read_bytes()
        shown = "getComputedStyle(before).clipPath"
        assert "50%" in await tab.value(shown)
        await tab.value("slider.value = 20; slider.dispatchEvent(new Event('input')); 1")
        assert "80%" in await tab.value(shown)
        picture = await tab.call("Page.captureScreenshot")
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture["data"]))).convert("RGB"))
        assert pixels.std() > 5
        await tab.value("document.querySelector('input[value=faithful]').click(); 1")
        await tab.until(f"!document.getElementById('result').hidden && {SAID}.includes('1 evaluations')")
        await tab.choose(text)
        await tab.until("document.getElementById(`say`).className == 'bad'")
        assert await tab.value(SAID) == "notes.jpg: 30 bytes of text"
        assert await tab.value("document.getElementById('result').hidden")

    asyncio.run(in_chromium(use, tmp_path / "profile"))


async def in_chromium(use: Any, profile: Path) -> None:
    """Start the browser, use a tab of it, end it."""
    command = [CHROMIUM or "", "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
    process = subprocess.Popen([*command, f"--user-data-dir={profile}", "about:blank"], stderr=subprocess.DEVNULL)
    try:
        port = profile / "DevToolsActivePort"
        for _ in range(300):
            if port.is_file() and port.read_text().count("\n"):
                break
            await asyncio.sleep(0.1)
        base = f"http://127.0.0.1:{port.read_text().split()[0]}"
        async with aiohttp.ClientSession() as session:
            tabs = await (await session.get(f"{base}/json")).json()
            url = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
            async with session.ws_connect(url, max_msg_size=0) as socket:
                await use(Tab(socket))
    finally:
        process.terminate()
        process.wait(timeout=30)
