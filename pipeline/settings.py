"""The settings of every job: frozen pydantic models that YAML, --set and flags fill alike. Knows no Ray, no storage."""

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from yaml.composer import ComposerError

from driftrec.errors import InvalidInput
from driftrec.urls import NO_CREDENTIALS_HERE, holds_credentials, redact

Values = dict[str, Any]  # settings by name, as JSON has them
MIB = 2**20
MAX_YAML = MIB  # characters of a settings file
EMBEDDED = Path(__file__).parent / "configs"


class Mark(Enum):
    """What a field's annotation says of it."""

    free = "another value does not make another run: it may differ between two attempts at one OUTPUT"
    place = "a path or URL, or several: shown without credentials, and known by what is there"


@dataclass(frozen=True)
class Alone:
    """What a flag means that is given without a value."""

    value: str


T = TypeVar("T")
Free = Annotated[T, Mark.free]
Place = Annotated[T, Mark.place]


class Settings(BaseModel):
    """Base of all settings: an unknown name is an error, and nothing changes after the check."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)
    shortcuts: ClassVar[dict[str, str]] = {}  # further flags, by the dotted names of settings

    @field_validator("*")
    @classmethod
    def _check_place(cls, value: Any, info: ValidationInfo) -> Any:
        """Nothing is where "" says: a path would mean the current folder."""
        places = (value,) if isinstance(value, str) else value if isinstance(value, list | tuple) else ()
        if info.field_name in cls.marked(Mark.place) and any(not str(place).strip() for place in places):
            raise ValueError("give a path or URL; . is the current folder")
        return value

    @classmethod
    def marked(cls, mark: Mark) -> set[str]:
        """Names of the fields that bear this mark."""
        return {name for name, field in cls.model_fields.items() if mark in field.metadata}

    @classmethod
    def required(cls) -> list[str]:
        """Names of the fields without a default, in their order: what is given by position."""
        return [name for name, field in cls.model_fields.items() if field.is_required()]

    def public(self) -> Values:
        """All settings as JSON values, fit for run.json: places without credentials."""
        values = self.model_dump(mode="json")
        return values | {name: _public(values[name]) for name in self.marked(Mark.place)}

    def determining(self, *apart: str) -> Values:
        """The settings that determine what a run makes, as JSON values: those that are neither free nor places.

        Args:
            apart: names of others that something else stands for.
        """
        return self.model_dump(mode="json", exclude=self.marked(Mark.free) | self.marked(Mark.place) | set(apart))


class ShardSettings(Settings):
    """What all jobs with shards have."""

    # Free to change between two attempts at one output:
    allow_local: Free[bool] = False  # on a cluster of several nodes: paths are the same folder on all of them
    progress_s: Free[float] = Field(10.0, gt=0)  # time between two progress lines where stderr is no terminal
    status_s: Free[float] = Field(60.0, gt=0)  # time between two writes of status.json in OUTPUT
    price_per_hour: Free[float | None] = Field(None, gt=0)  # money that the whole cluster costs per hour
    max_cost: Free[float | None] = Field(None, gt=0)  # money at which the run stops, all its attempts together

    @model_validator(mode="after")
    def _check_price(self) -> "ShardSettings":
        if self.max_cost is not None and self.price_per_hour is None:
            raise ValueError("max_cost needs price_per_hour, what the whole cluster costs per hour")
        return self


def _public(place: Any) -> Any:
    """One place, a list of them, or None, without credentials."""
    return [redact(one) for one in place] if isinstance(place, list) else place and redact(place)


S = TypeVar("S", bound=Settings)


def _allowance(value: Any) -> str:
    """What `allowed_failures` takes, as text."""
    allowed_failures(str(value), 0)
    return str(value)


def _listed(value: Any) -> Any:
    """ "a,b" or one thing as a list of texts, without repetitions."""
    if isinstance(value, str | int):
        value = str(value).split(",")
    if not isinstance(value, Iterable):
        return value
    return list(dict.fromkeys(str(item).strip() for item in value))


Listed = BeforeValidator(_listed)


Allowance = Annotated[str, BeforeValidator(_allowance)]  # a number of images or a share, "N" or "P%"


def allowed_failures(max_failed: str, images: int) -> int:
    """How many of `images` may fail under `max_failed`, "N" or "P%". Raises ValueError for anything else."""
    text = max_failed.strip()
    share = text.endswith("%")
    try:
        number = float(text[:-1]) if share else float(int(text))
    except ValueError:
        number = -1.0
    if not 0 <= number < math.inf or (share and number > 100):
        raise ValueError("give a number of images such as 10, or a share such as 5%")
    return math.floor(images * number / 100) if share else int(number)


def load(
    model: type[S],
    config: str | None = None,
    assignments: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
) -> S:
    """Settings from a YAML file, then `a.b=c` assignments, then flags that are not None; the later wins.

    Raises InvalidInput that names each wrong or unknown setting and what it could be.
    """
    values = _read_yaml(config) if config else {}
    for assignment in assignments:
        _assign(values, assignment)
    for name, value in (flags or {}).items():
        if value is not None and "." in name:
            _assign(values, f"{name}={value}")
        elif value is not None:
            values[name] = value
    _refuse_credentials(values)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise InvalidInput(redact(_explain(model, error, config))) from None


def _refuse_credentials(values: Any, name: str = "") -> None:
    """Whatever a setting is for: what follows would show it, or take it for a name. Raises InvalidInput."""
    nested = values.items() if isinstance(values, Mapping) else ()
    listed = ((name, value) for value in values) if isinstance(values, list | tuple) else ()
    for inner, value in (*nested, *listed):
        _refuse_credentials(value, str(inner))
    if isinstance(values, str) and holds_credentials(values):
        raise InvalidInput(f"{name} {redact(values)}: {NO_CREDENTIALS_HERE}")


class _PlainLoader(yaml.SafeLoader):
    """YAML without aliases: a few lines of them stand for more values than any memory holds."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise ComposerError(None, None, f"*{event.anchor} is not allowed", event.start_mark)
        return super().compose_node(parent, index)


