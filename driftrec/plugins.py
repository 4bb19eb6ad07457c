"""What others add. A plugin is a module that, when it is imported, puts its own into the tables of processes, samplers,
metrics, networks, containers or output formats, under the name by which users ask for it.

An installed package names its plugin by an entry point of the group GROUP; further ones, modules or files, stand in the
environment variable VARIABLE, which `--plugin` sets, so that the processes of a cluster know them, too. The tables
import all of them when they are first asked: whoever asks nothing waits for nothing.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from threading import RLock
from types import ModuleType
from typing import TypeVar

from driftrec.errors import InvalidInput, one_line

GROUP = "driftrec.plugins"  # of entry points, each of which names a module
VARIABLE = "DRIFTREC_PLUGINS"  # modules by their names, or files that end in .py; commas between them
T = TypeVar("T")


class Table(MutableMapping[str, T]):
    """What there is of one kind, by name: ours, and what plugins have added. No name is given twice."""

    def __init__(self, kind: str, ours: Mapping[str, T]) -> None:
        self.kind = kind
        self._entries = dict(ours)

    def __getitem__(self, name: str) -> T:
        load()
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        load()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        load()
        return iter(list(self._entries))

    def __len__(self) -> int:
        load()
        return len(self._entries)

    def __setitem__(self, name: str, entry: T) -> None:
        if name in self._entries:
            raise ValueError(f"there is a {self.kind} {name!r} already; take another name")
        self._entries[name] = entry

    def __delitem__(self, name: str) -> None:
        del self._entries[name]


class _State:
    """What this process has imported."""

    lock = RLock()  # a plugin asks the tables, too, while it is imported
    named: str | None = None  # VARIABLE when all that it names was imported; None: nothing was
    added = False  # whether this process has named further ones
    broken: InvalidInput | None = None  # why not all of it was
    versions: dict[str, str] = {}  # noqa: RUF012 - by module


def load() -> None:
    """Import all plugins that are not yet. Raises InvalidInput naming one that does not import."""
    with _State.lock:
        before, now = _State.named, os.environ.get(VARIABLE, "")
        if before == now and _State.broken:
            raise _State.broken
        if before == now:
            return
        _State.named, _State.broken = now, None
        try:
            for point in entry_points(group=GROUP) if before is None else ():
                package = f"{point.dist.name} {point.dist.version}" if point.dist else point.name
                _imported(point.module, f"mend {package}, or uninstall it")
                _State.versions[point.module] = package
            for name in named():
                module = _imported(name, "install its package, or give its file, say --plugin ./mine.py")
                _State.versions.setdefault(module.__name__, _digest(module))
        except InvalidInput as error:
            _State.broken = error  # what was half imported is not tried again
            raise


def add(names: Sequence[str]) -> None:
    """Name further plugins, for this process and those that it starts, and import them: modules by their names, or
    files that end in .py. Raises InvalidInput naming one that does not import.
    """
    for name in names:
        if _is_file(name) and "," in str(Path(name).absolute()):
            raise InvalidInput(f"plugin {name}: no comma may stand in its path; rename the file or its folder")
    _State.added = True
    given = [str(Path(name).absolute()) if _is_file(name) else name for name in names]
    os.environ[VARIABLE] = ",".join(dict.fromkeys([*named(), *given]))
    load()


def named() -> list[str]:
    """What VARIABLE names."""
    return [name for name in os.environ.get(VARIABLE, "").split(",") if name]


def was_added() -> bool:
    """Whether this process has named further ones, which others know only if it tells them VARIABLE."""
    return _State.added


def sent() -> tuple[dict[str, str], dict[str, Path]]:
    """For a job elsewhere: its environment, and the files that are to lie in its folder, by name."""
    files = {Path(name).name: Path(name) for name in named() if _is_file(name)}
    names = [Path(name).stem if _is_file(name) else name for name in named()]
    return ({VARIABLE: ",".join(names)} if names else {}), files


def exist() -> bool:
    """Whether there are any; none is imported."""
    return bool(named() or entry_points(group=GROUP))


def versions() -> dict[str, str]:
    """All plugins by module: of installed packages name and version, of others the beginning of their file's sha256."""
    load()
    return dict(sorted(_State.versions.items()))


def _is_file(name: str) -> bool:
    return name.endswith(".py")


def _imported(name: str, remedy: str) -> ModuleType:
    """The module. A file's folder is where it may import from."""
    file = Path(name) if _is_file(name) else None
    if file and str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    try:
        module = import_module(file.stem if file else name)
    except Exception as error:  # whatever its code raises
        raise InvalidInput(f"plugin {name}: {type(error).__name__}: {one_line(error)}; {remedy}") from error
    if file and Path(module.__file__ or "").resolve() != file.resolve():
        raise InvalidInput(f"plugin {name}: there is a module {file.stem} already, {module.__file__}; rename the file")
    return module


def _digest(module: ModuleType) -> str:
    path = Path(module.__file__ or "")
    return f"sha256 {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}" if path.is_file() else "no file"
