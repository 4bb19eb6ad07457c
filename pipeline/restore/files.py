"""A few files in place of an archive: whether they are meant, and where each goes. Opens no more of them than tells
that they are images; knows no Ray, no networks.
"""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from driftrec.errors import BadImage, InvalidInput
from driftrec.image import format_of
from driftrec.image.encoding import SAME
from driftrec.image.sniff import identify
from pipeline.inputs.containers import CONTAINERS
from pipeline.inputs.kinds import HEAD
from pipeline.inputs.names import output_format, output_name, printable, suffix
from pipeline.runs.ledger import RUN

PIPE = "-"  # stdin, or stdout
FOR_ARCHIVES = "is for archives: give a folder, a tar or Parquet as INPUT, or leave it out"


class File(NamedTuple):
    """A file to be restored."""

    source: Path | None  # None: stdin
    target: Path | None  # None: stdout
    format: str  # of the target


def are_files(inputs: Sequence[str], output: str) -> bool:
    """Whether files are meant, to be restored here and now: several, a pipe, or a local one that holds no others."""
    if len(inputs) > 1 or PIPE in (*inputs, output):
        return True
    return "://" not in output and Path(inputs[0]).is_file() and suffix(inputs[0]) not in CONTAINERS


def find_files(inputs: Sequence[str], output: str, wanted: str | None, overwrite: bool, most_bytes: int) -> list[File]:
    """What goes where. `wanted`: the format, or "same"; None: as the name of a target says, else PNG.

    Raises InvalidInput naming a file that cannot be read or written, or that would be lost.
    """
    sources = [_source(given, most_bytes) for given in inputs]
    if output == PIPE:
        if len(sources) > 1:
            raise InvalidInput(f"OUTPUT {PIPE} takes one picture, and {len(sources)} are given: give a folder")
        return [File(sources[0], None, output_format(name_of(sources[0]), wanted or "png"))]
    target = Path(output)
    if len(sources) > 1 or output.endswith("/") or target.is_dir() or not suffix(output):
        found = _within(target, sources, wanted or "png")
    else:
        kind = format_of(target.name)
        if wanted not in (None, SAME, kind):
            raise InvalidInput(f"OUTPUT {output} is no {wanted}: leave --format out, or name OUTPUT accordingly")
        found = [File(sources[0], target, kind)]
    for file in found:
        _check_target(file, sources, overwrite)
    return found


def find_comparison(name: str, todo: Sequence[File], overwrite: bool) -> File:
    """Where a file and what is made of it go side by side. Raises InvalidInput as `find_files` does, and where there
    are several.
    """
    if len(todo) > 1:
        raise InvalidInput(f"--compare {name} is of one picture, and {len(todo)} are given")
    file = File(None, Path(name), format_of(name))
    if file.target == todo[0].target:
        raise InvalidInput(f"--compare {name} is OUTPUT itself; give another name")
    _check_target(file, [todo[0].source], overwrite)
    return file


def name_of(source: Path | None) -> str:
    """By which a file's noise is drawn, and its output named."""
    return printable(source.name) if source else "stdin"


def _source(given: str, most_bytes: int) -> Path | None:
    if given == PIPE:
        return None
    path = Path(given)
    if "://" in given or path.is_dir() or suffix(given) in CONTAINERS:
        raise InvalidInput(f"INPUT {given} is no single file: an archive is restored alone, as one INPUT")
    try:
        if path.stat().st_size > most_bytes:
            raise InvalidInput(f"INPUT {given} has more than max_file_bytes={most_bytes}")
        with path.open("rb") as file:
            identify(file.read(HEAD))
    except BadImage as error:
        raise InvalidInput(f"INPUT {given}: {error.reason}: {error.detail}") from None
    except OSError as error:
        raise InvalidInput(f"INPUT {given}: {error.strerror}; check the name") from None
    return path


def _within(folder: Path, sources: Sequence[Path | None], wanted: str) -> list[File]:
    """Files in a folder, called as their sources are."""
    if (folder / RUN).exists():
        raise InvalidInput(f"OUTPUT {folder} is a run's, whose ledger would not know of these files; give another")
    names = [output_name(name_of(source), wanted) for source in sources]
    if twice := [str(folder / name) for name, times in Counter(names).items() if times > 1]:
        raise InvalidInput(f"several INPUTs would become {', '.join(twice)}: rename them")
    pairs = zip(sources, names, strict=True)
    return [File(source, folder / name, output_format(name_of(source), wanted)) for source, name in pairs]


def _check_target(file: File, sources: Sequence[Path | None], overwrite: bool) -> None:
    """Raises InvalidInput if it cannot be written, or would take the place of something."""
    target = file.target
    if target is None:
        return
    if target.is_dir():
        raise InvalidInput(f"OUTPUT {target} is a folder; give a name in it")
    if target.exists():
        if any(source and target.samefile(source) for source in sources):
            raise InvalidInput(f"OUTPUT {target} is an INPUT itself; give another name")
        if not overwrite:
            raise InvalidInput(f"OUTPUT {target} exists; --overwrite replaces it")
    folder = target.parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise InvalidInput(f"OUTPUT {target}: nothing can be written into {folder}; give another place")
