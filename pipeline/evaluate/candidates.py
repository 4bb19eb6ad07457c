"""What is compared in an evaluation: the damaged image itself, models of ours, and files that another tool restored.

All of it is found and checked before anything starts. Knows no Ray.
"""

import difflib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Literal, NotRequired, TypedDict

from pydantic import TypeAdapter, ValidationError

from driftrec.errors import InvalidInput
from driftrec.models.source import ModelSource
from driftrec.restoration.options import Resolved, Sampling
from driftrec.sampling_recipes import settings_of
from pipeline.evaluate.conditions import Condition
from pipeline.evaluate.settings import EvaluateSettings, public_spec
from pipeline.inputs.location import Input
from pipeline.inputs.names import printable
from pipeline.inputs.partners import STEM, Partners, find_partners
from pipeline.model_source import IDENTITY, Weights, find
from pipeline.settings import Values
from pipeline.storage.base import redact

JPEG = "jpeg"  # the damaged image itself
FOLDER = "{condition}"  # in a candidate's URL, where the slug of a condition belongs


@dataclass(frozen=True)
class Model:
    """One of our models and how it is to restore."""

    name: str
    spec: str  # as given, without credentials
    weights: Weights
    sampling: Resolved


@dataclass(frozen=True)
class Files:
    """What another tool has restored."""

    name: str
    url: str  # as given, without credentials
    partners: dict[str, Partners]  # by the condition's slug


class CandidateTold(TypedDict):
    """What the summary says of a candidate."""

    name: str
    kind: Literal["jpeg", "model", "files"]
    spec: NotRequired[str]  # of a model, as the next three: as given
    model: NotRequired[str]
    sha256: NotRequired[str]  # of its weights
    sampling: NotRequired[Values]
    url: NotRequired[str]  # of files


