"""Which images of an input are meant: patterns, and a list of keys in a file. Knows no Ray, no shards."""

import csv
import hashlib
import io
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import pyarrow as pa
import pyarrow.parquet as pq

from driftrec.errors import InvalidInput, one_line
from pipeline.inputs.names import folders_of, glob_regex, printable, strip_suffix, suffix
from pipeline.storage import open_store
from pipeline.storage.base import StorageError, redact

log = logging.getLogger(__name__)

NAMED = 5  # keys that an error names
NUMBERED = re.compile(r"(.+?)#(\d{1,18})(?:#[0-9a-f]{16})*", re.DOTALL)  # what `shards` makes of keys that are taken


@dataclass(frozen=True)
class Choice:
    """Patterns of keys, and keys themselves; what is not given does not restrict.

    A pattern with a slash is held against the whole key, another against its last part. * and ? stay within a part of
    the path, ** crosses parts, [abc] is a class.
    """

    include: tuple[str, ...] = ()  # a key must match one of these
    exclude: tuple[str, ...] = ()  # and none of these
    listed: frozenset[str] | None = field(default=None, repr=False)  # and be one of these, as the ledger writes it

    def __bool__(self) -> bool:
        """Whether it restricts anything."""
        return bool(self.include or self.exclude) or self.listed is not None

    def takes(self, key: str) -> bool:
        """Whether the image of this key is meant."""
        if self.listed is not None and printable(key) not in self.listed:
            return False
        if self.include and not any(_matches(pattern, key) for pattern in self.include):
            return False
        return not any(_matches(pattern, key) for pattern in self.exclude)

    @property
    def patterns(self) -> "Choice":
        """The same without its list of keys, which may be long."""
        return replace(self, listed=None)

    def digest(self) -> str:
        """Of all that it says; "" where it does not restrict."""
        if not self:
            return ""
        parts = [*self.include, "", *self.exclude, "", *sorted(self.listed or ()), str(self.listed is None)]
        return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


EVERYTHING = Choice()


class Selection:
    """A choice at work on the keys of an input: what it leaves out, and which listed keys are there."""

    def __init__(self, choice: Choice) -> None:
        self.choice, self._patterns = choice, choice.patterns
        self.left_out = 0
        self._found: set[str] = set()
        self._folders = {folder for key in choice.listed or () for folder in folders_of(key)}
        self._numbered: dict[str, dict[int, str]] = {}  # listed keys that the ledger has made, by name and place
        for key in choice.listed or ():
            if made := NUMBERED.fullmatch(key):
                self._numbered.setdefault(made[1], {})[int(made[2])] = key

    def may_take_of(self, container: str) -> bool:
        """Whether listed keys may be of this tar, or none are listed."""
        name = printable(container)
        listed = self.choice.listed
        below = printable(strip_suffix(container)) in self._folders
        return listed is None or below or name in listed or name in self._numbered

    def takes(self, key: str) -> bool:
        """Whether this loose file is meant."""
        made = self._numbered.get(printable(key), {})
        return self._counted(self._match(printable(key), *made.values()) and self._patterns.takes(key))

    def may_hold(self, folder: str) -> bool:
        """Whether images may be meant in this folder, which cannot be looked into."""
        excluded = any(_matches(pattern, key) for pattern in self.choice.exclude for key in (folder, f"{folder}/"))
        return not excluded and (self.choice.listed is None or printable(folder) in self._folders)

    def rows(self, keys: Sequence[str], container: str, first: int = 0) -> frozenset[int]:
        """The places of those that are meant of a container's rows, or a part of it that begins at `first`."""
        whole = self.takes_all(container)
        found: set[int] = set()
        for place, key in enumerate(keys):
            names = [printable(key)]
            made = (self._numbered.get(name, {}).get(first + place) for name in (*names, printable(container)))
            listed = self._match(*names, *(name for name in made if name)) or whole
            if self._counted(listed and self._patterns.takes(key)):
                found.add(place)
        return frozenset(found)

    def takes_all(self, container: str) -> bool:
        """Whether this tar or Parquet file is listed by its own name, as the ledger names one that was cut."""
        return self._match(printable(container))

    def _match(self, *names: str) -> bool:
        """Whether the list has one of these, or there is none."""
        if self.choice.listed is None:
            return True
        there = self.choice.listed.intersection(names)
        self._found |= there
        return bool(there)

    def _counted(self, taken: bool) -> bool:
        self.left_out += not taken
        return taken

    def check_found(self) -> None:
        """Raises InvalidInput naming listed keys that the input does not have. Those that a ledger has made for rows
        whose own key another has may well not be there again: a warning names them.
        """
        missing = sorted((self.choice.listed or frozenset()) - self._found)
        made = [key for key in missing if NUMBERED.fullmatch(key)]
        if made:
            log.warning("--only-listed: %d keys with a place of a row are not in INPUT: %s", len(made), _named(made))
        if len(missing) > len(made):
            keys = [key for key in missing if not NUMBERED.fullmatch(key)]
            raise InvalidInput(
                f"--only-listed: {len(keys)} of {len(self.choice.listed or ())} keys are not in INPUT: {_named(keys)}; "
                "write them as the ledger does: names below INPUT, and of a tar's images <name of the tar>/<member>"
            )


def _named(keys: Sequence[str]) -> str:
    return ", ".join(keys[:NAMED]) + (", ..." if len(keys) > NAMED else "")


def choice_of(include: Sequence[str], exclude: Sequence[str], only_listed: str | None) -> Choice:
    """The choice that settings tell. Raises InvalidInput if the list cannot be read or is empty."""
    listed = None if only_listed is None else frozenset(read_keys(only_listed))
    return Choice(tuple(include), tuple(exclude), listed)


def read_keys(url: str) -> list[str]:
    """The keys in a text file (one per line), or in the column `key` of a CSV or Parquet file; local or any fsspec URL.

    Raises InvalidInput naming the file.
    """
    shown = redact(url)
    try:
        keys = _keys_in(_read(url), suffix(url.partition("?")[0]), shown)
    except StorageError as error:
        raise InvalidInput(f"--only-listed {error}") from None
    except (UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        raise InvalidInput(f"--only-listed {shown} cannot be read: {one_line(error)}") from None
    if not keys:
        raise InvalidInput(f"--only-listed {shown} holds no key; write one per line")
    return keys


def _read(url: str) -> bytes:
    return open_store(url).read("")


def _keys_in(data: bytes, kind: str, shown: str) -> list[str]:
    if kind == ".parquet":
        names = pq.read_schema(io.BytesIO(data)).names
        if "key" not in names:
            raise InvalidInput(f"--only-listed {shown} has no column key; it has {', '.join(names)}")
        found = pq.read_table(io.BytesIO(data), columns=["key"])["key"].to_pylist()
        return [str(key) for key in found if key is not None]
    text = data.decode("utf-8-sig")
    if kind != ".csv":
        return [line for line in text.splitlines() if line.strip()]
    rows = list(csv.DictReader(io.StringIO(text)))
    if rows and "key" not in rows[0]:
        raise InvalidInput(f"--only-listed {shown} has no column key; it has {', '.join(map(str, rows[0]))}")
    return [row["key"] for row in rows if row["key"]]


def _matches(pattern: str, key: str) -> bool:
    return bool(_compiled(pattern).fullmatch(key if "/" in pattern else key.rpartition("/")[2]))


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return glob_regex(pattern)
