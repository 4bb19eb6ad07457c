"""What `--submit` sends along: the code of a checkout, the settings, and the user's own small files that they name.

The list says what goes; nothing goes because it lies in a folder. Images and weights that everybody uses do not belong
here: what is sent is kept in the memory of the cluster's head.
"""

import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl

from driftrec import plugins
from driftrec.errors import InvalidInput
from driftrec.models.source import OURS, ModelSource, Weights
from driftrec.restoration.options import REAL, SWITCHES, WHOLE, WORDS
from driftrec.urls import redact
from pipeline.settings import MIB, Mark, Settings, Values

CODE = ("driftrec", "pipeline", "jobs")  # the packages of a checkout
CONFIG = "settings.json"  # what the job is told, beside the code
FILES = "files"  # folder of what is sent along
SENT = ("model", "weights", "only_listed", "labels", "init_from")  # settings that name such a file
SETTINGS = {*WHOLE, *REAL, *SWITCHES, *WORDS}  # that may stand behind a model's ?
LIMIT = 99 * MIB  # of files; Ray's dashboard takes no request above 100 MiB (DASHBOARD_CLIENT_MAX_SIZE, Ray 2.60)
NAMED = 5  # entries that a refusal names
SHOWN = "what a job is given stands in Ray's logs and on its dashboard"


@dataclass(frozen=True)
class Package:
    """What is sent: settings as the job is to read them, and files by their names in the package."""

    settings: Values
    files: dict[str, Path]

    @classmethod
    def of(cls, settings: Settings, checkout: Path | None) -> "Package":
        """With the code of `checkout`, or without any where the cluster has it installed.

        Raises InvalidInput for a secret in the settings, and for more than the cluster takes.
        """
        files = (dict(_code(checkout)) if checkout else {}) | plugins.sent()[1]
        values = settings.model_dump(mode="json", exclude_unset=True)
        for name in settings.marked(Mark.place) & values.keys():
            texts = values[name] if isinstance(values[name], list) else [values[name]]
            placed = [text and _placed(name, text, isinstance(values[name], list), files) for text in texts]
            values[name] = placed if isinstance(values[name], list) else placed[0]
        _keep_secrets(values)
        package = cls(values, files)
        package._check_size()
        return package

    def _check_size(self) -> None:
        sizes = {str(path): path.stat().st_size for path in self.files.values()}
        if (total := sum(sizes.values())) > LIMIT:
            largest = sorted(sizes, key=lambda name: -sizes[name])[:NAMED]
            told = ", ".join(f"{name} ({sizes[name] / MIB:.1f} MiB)" for name in largest)
            raise InvalidInput(
                f"--submit would send {total / MIB:.1f} MiB, and Ray takes {LIMIT / MIB:.0f} MiB: the largest are "
                f"{told}; put them where the cluster may read, and give their URLs"
            )

    def write(self, path: Path) -> int:
        """Write it as a zip, the same bytes for the same contents; gives their number."""
        with zipfile.ZipFile(path, "w") as archive:
            for name, source in sorted(self.files.items()):
                _add(archive, name, source.read_bytes())
            _add(archive, CONFIG, json.dumps(self.settings).encode())
        return path.stat().st_size

    def own(self) -> list[str]:
        """The user's files in it, by their names here."""
        return [str(path) for name, path in self.files.items() if name.partition("/")[0] not in CODE]


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    entry = zipfile.ZipInfo(name)  # its time is 1980: Ray knows a package again by its bytes
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, data)


def _code(checkout: Path) -> Iterator[tuple[str, Path]]:
    for package in CODE:
        for path in sorted((checkout / package).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path.relative_to(checkout).as_posix(), path


def _placed(setting: str, text: str, listed: bool, files: dict[str, Path]) -> str:
    """A place as the job is to read it: a file that goes along is put into `files`, another path is made absolute."""
    name, source, after = _parts(setting, text, listed)
    return name + str(source.at([_placed_file(setting, place, files) for place in source.places])) + after


def _placed_file(setting: str, path: str, files: dict[str, Path]) -> str:
    if "://" in path:
        return path
    if setting not in SENT:
        return str(Path(path).absolute())
    if not ("/" in path or Path(path).suffix) or not Path(path).is_file():
        return path  # a name such as tiny, or a path that the nodes may have
    name = f"{FILES}/{sum(other.startswith(f'{FILES}/') for other in files)}/{Path(path).name}"
    files[name] = Path(path).absolute()
    return name


def _parts(setting: str, text: str, listed: bool) -> tuple[str, ModelSource, str]:
    """[NAME=], what is named, and what stands behind it in a list: [?SETTING=VALUE&...]."""
    after = "".join(text.partition("?")[1:]) if listed and setting == "model" else ""
    path = text.removesuffix(after)
    name = path[: path.find("=") + 1] if listed else ""
    path = path.removeprefix(name)
    return name, ModelSource.parse(path) if setting == "model" else ModelSource((Weights(OURS, path),)), after


def _keep_secrets(values: Values) -> None:
    """Raise InvalidInput for a signed URL: the job cannot do without it, and nobody may see it."""
    for name, value in values.items():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, dict):
                _keep_secrets(text)
            elif isinstance(text, str) and _is_signed(*_parts(name, text, isinstance(value, list))[1:]):
                raise InvalidInput(
                    f"--submit with {redact(text)}: {SHOWN}, a signed URL too; put the file where the cluster may read"
                )


def _is_signed(source: ModelSource, after: str) -> bool:
    """Whether a path or URL holds a secret, or what stands behind a URL's ? is no setting of a restoration."""
    behind = {name for name, _ in parse_qsl(after.removeprefix("?"), keep_blank_values=True)}
    known = behind <= SETTINGS | {*source.known}
    return any(redact(place) != place or ("://" in place and not known) for place in source.places)
