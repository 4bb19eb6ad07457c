"""The settings of every job: frozen pydantic models that YAML, --set and flags fill alike. Knows no Ray, no storage."""

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from driftrec.errors import InvalidInput, Reason
from driftrec.urls import NO_CREDENTIALS_HERE, URL, holds_credentials, redact

MIB = 2**20
MAX_YAML = MIB  # characters of a settings file


class Settings(BaseModel):
    """Base of all settings: an unknown name is an error, and nothing changes after the check."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


S = TypeVar("S", bound=Settings)


def _allowance(value: Any) -> str:
    """What `allowed_failures` takes, as text."""
    allowed_failures(str(value), 0)
    return str(value)


Allowance = Annotated[str, BeforeValidator(_allowance)]  # a number of images or a share, "N" or "P%"


class RestoreSettings(Settings):
    """Settings of `driftrec restore`, named as the flags; the two groups say what a change does to an output."""

    input: str  # folder, tar, glob of tars, or Parquet; local or any fsspec URL
    output: str  # folder or URL prefix that this run owns

    # These determine the bytes or the shards: another value needs another output.
    model: str = "tiny"  # embedded; path or URL of a .safetensors; fbcnn:PATH; or "identity": no network at all
    seed: int = Field(0, ge=0)
    sampler: Literal["multistep", "euler-maruyama", "euler-heun", "ode"] = "multistep"
    steps: int | None = Field(None, ge=1)  # None: as the model says
    samples: int = Field(1, ge=1)  # so many are drawn and averaged
    fidelity: float | None = Field(
        None, ge=0, le=1
    )  # 0: a posterior sample, 1: its mean; None: as the model says
    color_correction: bool = True  # give every channel the input's mean
    tile: int | None = Field(512, ge=128)  # pixels; images with a longer side are restored in tiles; None: whole
    projection: bool = True  # keep to what the input says if it is a JPEG file that shows no older damage
    adaptive: bool = True  # do as much as a JPEG file's quality asks for: start, steps, share of the change
    skip_above: int | None = Field(None, ge=1, le=100)  # leave JPEGs of this quality or more, without older damage
    skipped: Literal["copy", "list"] = "copy"  # what becomes of skipped files: copied as they are, or only listed
    frames: Literal["first", "skip"] = "first"  # of animations, and pages of TIFFs: restore the first, or skip the file
    start: float | None = Field(None, gt=0, le=1)  # time to start from, below 1 from the mean; None: as the model says
    t_eps: float | None = Field(None, gt=0, lt=1)  # time to end at
    grid: Literal["uniform", "quadratic", "lambda"] | None = None  # how the times lie; None: as suits the sampler
    eta: float = Field(0.0, ge=0, le=2)  # multistep: from 0 (ODE) over 1 (reverse SDE) to 2
    order: Literal[1, 2] = 2  # multistep
    spacing: Literal["true", "authors"] = "true"  # euler-maruyama: of its steps
    corrector_steps: int = Field(0, ge=0)  # euler-maruyama: Langevin steps after each step
    corrector_ratio: float = Field(0.5, gt=0)  # euler-maruyama: of the corrector's step to sigma
    tolerance: float = Field(1e-2, gt=0)  # ode: largest error of a step
    denoise_last: bool = False  # all but multistep: end with an estimate of the clean image, one more evaluation
    format: Literal["png", "same", "jpeg", "webp", "tiff"] = "png"
    png_level: int = Field(4, ge=0, le=9)  # zlib's: from fast to small
    jpeg_quality: int | None = Field(None, ge=1, le=100)  # None: 95, or the input's if that is higher
    jpeg_subsampling: Literal["4:4:4", "4:2:2", "4:2:0"] = "4:4:4"
    webp_quality: int | None = Field(None, ge=0, le=100)  # None: lossless
    layout: Literal["tree", "tar"] = "tree"  # outputs as files below images/, or as a tar a shard below shards/
    copy_failed: bool = False  # put the files that failed, as they are, where their outputs would be
    include: tuple[str, ...] = ()  # patterns of keys; only what matches one of them is restored
    exclude: tuple[str, ...] = ()  # patterns of keys; what matches one of them is not
    only_listed: str | None = None  # file of keys: text, or the column key of CSV or Parquet. Its content counts
    max_pixels: int = Field(100_000_000, ge=1)  # larger images become `too_large` rows
    max_file_bytes: int = Field(2**30, ge=1)  # of one file, or that a row group of Parquet unpacks to
    limit: int | None = Field(None, ge=1)  # only the first so many images
    shard_bytes: int = Field(8 * MIB, ge=1)  # compressed bytes in a shard of loose files, or in a piece of a tar
    shard_images: int = Field(64, ge=1)  # images in a shard of loose files, at most

    # These do not: they may change between two attempts at one output.
    allow_local: bool = False  # paths are the same folder on all nodes of the cluster
    max_failed: Allowance = "0"  # failed images that are still a success: a number or "5%"
    # Images with this reason (or "all") are done again. Free, for it changes only rows that say failed; and an image
    # that is restored on a second try has the bytes that it would have had on the first.
    retry_failed: str | None = None
    # Images whose output is missing, or is not what the ledger says, are done again. Free, for they get the same bytes.
    repair: bool = False
    # Seconds that an image may take in one step before its worker counts as hung. Free, as memory is: a result that
    # came in time is the same under any limit.
    image_timeout_s: float = Field(3600.0, gt=0)
    actors: int | None = Field(None, ge=1)  # None: one per GPU, or one per CPU where there is no GPU
    batch_size: int = Field(4, ge=1)  # images given to the network together
    gpus_per_actor: float | None = Field(None, ge=0)  # None: 1 where the cluster has GPUs
    cpus_per_actor: float | None = Field(None, gt=0)  # None: what leaves room for the reading tasks
    codec_threads: int = Field(2, ge=1)  # threads of an actor that decode, and as many that encode and write
    report: bool = True  # write report.html at the end
    progress_s: float = Field(10.0, gt=0)  # seconds between two progress lines where stderr is no terminal

    @field_validator("include", "exclude", mode="before")
    @classmethod
    def _one_pattern(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("retry_failed")
    @classmethod
    def _check_reason(cls, value: str | None) -> str | None:
        known = ("all", *Reason)
        if value is not None and value not in known:
            raise ValueError(f"no image fails so; known are {', '.join(known)}")
        return value


# Fields of RestoreSettings that may differ between two attempts at the same output.
FREE_FIELDS = frozenset(
    {
        "output",
        "allow_local",
        "max_failed",
        "max_file_bytes",
        "retry_failed",
        "repair",
        "image_timeout_s",
        "actors",
        "batch_size",
        "gpus_per_actor",
        "cpus_per_actor",
        "codec_threads",
        "report",
    }
    | {"progress_s"}
)


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
    values: dict[str, Any] = _read_yaml(config) if config else {}
    for assignment in assignments:
        _assign(values, assignment)
    values.update({name: value for name, value in (flags or {}).items() if value is not None})
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
    if isinstance(values, str) and any(holds_credentials(url) for url in URL.findall(values)):
        raise InvalidInput(f"{name} {redact(values)}: {NO_CREDENTIALS_HERE}")


class _PlainLoader(yaml.SafeLoader):
    """YAML without aliases: a few lines of them stand for more values than any memory holds."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(None, None, f"*{event.anchor} is not allowed", event.start_mark)
        return super().compose_node(parent, index)


def _parse_yaml(text: str) -> Any:
    """What YAML says. Raises YAMLError for all that settings have no use for: aliases, great length or depth."""
    if len(text) > MAX_YAML:
        raise yaml.YAMLError(f"longer than {MAX_YAML} characters")
    try:
        return yaml.load(text, _PlainLoader)  # noqa: S506
    except RecursionError:
        raise yaml.YAMLError("nested too deeply") from None


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        values = _parse_yaml(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput(f"--config {path}: {error.strerror}; give the path of a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        cause = redact(" ".join(str(error).split()))
        raise InvalidInput(f"--config {path} is not YAML that can be read: {cause}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        kind = type(values).__name__
        raise InvalidInput(f"--config {path} holds a {kind}; write settings as `name: value` lines")
    return values


def _assign(values: dict[str, Any], assignment: str) -> None:
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
