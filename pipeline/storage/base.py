"""A folder or an object-store prefix as a place to list, read, put and create. Knows no images, no shards, no Ray.

Two kinds: `LocalStore` on a file system, `RemoteStore` on any fsspec URL. Both are cheap to pickle; file system
clients are made where they are used. Puts are whole: a name either holds all its bytes or does not exist. No
message ever holds a credential.

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
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from driftrec.errors import DriftRecError, InvalidInput, StorageFull
from driftrec.urls import NO_CREDENTIALS_HERE, holds_credentials, redact

ATTEMPTS = 5  # of one remote call; with the waits below they span about 6 s
FIRST_WAIT_S = 0.4  # doubles each time, with a jitter of half to one and a half
CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 5, 60
PART_PREFIX, PART_SUFFIX = ".driftrec-", ".part"  # a put that is not finished, on a local disk
FULL = {errno.ENOSPC, errno.EDQUOT}
FREE_ROOM = "free some and run the same command again"
PERMANENT = {errno.ENAMETOOLONG, errno.EINVAL, errno.EROFS, errno.EACCES, errno.EPERM, errno.ELOOP}
SOME = 10  # objects that are tried to see whether a store gives any
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

T = TypeVar("T")


class StorageError(DriftRecError):
    """Storage did not do what was asked, after all retries."""


class NotFound(StorageError):
    """The named object or folder does not exist."""


class AccessDenied(StorageError):
    """Storage knows us not, or not for this."""


def is_of_object(store: "Store", name: str, error: StorageError) -> bool:
    """Whether an error of reading is that one object's: then the store still gives others. Else it is the network's,
    the service's, the mount's or our access's: the run stops, and can go on later.
    """
    return (isinstance(error, NotFound | AccessDenied) or isinstance(store, LocalStore)) and store.gives_others(name)


class Store:
    """One root; names are relative to it, with forward slashes."""

    url: str  # of the root, without credentials: fit for messages and run.json
    latest: tuple[float, str] | None = None  # seconds since 1970 and name: of all that was listed, what changed last
    _given: tuple[str, ...] = ()  # the names last read, by whichever thread

    @staticmethod
    def open(url: str) -> "Store":
        """The store for a path or URL. Raises InvalidInput for an unknown protocol or credentials in the URL."""
        protocol, found, rest = url.partition("://")
        if not found:
            return LocalStore(url)
        if protocol in ("file", "local"):
            return LocalStore(rest)
        if holds_credentials(url):
            raise InvalidInput(f"{redact(url)}: {NO_CREDENTIALS_HERE}")
        return RemoteStore(url)

    def where(self, name: str) -> str:
        """The full URL or path of a name, for messages; of a signed URL without its query."""
        return redact(f"{self.url}/{name}") if name else self.url

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """(name, bytes) of all that lies below `prefix` (a folder), in the order of the names. Notes `latest`."""
        raise NotImplementedError

    def _note(self, changed: float, name: str) -> None:
        self.latest = max(self.latest or (changed, name), (changed, name))

    def size(self, name: str) -> int | None:
        """Bytes of one object, None if there is none."""
        raise NotImplementedError

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """The bytes of one object, or a part of them (fewer at its end). Raises NotFound, StorageError."""
        data = self._read(name, offset, length)
        self._given = (name, *(other for other in self._given[:2] if other != name))[:2]
        return data

    def _read(self, name: str, offset: int, length: int | None) -> bytes:
        raise NotImplementedError

    def gives_others(self, name: str) -> bool:
        """Whether the store still gives us another object than this, which it does not. If not, the trouble is the
        run's: a token has expired, a key was revoked, a bucket or a mount has gone.
        """
        try:
            return any(self._gives(other) for other in chain(self._given, self._some()) if other != name)
        except StorageError:  # of the listing
            return False

    def _gives(self, name: str) -> bool:
        try:
            self._read(name, 0, 1)
        except StorageError:
            return False
        return True

    def _some(self) -> Iterator[str]:
        """The first names below the root, SOME at most."""
        raise NotImplementedError

    def put(self, name: str, data: bytes) -> None:
        """Write one whole object, over an older one if there is one. Raises StorageFull, StorageError."""
        raise NotImplementedError

    def put_file(self, name: str, path: Path) -> None:
        """`put` of a local file's content, which is not held in memory."""
        raise NotImplementedError

    def create(self, name: str, data: bytes) -> bool:
        """Write one whole object only if the name is free: True if it is ours now, False if it was taken."""
        raise NotImplementedError

    def remove(self, name: str) -> None:
        """Remove one object; none there is fine."""
        raise NotImplementedError

    def exists(self, name: str) -> bool:
        """Whether there is an object of this name."""
        return self.size(name) is not None


