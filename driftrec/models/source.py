"""What the text that names a model says: the kind of its network, where its files are, what it is told.

    tiny, PATH or URL             a checkpoint of this package
    fbcnn:PATH?quality=10         FBCNN; without `quality` it estimates the quality itself
    qgac:PATH                     QGAC
    ddrm:PATH                     DDRM by a network that never saw a JPEG
    interpolate:A,B?alpha=0.7     (1 - alpha) A + alpha B, A and B each one of the above; what they are told stands
                                  behind the one ?, too

Text alone: nothing is opened here, and a number is not looked at before it is needed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from driftrec.bounds import shown
from driftrec.errors import InvalidInput
from driftrec.urls import redact

OURS, FBCNN, QGAC, DDRM = "", "fbcnn:", "qgac:", "ddrm:"
INTERPOLATE = "interpolate:"
# What a network of each kind is told.
OPTIONS: dict[str, tuple[str, ...]] = {OURS: (), FBCNN: ("quality",), QGAC: (), DDRM: ()}
BLEND_OPTIONS = ("alpha",)
# Settings of sampling that each kind heeds; None: all. By `projection` a file is opened, whatever restores it.
HEEDED: dict[str, tuple[str, ...] | None] = {
    OURS: None,
    FBCNN: ("projection",),
    QGAC: ("projection",),
    DDRM: ("projection", "tile", "noise"),
}


@dataclass(frozen=True)
class Weights:
    """One file of weights."""

    kind: str  # a key of OPTIONS
    place: str  # name of an embedded model, path or URL


@dataclass(frozen=True)
class ModelSource:
    """What a text says. `str` gives a text that says the same."""

    files: tuple[Weights, ...]  # one, or the two that are interpolated
    options: tuple[tuple[str, str], ...] = ()  # as written

    @classmethod
    def parse(cls, text: str) -> ModelSource:
        """Raises InvalidInput, naming text and remedy, for unknown options and for a count of files that is not two."""
        body = text.removeprefix(INTERPOLATE)
        parts = [body] if body == text else body.split(",")
        if body != text and (len(parts) != 2 or not all(parts)):
            raise InvalidInput(f"model {redact(text)}: give two models, {INTERPOLATE}A,B?alpha=0.7, without commas")
        *before, last = map(_weights, parts)
        source = cls((*before, last))
        if source.kind == OURS and not source.blended:  # all of it names a file
            return source
        place, mark, query = last.place.rpartition("?")
        names = [part.partition("=")[0] for part in query.split("&")]
        if not mark or ("://" in place and not {*names} <= {*source.known}):  # a URL's own query
            return source
        return cls((*before, replace(last, place=place)), _options(text, query, source.known))

    @property
    def blended(self) -> bool:
        """Whether two are interpolated."""
        return len(self.files) > 1

    @property
    def kind(self) -> str:
        """Of the first file."""
        return self.files[0].kind

    @property
    def heeded(self) -> tuple[str, ...] | None:
        """Settings of sampling that mean anything to it; None: all."""
        return HEEDED[self.kind]

    @property
    def known(self) -> tuple[str, ...]:
        """Options that it may be given."""
        return (BLEND_OPTIONS if self.blended else ()) + OPTIONS[self.kind]

    @property
    def places(self) -> tuple[str, ...]:
        """Where the files are."""
        return tuple(file.place for file in self.files)

    def at(self, places: Iterable[str]) -> ModelSource:
        """The same model with its files in other places."""
        return replace(self, files=tuple(replace(f, place=p) for f, p in zip(self.files, places, strict=True)))

    def told(self, options: Iterable[tuple[str, str]]) -> ModelSource:
        """The same files with these options added."""
        return replace(self, options=(*self.options, *options))

    def __str__(self) -> str:
        files = ",".join(file.kind + file.place for file in self.files)
        query = "&".join(f"{name}={value}" for name, value in self.options)
        return (INTERPOLATE if self.blended else "") + files + f"?{query}" * bool(query)


def whole_number(source: ModelSource, name: str, low: int, high: int) -> int | None:
    """An option's value; None where it is not given. Raises InvalidInput with the range."""
    value = dict(source.options).get(name)
    if value is None:
        return None
    if not value.isascii() or not value.isdecimal() or len(value) > 9 or not low <= int(value) <= high:
        raise _out_of_range(source, name, value, f"a whole number in {low}..{high}")
    return int(value)


def fraction(source: ModelSource, name: str) -> float:
    """An option's value in 0..1. Raises InvalidInput where it is none, or not given."""
    value = dict(source.options).get(name)
    try:
        number = float(value or "nan")
    except ValueError:
        number = float("nan")
    if not 0 <= number <= 1:
        raise _out_of_range(source, name, value, "a number in 0..1")
    return number


def _out_of_range(source: ModelSource, name: str, value: str | None, allowed: str) -> InvalidInput:
    got = "it is not given" if value is None else f"got {shown(value)}"
    return InvalidInput(f"model {redact(str(source))}: {name} must be {allowed}, {got}")


def _weights(text: str) -> Weights:
    kind = next((kind for kind in OPTIONS if kind and text.startswith(kind)), OURS)
    return Weights(kind, text.removeprefix(kind))


def _options(text: str, query: str, known: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Raises InvalidInput for what is no known option written once as name=value."""
    options = [part.partition("=") for part in query.split("&")]
    names = [name for name, _, _ in options]
    told = ", ".join(known) or "none"
    for name, equals, _ in options:
        if name not in known:
            raise InvalidInput(f"model {redact(text)}: unknown option {shown(name)}; known: {told}")
        if not equals or names.count(name) > 1:
            raise InvalidInput(f"model {redact(text)}: write each option once, as {name}=value")
    return tuple((name, value) for name, _, value in options)
