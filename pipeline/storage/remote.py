"""A prefix of an object store, or of any other remote file system that fsspec knows, as a store.

S3 takes its settings from the environment of the process that opens the store (AWS_ENDPOINT_URL,
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION) and carries them to the workers inside the
pickled store, so that workers need no environment of their own: but not together with a session token, which would
lapse there. Without them the usual chain (profile, instance role) holds, which fetches them anew. When S3 says that a
token has expired, they are taken anew from there once before that is the run's end.
"""

import asyncio
import errno
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from driftrec.errors import DriftRecError, InvalidInput, StorageFull
from driftrec.urls import redact
from pipeline.storage.base import FREE_ROOM, FULL, SOME, AccessDenied, NotFound, StorageError, Store, telling
from pipeline.storage.packed import PackedNames

PERMANENT = {errno.ENAMETOOLONG, errno.EINVAL, errno.EROFS, errno.EACCES, errno.EPERM, errno.ELOOP}
ATTEMPTS = 5  # of one remote call; with the waits below they span about 6 s
FIRST_WAIT_S = 0.4  # doubles each time, with a jitter of half to one and a half
CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 5, 60
NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError")
EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "400"}  # 400: to HEAD, without a word
NETWORK_MODULES = (
    "aiohttp",
    "aiobotocore",
    "botocore",
    "urllib3",
    "http.client",
    "requests",
    "fsspec.exceptions",
)

# What reads which store: extras of ours, with versions in requirements/.
PACKAGES = {
    "s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs",
    "az": "adlfs", "abfs": "adlfs", "abfss": "adlfs",
}

T = TypeVar("T")
Listed = tuple[str, int, datetime | None]  # path, bytes, and when it changed where the store tells