def _parse_yaml(text: str) -> Any:
    """What YAML says. Raises YAMLError for all that settings have no use for: aliases, great length or depth."""
    if len(text) > MAX_YAML:
        raise yaml.YAMLError(f"longer than {MAX_YAML} characters")
    try:
        return yaml.load(text, _PlainLoader)  # noqa: S506
    except RecursionError:
        raise yaml.YAMLError("nested too deeply") from None


def _read_yaml(path: str) -> Values:
    """Settings in a file, or in one of EMBEDDED by its name."""
    embedded = {file.stem: file for file in EMBEDDED.glob("*.yaml")}
    try:
        values = _parse_yaml(embedded.get(path, Path(path)).read_text(encoding="utf-8"))
    except OSError as error:
        names = ", ".join(sorted(embedded))
        told = f"give the path of a YAML file, or the name of one that is embedded: {names}"
        raise InvalidInput(f"--config {path}: {error.strerror}; {told}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        cause = redact(" ".join(str(error).split()))
        raise InvalidInput(f"--config {path} is not YAML that can be read: {cause}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        kind = type(values).__name__
        raise InvalidInput(f"--config {path} holds a {kind}; write settings as `name: value` lines")
    return values


def _assign(values: Values, assignment: str) -> None:
    """Put `a.b=c` into the nested `values`; c is read as YAML."""
    name, equals, text = assignment.partition("=")
    if not equals or not all(name.split(".")):
        raise InvalidInput(f"--set {redact(assignment)!r}: write it as name=value, for example --set seed=1")
    *parents, last = name.split(".")
    for parent in parents:
        child = values.get(parent)
        values[parent] = dict(child) if isinstance(child, dict) else {}
        values = values[parent]
    try:
        values[last] = _parse_yaml(text)
    except yaml.YAMLError:
        values[last] = text


def _explain(model: type[Settings], error: ValidationError, config: str | None) -> str:
    """One line for all problems, with the names that come close to an unknown one."""
    where = f" (in {config} or the command line)" if config else ""
    names = list(_names(model))
    problems: list[str] = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            last = name.rpartition(".")[2]
            near = [known for known in names if known.rpartition(".")[2] == last]
            near = near or difflib.get_close_matches(name, names, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(names)}"
            problems.append(f"unknown setting {name!r}; {hint}")
        elif problem["type"] == "missing":
            problems.append(f"setting {name!r} is missing")
        else:
            what = problem["msg"].removeprefix("Value error, ")
            problems.append(f"setting {name!r} is {problem['input']!r}: {what}" if name else what)
    return "; ".join(problems) + where


def _names(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted names of all settings, those of nested models included."""
    for name, field in model.model_fields.items():
        nested = field.annotation
        if isinstance(nested, type) and issubclass(nested, BaseModel):
            yield from _names(nested, f"{prefix}{name}.")
        else:
            yield prefix + name
