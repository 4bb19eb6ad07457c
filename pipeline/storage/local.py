"""A folder as a store."""

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

from driftrec.errors import DriftRecError, StorageFull
from pipeline.storage.base import (
    CLOSED_FOLDER,
    FREE_ROOM,
    FULL,
    LINKED_FOLDER,
    NO_FILE,
    PART_PREFIX,
    PART_SUFFIX,
    SOME,
    AccessDenied,
    InTheWay,
    NotFound,
    StorageError,
    Store,
    T,
    U,
    telling,
)

# Errors of one entry of a folder, and not of the disk.
OF_ONE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG}


class LocalStore(Store):
    """A folder. Unfinished puts are `.driftrec-*.part` files beside their target, which a sweep removes."""

    local = errors_are_of_files = True

    def __init__(self, path: str) -> None:
        self.root = Path(path).expanduser().absolute()
        self.url = str(self.root)

    @property
    def place(self) -> str:
        return os.path.realpath(self.root)

    def unwritable(self) -> str:
        there = next(path for path in (self.root, *self.root.parents) if os.path.lexists(path))
        if not there.is_dir():
            return f"{there} is no folder"
        if there.resolve().is_relative_to("/proc") or there.resolve().is_relative_to("/sys"):
            return f"{there} is the system's, which takes no files"
        return "" if os.access(there, os.W_OK | os.X_OK) else f"{there} may not be written; check owner and mode"

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        return ((name, size) for name, size in self.entries(prefix) if size != NO_FILE)

    def entries(self, prefix: str = "", patient: bool = False) -> Iterator[tuple[str, int]]:
        top = self.root / prefix
        try:
            if top.is_dir():
                for name, info in telling(self.url, _walk(top, f"{prefix}/" if prefix else "", patient)):
                    if info:
                        self._note(info.st_mtime, name)
                    yield name, info.st_size if info else NO_FILE
        except OSError as error:
            where = os.path.relpath(error.filename or top, self.root)
            raise self._failed("" if where == "." else where, error) from None

    def size(self, name: str) -> int | None:
        try:
            return (self.root / name).stat().st_size
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return None
            raise self._failed(name, error) from None

    def _read(self, name: str, offset: int, length: int | None) -> bytes:
        try:
            path = self.root / name
            if not stat.S_ISDIR(mode := path.stat().st_mode) and (why := _no_file(mode)):
                raise StorageError(f"{self.where(name)} is {why}; put the file in its place")
            with path.open("rb") as file:
                file.seek(offset)
                return file.read(-1 if length is None else length)
        except OSError as error:
            raise self._failed(name, error) from None

    def put(self, name: str, data: bytes) -> None:
        self._write(name, data, _replace)

    def put_file(self, name: str, path: Path) -> None:
        self._write(name, path, _replace)

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

    def is_folder(self) -> bool:
        return self.root.is_dir()

    def each(self, read: Callable[[T], U], items: Iterable[T]) -> Iterator[U]:
        return map(read, items)

    def leads_out(self, name: str) -> bool:
        path = self.root / name
        return path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(self.root))

    def no_file(self, name: str) -> str:
        path = self.root / name
        try:
            what = _no_file(path.stat().st_mode)  # nothing is opened for that: a pipe would wait
            return CLOSED_FOLDER if what == LINKED_FOLDER and not path.is_symlink() else what
        except OSError as error:
            return f"a link that leads nowhere: {error.strerror}" if path.is_symlink() else ""

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
            return InTheWay(f"{where} is a folder where a file is wanted; move it away")
        if isinstance(error, NotADirectoryError | FileExistsError):
            problem = f"{where} lies below a file where a folder is wanted; move that away"
            among_others = (self.root / name.partition("/")[0]).is_dir()
            return InTheWay(problem) if among_others else StorageError(problem)
        if error.errno in (errno.ENOTSUP, errno.EMLINK):
            return StorageError(
                f"{where}: this file system has no hard links; use another disk or its own URL"
            )
        return StorageError(f"{where}: {error.strerror or error}; check the disk")


def _replace(part: Path, target: Path) -> None:
    """Give a file its name, over an older one, and over what is left of a folder without files."""
    try:
        os.replace(part, target)
    except IsADirectoryError:
        with suppress(OSError):
            for folder, _, _ in os.walk(target, topdown=False):
                os.rmdir(folder)
        os.replace(part, target)


def _no_file(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return LINKED_FOLDER
    return "" if stat.S_ISREG(mode) else "a pipe, socket or device"


def _walk(top: Path, prefix: str, patient: bool) -> Iterator[tuple[str, os.stat_result | None]]:
    """Files below `top` in the order of their full names ("a-b" before "a/b"). What is neither file nor folder (a link
    that leads nowhere or to a folder, a pipe, socket or device) has no stat; nor, for the patient, has a folder that
    cannot be listed. Goes as deep as there are folders.
    """
    within = [_sorted(top, prefix)]
    while within:
        name, entry = next(within[-1], ("", None))
        if entry is None:
            within.pop()
        elif name.endswith("/"):
            try:
                within.append(_sorted(Path(entry.path), name))
            except OSError as error:
                if not patient or error.errno not in OF_ONE:
                    raise
                yield name.removesuffix("/"), None
        else:
            try:
                info = entry.stat()
            except OSError as error:
                if isinstance(error, FileNotFoundError) and not entry.is_symlink():
                    continue  # an unfinished put of another run, finished by now
                info = None
            yield name, info if info and stat.S_ISREG(info.st_mode) else None


def _sorted(folder: Path, prefix: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """What lies in a folder, by name; a folder sorts as its name + "/"."""
    with os.scandir(folder) as entries:
        named = [(f"{prefix}{e.name}/" if e.is_dir(follow_symlinks=False) else f"{prefix}{e.name}", e) for e in entries]
    return iter(sorted(named, key=lambda pair: pair[0]))
