"""What the user's INPUT means: a folder, one file, or a glob; local or any fsspec URL. No file is opened here."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from driftrec.errors import InvalidInput
from driftrec.urls import split
from pipeline.inputs.containers import CONTAINERS
from pipeline.inputs.kinds import HEAD, by_content, promises
from pipeline.inputs.names import glob_regex, printable, suffix
from pipeline.storage import open_store
from pipeline.storage.base import NO_FILE, AccessDenied, StorageError, Store, redact

PACKED = (".gz", ".tgz", ".zip", ".bz2", ".xz", ".zst", ".7z", ".rar")


@dataclass(frozen=True)
class Input:
    """A store, and which of its names are meant."""

    store: Store
    url: str  # as the user gave it, without credentials
    name: str | None = None  # only this one file
    pattern: re.Pattern[str] | None = None  # only the names that match

    def files(self) -> Iterator[tuple[str, int]]:
        """(name, bytes) of every file meant, in the order of the names."""
        return ((name, size) for name, size in self.entries() if size != NO_FILE)

    def entries(self) -> Iterator[tuple[str, int]]:
        """The same, and with NO_FILE bytes what bears a name and is none: a link that leads nowhere, a pipe, a
        folder that cannot be listed, ...
        """
        if self.name is not None:
            yield self.name, NO_FILE if self.store.no_file(self.name) else self.store.size(self.name) or 0
            return
        for name, size in self.store.entries(patient=True):
            if self.pattern is None or self.pattern.fullmatch(name):
                yield name, size


def open_input(url: str) -> Input:
    """The input behind a path, URL or glob. Raises InvalidInput that names it if there is nothing usable."""
    shown = redact(url)
    root, pattern = _split_glob(url)
    try:
        if pattern and not (_is_local(url) and open_store(url).exists("")):
            return Input(open_store(root), shown, pattern=glob_regex(pattern))
        store = open_store(url)
        if store.is_folder():
            return Input(store, shown)
        return _single(store, url, shown)
    except StorageError as error:
        raise InvalidInput(str(error)) from None


def _single(store: Store, url: str, shown: str) -> Input:
    """One file if the URL names one, else a remote prefix."""
    parent, name = split(store.url if store.local else url.rstrip("/"))
    promised = promises(name if store.local else _path(name), CONTAINERS)
    try:
        size = store.size("")
    except AccessDenied:
        if promised or store.local:
            raise
        size = None  # as it seems a prefix, which may be listed though no object of its name may be asked for
    if store.local and size is None:
        raise InvalidInput(f"INPUT {shown} does not exist; give a folder, a tar, Parquet, or a glob of them")
    usable = promised or (size and by_content(name, store.read("", 0, HEAD))[0])
    if not usable and (store.local or suffix(name) in PACKED):
        raise InvalidInput(f"INPUT {shown} is no image, .tar or .parquet file; unpack it, or give its folder")
    if not usable:
        return Input(store, shown)
    if size is None:
        raise InvalidInput(f"INPUT {shown} does not exist; check the name")
    return Input(open_store(parent), shown, name=name)


def check_apart(source: Input, output: Store) -> None:
    """Refuse an OUTPUT that holds INPUT or lies in it: a run would restore its own output, or sweep the input away."""
    one, other = source.store.place, output.place
    inside = source.name is None and f"{other}/".startswith(f"{one}/")
    if inside or f"{one}/".startswith(f"{other}/images/"):
        problem = f"OUTPUT {output.url} and INPUT {source.url} lie in each other"
        raise InvalidInput(f"{problem}; give OUTPUT a place of its own")


def nothing_found(source: Input, others: int) -> InvalidInput:
    """The error for an input without a single image, tar or Parquet file."""
    found = f"{others} files of other kinds" if others else "it is empty"
    where = printable(source.url)
    return InvalidInput(f"INPUT {where} holds no image, .tar or .parquet file ({found}); check the path")


def _is_local(url: str) -> bool:
    return "://" not in url


def _path(name: str) -> str:
    """A name without the query of a signed URL."""
    return name.partition("?")[0] if "=" in name else name


def _split_glob(url: str) -> tuple[str, str]:
    """("s3://b/x", "*.tar") for "s3://b/x/*.tar"; an empty pattern where nothing globs."""
    match = re.search(r"[*\[]|\?(?!.*=)", url)  # a ? before a = is the query of a signed URL
    if not match:
        return url, ""
    cut = url.rfind("/", 0, match.start()) + 1
    return url[: max(cut - 1, 1 if url.startswith("/") else 0)] or ".", url[cut:]