class LocalStore(Store):
    """A folder. Unfinished puts are `.driftrec-*.part` files beside their target, which a sweep removes."""

    def __init__(self, path: str) -> None:
        self.root = Path(path).expanduser().absolute()
        self.url = str(self.root)

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        top = self.root / prefix
        try:
            if top.is_dir():
                for name, info in _walk(top, f"{prefix}/" if prefix else ""):
                    self._note(info.st_mtime, name)
                    yield name, info.st_size
        except OSError as error:
            raise self._failed(prefix, error) from None

    def size(self, name: str) -> int | None:
        try:
            return (self.root / name).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._failed(name, error) from None

    def _read(self, name: str, offset: int, length: int | None) -> bytes:
        try:
            with (self.root / name).open("rb") as file:
                file.seek(offset)
                return file.read(-1 if length is None else length)
        except OSError as error:
            raise self._failed(name, error) from None

    def put(self, name: str, data: bytes) -> None:
        self._write(name, data, os.replace)

    def put_file(self, name: str, path: Path) -> None:
        self._write(name, path, os.replace)

    def create(self, name: str, data: bytes) -> bool:
        try:
            self._write(name, data, os.link)
        except FileExistsError:
            return False
        return True

    def remove(self, name: str) -> None:
        try:
            (self.root / name).unlink(missing_ok=True)
        except OSError as error:
            raise self._failed(name, error) from None

    def _some(self) -> Iterator[str]:
        return (name for name, _ in islice(self.list(), SOME))

    def leads_out(self, name: str) -> bool:
        """Whether a name is a link to something that is not in this folder."""
        path = self.root / name
        return path.is_symlink() and not path.resolve().is_relative_to(self.root.resolve())

    def _write(self, name: str, data: bytes | Path, publish: Callable[[Path, Path], None]) -> None:
        """Write beside the target, bring it to the disk, then give it its name in one step."""
        target = self.root / name
        part = target.with_name(f"{PART_PREFIX}{secrets.token_hex(8)}{PART_SUFFIX}")
        try:
            part.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._failed(name, error) from None
        try:
            try:
                self._fill(part, data)
                publish(part, target)
            except FileNotFoundError:  # another run's sweep took the part away; once more
                self._fill(part, data)
                publish(part, target)
            finally:
                part.unlink(missing_ok=True)
        except FileExistsError:
            raise  # the name is taken, which `create` is about
        except OSError as error:
            raise self._failed(name, error) from None

    @staticmethod
    def _fill(part: Path, data: bytes | Path) -> None:
        with part.open("wb") as file:
            if isinstance(data, Path):
                with data.open("rb") as source:
                    shutil.copyfileobj(source, file, 2**20)
            else:
                file.write(data)
            file.flush()
            os.fsync(file.fileno())  # a name must not outlive its bytes when the power fails

    def _failed(self, name: str, error: OSError) -> DriftRecError:
        where = self.where(name)
        if error.errno in FULL:
            return StorageFull(f"no room left to write {where}: {error.strerror}; {FREE_ROOM}")
        if isinstance(error, FileNotFoundError):
            return NotFound(f"{where} does not exist; check the path")
        if isinstance(error, PermissionError):
            return AccessDenied(f"{where}: {error.strerror}; check owner and mode")
        if isinstance(error, IsADirectoryError):
            return StorageError(f"{where} is a folder where a file is wanted; move it away")
        if isinstance(error, NotADirectoryError | FileExistsError):
            return StorageError(f"{where} lies below a file where a folder is wanted; move that away")
        if error.errno in (errno.ENOTSUP, errno.EMLINK):
            return StorageError(
                f"{where}: this file system has no hard links; use another disk or its own URL"
            )
        return StorageError(f"{where}: {error.strerror or error}; check the disk")


def _walk(folder: Path, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
    """Files below `folder` in the order of their full names ("a-b" before "a/b"): a folder sorts as name + "/"."""
    with os.scandir(folder) as entries:
        found = sorted((f"{e.name}/" if e.is_dir(follow_symlinks=False) else e.name, e) for e in entries)
    for name, entry in found:
        if name.endswith("/"):
            yield from _walk(Path(entry.path), prefix + name)
        else:
            try:
                if entry.is_file():
                    yield prefix + name, entry.stat()
            except FileNotFoundError:
                continue  # an unfinished put of another run, finished by now


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
            raise InvalidInput(f"{self.url}: {error}; for S3 install driftrec[s3]") from None
        except ValueError:
            known = "use a path, s3://, gs:// or https://"
            raise InvalidInput(f"{self.url}: no storage is known as {protocol}://; {known}") from None
        fs.retries = 1  # of s3fs; the retries are ours
        return fs, str(fs._strip_protocol(self._url)).rstrip("/")

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        top = f"{self._root}/{prefix}" if prefix else self._root
        found: dict[str, Any] = self._call(prefix, lambda: self._fs.find(top, detail=True), missing={})
        for path in sorted(found):
            if found[path].get("type") == "file" and not path.endswith("/"):
                name = path[len(self._root) + 1 :]
                if changed := found[path].get("LastModified"):  # S3 tells
                    self._note(changed.timestamp(), name)
                yield name, int(found[path].get("size") or 0)

    def size(self, name: str) -> int | None:
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
            if hasattr(self._fs, "call_s3"):  # one request, whatever lies there
                bucket, _, prefix = f"{self._root}/".partition("/")
                found = self._fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=SOME)
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
