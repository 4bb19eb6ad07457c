"""Weights by URL, for whoever has a photo and no pipeline: fetched once, kept in a cache folder.

Plain http and https; what lies in an object store the pipeline reads (`driftrec restore --model s3://...`).
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import urllib.request
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from driftrec import bounds
from driftrec.errors import InvalidInput
from driftrec.urls import NO_CREDENTIALS_HERE, holds_credentials, redact

TIMEOUT_S = 60.0  # without a byte
CHUNK = 2**20  # bytes


def fetch(url: str) -> Path:
    """The file behind an http(s) URL, from the cache if it has been fetched before.

    The cache is the folder driftrec below XDG_CACHE_HOME (default ~/.cache). Remove the file there to fetch it again.
    Raises InvalidInput naming the URL and what is wrong, such as a file without end; a broken transfer leaves
    nothing behind.
    """
    shown = redact(url)
    if holds_credentials(url):
        raise InvalidInput(f"model {shown}: {NO_CREDENTIALS_HERE}")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise InvalidInput(f"model {shown}: {error}; check the URL") from None
    if parts.scheme not in ("http", "https"):
        raise InvalidInput(f"model {shown}: only http and https URLs are fetched here; copy the file and give its path")
    name = Path(parts.path).name or "model"
    target = cache() / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{name}"
    if target.is_file():
        return target
    download(url, target, f"model {shown}")
    return target


def download(url: str, target: Path, what: str) -> None:
    """Write what is behind an http(s) URL to `target`, whole or not at all. Raises InvalidInput, which begins with
    `what`, for a broken transfer or a file without end.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        part = Path(folder) / "part"
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer, part.open("wb") as file:
                length = answer.headers["Content-Length"]
                _check_size(what, int(length or 0))
                while data := answer.read(CHUNK):
                    file.write(data)
                    _check_size(what, file.tell())
        except (OSError, ValueError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise InvalidInput(f"{what} could not be fetched: {reason}; check the address") from error
        if length is not None and part.stat().st_size != int(length):
            raise InvalidInput(f"{what}: {part.stat().st_size} of {length} bytes came; try again")
        part.replace(target)


def _check_size(what: str, size: int) -> None:
    if size > bounds.MOST_BYTES:
        raise InvalidInput(f"{what}: larger than a model may be, {bounds.MOST_BYTES} bytes; check the address")


def cache() -> Path:
    """The folder of fetched files."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "driftrec"