@dataclass(frozen=True)
class Candidates:
    """All that is compared, in the order of rows and tables."""

    jpeg: bool  # whether the damaged image itself is one
    models: tuple[Model, ...]
    files: tuple[Files, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """One name each."""
        return (JPEG,) * self.jpeg + tuple(one.name for one in (*self.models, *self.files))

    def describe(self) -> list[CandidateTold]:
        """What each is, for run.json and the summary."""
        described: list[CandidateTold] = [{"name": JPEG, "kind": "jpeg"}] * self.jpeg
        for model in self.models:
            what: CandidateTold = {"name": model.name, "kind": "model", "spec": model.spec}
            weights, sampling = model.weights, asdict(model.sampling)
            described.append({**what, "model": weights.source, "sha256": weights.sha256, "sampling": sampling})
        files: list[CandidateTold] = [{"name": one.name, "kind": "files", "url": one.url} for one in self.files]
        return described + files

    def identity(self) -> Values:
        """What of them determines the rows: not where files are, but which."""
        identity: Values = {"candidates": list(self.names)}
        for model in self.models:
            options = "&".join(f"{name}={value}" for name, value in asdict(model.sampling).items())
            identity[f"candidate {model.name}"] = f"weights {model.weights.sha256[:16]} with {options}"
        for one in self.files:
            digests = {slug: partners.digest[:16] for slug, partners in one.partners.items()}
            identity[f"candidate {one.name}"] = f"files {digests}"
        return identity


def find_candidates(settings: EvaluateSettings, conditions: Sequence[Condition], references: Input) -> Candidates:
    """Open models and list files. Raises InvalidInput that names what is wrong with one of them."""
    damaged = settings.damaged is not None or all(condition.quality is not None for condition in conditions)
    if settings.model and not damaged:
        wanted = "give qualities, or damaged images by --damaged"
        raise InvalidInput(f"--model needs damaged images to restore, and --quality none gives none: {wanted}")
    if not damaged and not settings.candidate:
        raise InvalidInput("--quality none compares files with the references: give --candidate NAME=URL")
    opened: dict[str, Weights] = {}
    models = tuple(_model(spec, opened) for spec in settings.model)
    files = tuple(_files(text, conditions, references) for text in settings.candidate)
    found = Candidates(damaged, models, files)
    for name in found.names:
        if printable(name) != name:
            raise InvalidInput(f"candidate {printable(name)}: the name holds control characters; give another")
        if found.names.count(name) > 1:
            raise InvalidInput(f"two candidates are called {name!r}; name one by NAME=...")
    return found


def _model(text: str, opened: dict[str, Weights]) -> Model:
    """The model behind NAME=SOURCE?field=value&...; of one source in `opened` the weights are taken from there."""
    flag = f"--model {redact(text)}"
    head, _, query = text.partition("?")
    given, equals, rest = head.partition("=")
    name, source = (given, rest) if equals else (_short(head) + f"?{query}" * bool(query), head)
    if not source or not name:
        raise InvalidInput(f"{flag}: give SOURCE or NAME=SOURCE, for example mean=tiny?fidelity=1")
    source, query = _with_options(source, query)
    parsed = ModelSource.parse(source)
    values = _values(flag, query, parsed.known)
    heeded = ("projection",) if source == IDENTITY else parsed.heeded
    if heeded is not None and (others := values.keys() - {*heeded}):
        raise InvalidInput(f"{flag}: this model is not sampled, {', '.join(sorted(others))} means nothing")
    try:
        given = settings_of(values.pop("recipe")) if "recipe" in values else {}
    except ValueError as error:
        raise InvalidInput(f"{flag}: {error}") from None
    try:
        sampling = TypeAdapter(Sampling).validate_python(given | values)
    except ValidationError as error:
        problem = error.errors()[0]
        where = "".join(f"{part} is {problem['input']!r}: " for part in problem["loc"])
        raise InvalidInput(f"{flag}: {where}{problem['msg'].removeprefix('Value error, ')}") from None
    if source not in opened:
        opened[source] = find(source)
    weights = opened[source]
    return Model(name, public_spec(text), weights, weights.resolve(sampling))


def _with_options(source: str, query: str) -> tuple[str, str]:
    """A source with those of the settings behind it that are its own, such as a quality; and the others."""
    known = ModelSource.parse(source).known
    parts = query.split("&") if query else []
    own = [part for part in parts if part.partition("=")[0] in known]
    return source + ("?" + "&".join(own)) * bool(own), "&".join(part for part in parts if part not in own)


def _short(source: str) -> str:
    """A model's name for people: without its folder and suffix."""
    parsed = ModelSource.parse(source)
    return str(parsed.at(redact(p).rpartition("/")[2].removesuffix(".safetensors") for p in parsed.places))


def _values(flag: str, query: str, own: Sequence[str]) -> dict[str, str]:
    """The settings of a spec, fields of Sampling or a recipe of them; the model's own are `own`, and not in it.
    Raises InvalidInput, beginning with `flag`.
    """
    values: dict[str, str] = {}
    known = [*own, "recipe", *(field.name for field in fields(Sampling))]
    for part in filter(None, query.split("&")):
        name, equals, value = part.partition("=")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            raise InvalidInput(f"{flag}: unknown setting {name if near else '...'!r}; {hint}")
        if not equals or name in values:
            raise InvalidInput(f"{flag}: write each setting once, as {name}=value")
        values[name] = value
    return values


def _files(text: str, conditions: Sequence[Condition], references: Input) -> Files:
    """The files behind NAME=URL: below URL for one condition, below URL/<slug> for several; {condition} says else."""
    name, equals, url = text.partition("=")
    if not equals or not name or not url:
        raise InvalidInput(f"--candidate {redact(text)!r}: write it as NAME=URL, for example spp=s3://bucket/spp")
    if name == JPEG:
        raise InvalidInput(f"--candidate {redact(text)}: the name {JPEG} belongs to the damaged images; give another")
    if len(conditions) > 1 and FOLDER not in url:
        place, _, pattern = url.rpartition("/")
        url = f"{place or '.'}/{FOLDER}/{pattern}" if STEM in pattern else f"{url.rstrip('/')}/{FOLDER}"
    partners = {
        one.slug: find_partners(url.replace(FOLDER, one.slug), references, f"--candidate {name}") for one in conditions
    }
    return Files(name, redact(url), partners)
