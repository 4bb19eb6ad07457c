"""What is answered over HTTP: a page, and POST /restore, the picture's bytes in and the restored picture's out."""

import asyncio
import html
import json
import threading
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import PurePath
from typing import Any

import anyio.to_thread
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from driftrec import __version__
from driftrec.errors import DriftRecError, Reason
from driftrec.image import ENCODERS
from driftrec.image.sniff import EXTENSIONS
from driftrec.sampling_recipes import LOOKS
from pipeline.model_source import find_opened
from pipeline.restore.settings import RestoreSettings
from pipeline.restore.single import Single, what_was_done
from pipeline.runs.ledger import FAILED
from pipeline.serve.settings import ServeSettings

LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")
DONE = "Driftrec-Done"  # the header that tells what was done, as JSON
STATUS_OF = {  # of a refusal, by its reason; of all others UNPROCESSABLE
    Reason.empty: 400,
    Reason.not_an_image: 415,
    Reason.unsupported: 415,
    Reason.too_large: 413,
    Reason.internal: 500,
    Reason.out_of_memory: 503,
}
UNPROCESSABLE, TOO_LARGE, BUSY, BAD, FORBIDDEN = 422, 413, 503, 400, 403
SEED_DIGITS = 18
LOOK_S = 0.2  # seconds after which one that waits looks whether it is still wanted
NAMES = ("look", "format", "name", "seed")  # what a request may say beside the picture


class Refused(Exception):
    """Why a request gets no picture."""

    def __init__(self, status: int, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.answer = JSONResponse({"error": {"reason": reason, "detail": detail}}, status)


class Abandoned(BaseException):
    """Whoever asked has gone. No Exception: no stage is to take it for a fault of the picture."""


class Restoring:
    """Restores one picture after the other, whoever asks.

    Raises DriftRecError if the model cannot be used.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self.settings = settings
        weights, restorer = find_opened(settings.model, settings.device)
        given = {"input": "-", "output": "-", **settings.model_dump(include={"model", "device", "max_pixels"})}
        of_look = {look: RestoreSettings.model_validate({**given, "look": look}) for look in LOOKS}
        self.by_look = {look: Single(of, weights, restorer) for look, of in of_look.items()}
        self._restorer = restorer
        self._turn, self._room = threading.Lock(), threading.Semaphore(1 + settings.max_waiting)

    def restore(
        self, data: bytes, look: str, wanted: str, name: str, seed: int, gone: Callable[[], bool] = lambda: False
    ) -> tuple[bytes, dict[str, Any]]:
        """(the restored picture's file, what was done). Raises Refused, and Abandoned once `gone`, which is asked
        while the picture waits for its turn and after each of its tiles.
        """

        def look_round(done: int, of: int) -> None:  # noqa: ARG001
            if gone():
                raise Abandoned

        if not self._room.acquire(blocking=False):
            raise Refused(BUSY, "busy", f"{self.settings.max_waiting} pictures are waiting; try again later")
        try:
            while not self._turn.acquire(timeout=LOOK_S):
                look_round(0, 1)
            try:
                look_round(0, 1)
                self._restorer.tell = look_round
                restored, row = self.by_look[look].restore(name, data, format=wanted, seed=seed)
            finally:
                self._turn.release()
        except DriftRecError as error:
            raise Refused(STATUS_OF[Reason.internal], Reason.internal, str(error)) from error
        finally:
            self._room.release()
        done = what_was_done(row)
        if row["status"] == FAILED:
            reason = Reason(row["reason"] or Reason.internal)
            raise Refused(STATUS_OF.get(reason, UNPROCESSABLE), reason, row["detail"] or "")
        return restored, done


def application(settings: ServeSettings) -> Starlette:
    """All that is answered. Raises DriftRecError if the model cannot be used."""
    restoring = Restoring(settings)
    text = files("pipeline.serve").joinpath("page.html").read_text(encoding="utf-8")
    page = text.replace("{{ version }}", html.escape(__version__)).replace("{{ model }}", html.escape(settings.model))

    async def show(request: Request) -> Response:  # noqa: ARG001
        return HTMLResponse(page, headers={"Cache-Control": "no-store"})

    async def restore(request: Request) -> Response:
        try:
            check_origin(request.headers)
            asked = parameters(request.query_params)
            data = await body_of(request, settings.max_upload_bytes)
            gone = threading.Event()
            watching = asyncio.create_task(wait_until_gone(request, gone))
            try:
                found, done = await anyio.to_thread.run_sync(restoring.restore, data, *asked, gone.is_set)
            finally:
                watching.cancel()
        except Refused as refused:
            return refused.answer
        except (ClientDisconnect, Abandoned):
            return Response(status_code=BAD)
        name, wanted = PurePath(asked[2]).stem or "restored", asked[1]
        headers = {DONE: json.dumps(done), "Cache-Control": "no-store"}
        suffix = ENCODERS[wanted].suffix
        headers["Content-Disposition"] = f'attachment; filename="{ascii_name(name)}{suffix}"'
        return Response(found, media_type=f"image/{EXTENSIONS[suffix].lower()}", headers=headers)

    # A page elsewhere may not call itself this one by a name of its own that leads here.
    hosts = LOOPBACK if settings.host in LOOPBACK else ("*",)
    routes = [Route("/", show), Route("/restore", restore, methods=["POST"])]
    return Starlette(routes=routes, middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts)])


def check_origin(headers: Mapping[str, str]) -> None:
    """Raises Refused for what a page of another site asks, which a browser lets it without a word."""
    origin, host = headers.get("origin"), headers.get("host", "")
    if origin is not None and origin.partition("://")[2] != host:
        raise Refused(FORBIDDEN, "origin", f"a page of {origin} may not use this")


def parameters(query: Mapping[str, str]) -> tuple[str, str, str, int]:
    """(look, format, name, seed) of a request. Raises Refused for what there is not."""
    look, wanted = query.get("look", "natural"), query.get("format", "png")
    name, seed = query.get("name") or "picture", query.get("seed", "0")
    if unknown := sorted(set(query) - set(NAMES)):
        raise Refused(BAD, "unknown", f"no such parameter: {', '.join(unknown)}; there are {', '.join(NAMES)}")
    if look not in LOOKS:
        raise Refused(BAD, "unknown", f"look is {look!r}; give {' or '.join(LOOKS)}")
    if wanted not in ENCODERS:
        raise Refused(BAD, "unknown", f"format is {wanted!r}; give one of {', '.join(ENCODERS)}")
    if not seed.isdecimal() or not seed.isascii() or len(seed) > SEED_DIGITS:
        raise Refused(BAD, "unknown", f"seed is {seed!r}; give a whole number from 0 on")
    return look, wanted, name, int(seed)


async def body_of(request: Request, most: int) -> bytes:
    """All bytes of a request. Raises Refused as soon as there are more than may be."""
    too_large = Refused(TOO_LARGE, Reason.too_large, f"the file has more than max_upload_bytes={most}")
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > most:
        raise too_large
    parts, size = list[bytes](), 0
    async for part in request.stream():
        parts.append(part)
        size += len(part)
        if size > most:
            raise too_large
    return b"".join(parts)


async def wait_until_gone(request: Request, gone: threading.Event) -> None:
    """Set `gone` when whoever asked does not wait for the answer any more. Of a request that was read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    gone.set()


def ascii_name(name: str) -> str:
    """A name that a header can hold."""
    return "".join(letter if letter.isascii() and (letter.isalnum() or letter in "-_. ") else "_" for letter in name)
