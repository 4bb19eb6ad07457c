"""Two inputs on one output name, found before anything is written. Names are kept as 64-bit digests: 8 bytes a name.

An input claims the names that its output may get, and the folders above them; a name that is claimed as a file can be
no folder. What two containers claim that are not opened before their turn shows in the ledger (`runs.settling`).
"""

from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, NoReturn

import numpy as np

from driftrec.errors import InvalidInput
from pipeline.inputs.names import (
    TOO_LONG,
    collision_id,
    is_too_long,
    place_among,
    printable,
    strip_suffix,
    suffix,
    unsafe,
)

NAMED = 20  # pairs that an error names

OutputName = Callable[[str], str | tuple[str, ...]]  # key -> name of its output, or all names that it may get


class Claim(NamedTuple):
    """Digests of what one key needs for itself, and of the folders above."""

    names: frozenset[int]
    folders: frozenset[int]


def unsafe_for(output_name: OutputName | None, key: str) -> str:
    """Why nothing may be written for this key, in words; "" if it is safe, as are the names that its output may get."""
    if (why := unsafe(key)) or output_name is None:
        return why
    long = next((name for name in names_of(output_name, key) if is_too_long(name)), None)
    return f"the name of its output, which ends with {suffix(long)}, {TOO_LONG}" if long else ""


def claim(output_name: OutputName, key: str) -> Claim:
    """What a key claims: of an unsafe one nothing is written, and it stands for itself."""
    if unsafe_for(output_name, key):
        return Claim(frozenset({collision_id(f"\0{key}")}), frozenset())
    names = names_of(output_name, key)
    return Claim(frozenset(map(collision_id, names)), frozenset(above for name in names for above in _folder_ids(name)))


def names_of(output_name: OutputName, key: str) -> tuple[str, ...]:
    """The names that the output of a key may get, the usual one first."""
    given = output_name(key)
    return (given,) if isinstance(given, str) else given


class Taken:
    """The output names in use. Names that differ in case or Unicode composition alone are one (see `collision_id`)."""

    def __init__(self, output_name: OutputName) -> None:
        self._output_name = output_name
        self._files = np.empty(0, np.uint64)  # of loose files, sorted
        self._folders: set[int] = set()  # above loose files, all levels
        self._rows: set[int] = set()  # of tar members or Parquet rows

    def add_files(self, names: Callable[[], Iterator[str]]) -> list[tuple[str, str]]:
        """Take the names of all loose files (gone through twice). Gives those whose outputs earlier ones have taken, or
        need for a folder: (earlier, later).
        """
        ids, folder = array("Q"), ""
        for name in names():
            ids.extend({collision_id(output) for output in names_of(self._output_name, name)})
            if folder != (folder := name.rpartition("/")[0]):  # neighbours mostly lie in one
                self._folders.update(_folder_ids(name))
        files = np.sort(np.frombuffer(ids, np.uint64)) if ids else self._files
        self._files = files
        repeated = set(files[1:][files[1:] == files[:-1]].tolist())
        repeated |= {folder for folder in self._folders if self._holds(folder)}
        return self._clashes(names(), repeated) if repeated else []

    def check_trees(self, containers: Sequence[str]) -> None:
        """Refuse containers whose images would fall among loose files or another's images. All lie below its name."""
        owner: dict[int, str] = {}
        folders = set(self._folders)
        for name in sorted(containers, key=strip_suffix):
            stem = strip_suffix(name)
            here, above = collision_id(stem), _folder_ids(stem)
            clash = next((place for place in (here, *above) if place in owner), here if here in folders else None)
            if clash is not None:
                other = owner.get(clash, f"the folder {stem}/")
                raise InvalidInput(
                    f"{printable(name)} and {printable(other)} would be restored into one folder; rename one"
                )
            owner[here] = name
            folders.update(above)

    def add(self, keys: Sequence[str]) -> frozenset[int]:
        """Take the output names of some rows; gives the positions of those that were taken before."""
        repeated: list[int] = []
        for position, key in enumerate(keys):
            names, above = claim(self._output_name, key)
            if self._is_taken(names) or not self._folders.isdisjoint(names) or self._is_taken(above):
                repeated.append(position)
                continue
            self._rows.update(names)
            self._folders.update(above)
        return frozenset(repeated)

    def _is_taken(self, ids: frozenset[int]) -> bool:
        """Whether one of these is a file's."""
        return not self._rows.isdisjoint(ids) or any(map(self._holds, ids))

    def _holds(self, name: int) -> bool:
        return place_among(self._files, name) is not None

    def _clashes(self, names: Iterator[str], repeated: set[int]) -> list[tuple[str, str]]:
        first: dict[int, str] = {}
        clashes: list[tuple[str, str]] = []
        for name in names:
            places = (*map(collision_id, names_of(self._output_name, name)), *_folder_ids(name))
            places = [place for place in places if place in repeated]
            if others := {first[place] for place in places if place in first} - {name}:
                clashes.append((min(others), name))
            else:
                first |= dict.fromkeys(places, name)
        return clashes


def refuse(clashes: Sequence[tuple[str, str]]) -> NoReturn:
    """Raise InvalidInput naming them."""
    pairs = [f"{printable(earlier)} and {printable(later)}" for earlier, later in clashes[:NAMED]]
    more = f" and {len(clashes) - NAMED} more pairs (driftrec survey names them)" if len(clashes) > NAMED else ""
    raise InvalidInput(
        f"{', '.join(pairs)}{more} cannot both be written: on some disks at least one name would hold two outputs; "
        "rename one, leave one out, or keep their suffixes apart (restore: --format same or --on-clash suffix); or let "
        "the later one be a row that failed (restore: --on-clash row)"
    )


def _folder_ids(name: str) -> list[int]:
    """Digests of all folders above a name."""
    parts = name.split("/")[:-1]
    return [collision_id("/".join(parts[: depth + 1])) for depth in range(len(parts))]