class RemoteStore(Store):
    """A prefix of an object store (or of any other remote file system that fsspec knows)."""

    def __init__(self, url: str, options: dict[str, Any] | None = None) -> None:
        self._url = url.rstrip("/")
        self.url = redact(self._url)
        self._options = _options(url.partition("://")[0]) if options is None else options
        self._lock = threading.Lock()  # of what follows
        self._fs, self._root = self._connect()

    def __reduce__(self) -> tuple[Any, ...]:
        # A session token lapses: whoever unpickles this takes credentials of its own environment.
        return RemoteStore, (self._url, None if self._options.get("token") else self._options)

    def _connect(self) -> tuple[Any, str]:
        protocol = self._url.partition("://")[0]
        try:
            fs = fsspec.filesystem(protocol, **self._options)
        except ImportError as error:
            package = PACKAGES.get(protocol, "the package that fsspec names for it")
            raise InvalidInput(f"{self.url}: {error}; this needs {package} on this machine and on all nodes") from None
        except ValueError:
            known = "use a path, s3://, gs:// or https://"
            raise InvalidInput(f"{self.url}: no storage is known as {protocol}://; {known}") from None
        fs.retries = 1  # of s3fs; the retries are ours
        return fs, str(fs._strip_protocol(self._url)).rstrip("/")

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        names = PackedNames()  # some servers have an order of their own
        for name, size in telling(self.url, self.found(prefix)):
            names.add(name, size)
        yield from names.emptied()

    def found(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        start, none = len(self._root) + 1, True
        for page in self._pages(prefix) if self._is_s3 else self._folders(prefix):
            files = [(path[start:], size, changed) for path, size, changed in page if not path.endswith("/")]
            if changes := [(changed.timestamp(), name) for name, _, changed in files if changed]:
                self._note(*max(changes))
            yield from ((name, size) for name, size, _ in files)
            none = none and not files
        if none and not prefix and (size := self.size("")) is not None:
            yield "", size  # the root is an object itself

    @property
    def _is_s3(self) -> bool:
        """Whether it takes S3's own requests: one lists what lies in all folders."""
        return hasattr(self._fs, "call_s3")

    def _pages(self, prefix: str) -> Iterator[Sequence[Listed]]:
        """What S3 lists, as it comes; only the page at hand is held."""
        bucket, _, top = f"{self._path(prefix)}/".partition("/")
        asked: dict[str, Any] = {"Bucket": bucket, "Prefix": top}
        more = True
        while more:
            page: dict[str, Any] = self._call(prefix, lambda: self._request("list_objects_v2", **asked))
            found = page.get("Contents", [])
            yield [(f"{bucket}/{item['Key']}", int(item["Size"]), item.get("LastModified")) for item in found]
            asked["ContinuationToken"] = page.get("NextContinuationToken")
            more = page.get("IsTruncated", False)
            _read_times_fast(self._fs)

    def _request(self, method: str, **asked: Any) -> dict[str, Any]:
        return self._fs.call_s3(method, **asked, **self._fs.req_kw)

    def _folders(self, prefix: str) -> Iterator[Sequence[Listed]]:
        """Files below a prefix, folder by folder: those on the way down to the file at hand are held."""
        within = [self._folder(self._path(prefix), prefix)]
        while within:
            entry = next(within[-1], None)
            if entry is None:
                within.pop()
            elif entry["type"] == "directory":
                within.append(self._folder(entry["name"].rstrip("/"), prefix))
            elif entry["type"] == "file":
                yield [(entry["name"], int(entry.get("size") or 0), entry.get("LastModified"))]

    def _folder(self, path: str, prefix: str) -> Iterator[dict[str, Any]]:
        """What lies in a folder, by full name: "a-b/x" before "a/x"."""
        found: list[dict[str, Any]] = self._call(prefix, lambda: self._fs.ls(path, detail=True), missing=[])
        self._fs.invalidate_cache(path)  # others write too, and the memory must not grow
        named = [
            (entry["name"].rstrip("/") + "/" * (entry["type"] == "directory"), entry)
            for entry in found
            if entry["type"] != "directory" or entry["name"].rstrip("/") != path
        ]
        return (entry for _, entry in sorted(named, key=lambda pair: pair[0]))

    def size(self, name: str) -> int | None:
        if self._is_s3:  # one request; `info` would then list, to see whether a folder has the name
            bucket, _, key = self._path(name).partition("/")
            if not key:
                return None  # a bucket is no object
            head = self._call(name, lambda: self._request("head_object", Bucket=bucket, Key=key), missing={})
            return head.get("ContentLength")
        info = self._call(name, lambda: self._fs.info(self._path(name)), missing={})
        return int(info.get("size") or 0) if info.get("type") == "file" else None

    def _read(self, name: str, offset: int, length: int | None) -> bytes:
        end = None if length is None else offset + length
        path, start = self._path(name), offset or None
        return bytes(self._call(name, lambda: self._fs.cat_file(path, start=start, end=end)))

    def put(self, name: str, data: bytes) -> None:
        self._call(name, lambda: self._fs.pipe_file(self._path(name), data))

    def put_file(self, name: str, path: Path) -> None:
        self._call(name, lambda: self._fs.put_file(str(path), self._path(name)))

    def create(self, name: str, data: bytes) -> bool:
        def attempt() -> bool:
            try:
                self._fs.pipe_file(self._path(name), data, mode="create")
            except Exception as error:
                if isinstance(error, FileExistsError) or _code(error) in ("PreconditionFailed", "412"):
                    return False
                raise
            return True

        # A lost answer makes the second attempt find our own object: that it is ours shows in its bytes.
        created = self._call(name, attempt)
        return created or self.read(name) == data

    def remove(self, name: str) -> None:
        self._call(name, lambda: self._fs.rm_file(self._path(name)), missing=None)

    def _some(self) -> Iterator[str]:
        def first() -> list[str]:
            if self._is_s3:  # one request, whatever lies there
                bucket, _, prefix = f"{self._root}/".partition("/")
                found = self._request("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=SOME)
                return [f"{bucket}/{item['Key']}" for item in found.get("Contents", [])]
            walked = (f"{folder}/{name}" for folder, _, names in self._fs.walk(self._root) for name in names)
            return list(islice(walked, SOME))

        found: list[str] = self._call("", first, missing=[])
        return (path[len(self._root) + 1 :] for path in found if not path.endswith("/"))

    def _reconnect(self, used: Any) -> None:
        """Take credentials anew from where this process has them, unless another thread has done so since `used`."""
        with self._lock:
            if self._fs is not used:
                return
            type(used).clear_instance_cache()  # else the client that holds the old ones would be given again
            if self._options.get("token") or not self._options.get("key"):
                self._options = _options(self._url.partition("://")[0])
            self._fs, self._root = self._connect()

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _call(self, name: str, action: Callable[[], T], **missing: T) -> T:
        """Run `action` with retries, of which the first after an expiry has fresh credentials; a missing object gives
        `missing` if that is given.
        """
        fresh = False
        for attempt in range(ATTEMPTS):
            used = self._fs
            try:
                return action()
            except FileNotFoundError as error:
                if missing and _code(error) != "NoSuchBucket":  # which is not the same as nothing in it
                    return missing["missing"]
                raise NotFound(f"{self.where(name)} does not exist; check the URL") from None
            except Exception as error:
                expired = not fresh and _code(error) in EXPIRED
                if not (expired or _is_transient(error)) or attempt == ATTEMPTS - 1:
                    raise self._failed(name, error) from None
                if expired:
                    self._reconnect(used)
                    fresh = True
                    continue
            time.sleep(FIRST_WAIT_S * 2**attempt * random.uniform(0.5, 1.5))
        raise AssertionError("unreachable")

    def _failed(self, name: str, error: Exception) -> DriftRecError:
        where, cause = self.where(name), self._one_line(error)
        if isinstance(error, OSError) and error.errno in FULL:
            return StorageFull(f"no room left to write {where}: {cause}; {FREE_ROOM}")
        if isinstance(error, PermissionError) or type(error).__name__ in NO_CREDENTIALS:
            remedy = "check the credentials in the environment and what they may do"
            return AccessDenied(f"access to {where} was refused: {cause}; {remedy}")
        if _is_transient(error):
            remedy = "check the endpoint and the network"
            return StorageError(f"{where} could not be reached in {ATTEMPTS} attempts: {cause}; {remedy}")
        return StorageError(f"{where}: {cause}; check the URL")

    def _one_line(self, error: Exception) -> str:
        text = redact(" ".join(str(error).split())) or type(error).__name__
        for secret in (self._options.get(name) for name in ("key", "secret", "token")):
            text = text.replace(secret, "***") if secret else text
        return text[:300]


def _options(protocol: str) -> dict[str, Any]:
    """Options of the file system client, the credentials of this process's environment among them."""
    if protocol not in ("s3", "s3a"):
        return {}
    env = os.environ.get
    options = {
        "key": env("AWS_ACCESS_KEY_ID"),
        "secret": env("AWS_SECRET_ACCESS_KEY"),
        "token": env("AWS_SESSION_TOKEN"),
        "endpoint_url": env("AWS_ENDPOINT_URL_S3") or env("AWS_ENDPOINT_URL"),
    }
    region = env("AWS_REGION") or env("AWS_DEFAULT_REGION")
    return {name: value for name, value in options.items() if value} | {
        "use_listings_cache": False,  # other runs write too, and the memory must not grow
        "max_concurrency": 1,  # of one read; more costs a HEAD request before each
        "client_kwargs": {"region_name": region} if region else {},
        "config_kwargs": {
            "connect_timeout": CONNECT_TIMEOUT_S,
            "read_timeout": READ_TIMEOUT_S,
            "retries": {"max_attempts": 1, "mode": "standard"},
            "max_pool_connections": 32,
        },
    }


def _read_times_fast(fs: Any) -> None:
    """Let an S3 client that is connected read times its quick way: its usual one takes three quarters of the time that
    it takes to read a page of a listing.
    """
    if session := getattr(fs, "session", None):
        session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_time)


def _time(text: Any) -> datetime:
    """When a store says that something was, in the form of its listings or any other."""
    if isinstance(text, str) and text.endswith("Z"):
        with suppress(ValueError):
            return datetime.fromisoformat(text)
    from botocore.utils import parse_timestamp

    return parse_timestamp(text)


def _code(error: BaseException) -> str:
    """The S3 error code behind an exception, or ""."""
    response = getattr(error.__cause__, "response", None) or getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def _is_transient(error: Exception) -> bool:
    """Whether another attempt may help: lost connections, time-outs, server errors; nothing about us or the name."""
    if isinstance(error, PermissionError | FileExistsError | IsADirectoryError | NotADirectoryError):
        return False
    if isinstance(error, OSError):  # connection and time-out errors of the standard library among them
        return error.errno not in PERMANENT | FULL
    about_us = (*NO_CREDENTIALS, "ParamValidationError", "ClientError")
    from_network = type(error).__module__.startswith(NETWORK_MODULES) and type(error).__name__ not in about_us
    return from_network or isinstance(error, asyncio.TimeoutError)
