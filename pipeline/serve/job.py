"""The server's process: listens, tells where, ends at a signal."""

import logging
import socket

from driftrec.errors import InvalidInput
from pipeline.runs.ends import Answer, Exit, Interrupted
from pipeline.serve.settings import ServeSettings

log = logging.getLogger(__name__)

BROWSERS = 24  # connections beside those that wait: what each may hold in memory is bounded, so must they be
REMEDY = "driftrec serve needs two packages: pip install starlette uvicorn"


def run_serve(settings: ServeSettings) -> Answer:
    """Answer until SIGINT or SIGTERM comes. Raises InvalidInput if it cannot listen there, DriftRecError if the model
    cannot be used.
    """
    try:
        import uvicorn

        from pipeline.serve.app import LOOPBACK, application
    except ImportError as error:
        raise InvalidInput(f"{REMEDY} ({error})") from None
    listening = listen(settings.host, settings.port)
    name = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"http://{name}:{listening.getsockname()[1]}"
    if settings.host not in LOOPBACK:
        log.warning("everybody who reaches %s can use this; there is no password", address)
    try:
        most = settings.max_waiting + BROWSERS
        config = uvicorn.Config(application(settings), log_level="warning", access_log=False, limit_concurrency=most)
        server = uvicorn.Server(config)
        log.info("open %s in a browser; Ctrl-C ends it", address)
        server.run(sockets=[listening])
    except (KeyboardInterrupt, Interrupted):
        pass
    finally:
        listening.close()
    return {"job": "serve", "state": "done", "exit_code": int(Exit.DONE), "address": address}


def listen(host: str, port: int) -> socket.socket:
    """A socket. Raises InvalidInput naming what is in the way."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen()
    except OSError as error:
        raise InvalidInput(f"cannot listen on {host}:{port}: {error.strerror}; give another --port or --host") from None
    return found
