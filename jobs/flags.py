"""A command line made of a settings class: each field is a flag, and its comment the help.

Values go to the settings as text: they check them, and say what is wrong.
"""

import argparse
import inspect
import io
import re
import tokenize
from collections.abc import Callable
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from pipeline.settings import Alone, Listed, Settings, ShardSettings

UNITS = {"_s": "SECONDS", "_bytes": "BYTES", "_pixels": "PIXELS"}  # by the end of a name
UNIONS = (Union, UnionType)
KINDS = {int: "N", float: "X", str: "TEXT"}


def add_settings(parser: argparse.ArgumentParser, model: type[Settings], several: str | None = None) -> None:
    """A positional argument for each field that must be given, a flag for each other one, grouped by the headings in
    the class; for the fields of settings within settings flags with a dot. The field `several` becomes a list.
    """
    beside, headings = comments(model)
    for name in model.required():
        parser.add_argument(name, metavar=name.upper(), help=beside[name], nargs="+" if name == several else None)
    group = parser.add_argument_group("Settings")
    groups: dict[str, Any] = {}
    only_set: list[str] = []
    inner: dict[str, type[Settings]] = {}
    for name, field in sorted(model.model_fields.items(), key=lambda item: item[0] in ShardSettings.model_fields):
        if name in headings:
            title = headings[name]
            groups[title] = group = groups.get(title) or parser.add_argument_group(title)
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
            inner[name] = field.annotation
        elif dict in _kinds(field):
            only_set.append(name)
        elif not field.is_required():
            _add(group.add_argument, name, field, beside[name], model.shortcuts)
    if only_set:
        parser.add_argument_group("By --set or --config alone", "; ".join(f"{n}: {beside[n]}" for n in only_set))
    for name, settings in inner.items():
        group = parser.add_argument_group(f"{name.capitalize()}: {beside[name]}".rstrip(": "))
        within, _ = comments(settings)
        for field_name, field in settings.model_fields.items():
            _add(group.add_argument, f"{name}.{field_name}", field, within[field_name], model.shortcuts)


def _add(
    add: Callable[..., argparse.Action], name: str, field: FieldInfo, comment: str, shortcuts: dict[str, str]
) -> None:
    words, default = comment.replace("None: ", "default: "), shown(field.get_default())
    words = (f"{words} (default {default})".strip() if default else words).replace("%", "%%")
    flags = [flag for flag in (flag_of(name), shortcuts.get(name)) if flag]
    add(*flags, dest=name, default=None, help=words, **_kind(name, field))


def _kinds(field: FieldInfo) -> list[Any]:
    """The types that a value may have, but for None; of generic ones their origin."""
    given = get_args(field.annotation) if get_origin(field.annotation) in UNIONS else (field.annotation,)
    return [get_origin(kind) or kind for kind in given if kind is not type(None)]


def flag_of(name: str) -> str:
    """The flag of a field; a unit of time is no part of it."""
    return "--" + re.sub(r"(?<!_per)_s$", "", name).replace("_", "-")


def shown(default: Any) -> str:
    """A default as one would give it; "" for none."""
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, tuple):
        return ",".join(map(str, default))
    return "" if default is None else f"{default:g}" if isinstance(default, float) else str(default)


def _kind(name: str, field: FieldInfo) -> dict[str, Any]:
    """What argparse is to know of a flag besides its help."""
    kinds = _kinds(field)
    if kinds == [bool]:
        return {"action": argparse.BooleanOptionalAction}
    if alone := next((mark for mark in field.metadata if isinstance(mark, Alone)), None):
        return {"nargs": "?", "const": alone.value, "metavar": "TEXT"}
    if Literal in kinds:
        given = get_args(field.annotation)
        choices = [text for kind in given for text in get_args(kind) or [kind] if text is not type(None)]
        options = {"metavar": "|".join(map(str, choices))}
        return options | {"type": int} if all(isinstance(choice, int) for choice in choices) else options
    if tuple in kinds and "." not in name:
        return {"metavar": "A,B,..."} if Listed in field.metadata else {"action": "append", "metavar": "TEXT"}
    unit = next((unit for end, unit in UNITS.items() if name.endswith(end) and not name.endswith("_per_s")), None)
    return {"metavar": unit or KINDS.get(kinds[0], "TEXT")}


def comments(model: type[Any]) -> tuple[dict[str, str], dict[str, str]]:
    """What stands beside each field in the source of its class; and the headings that stand above some fields, lines
    of their own that end with a colon. Fields of a base come before its own; those of a mirror are its source's.
    """
    beside: dict[str, str] = {}
    headings: dict[str, str] = {}
    for base in reversed(getattr(model, "source", model).__mro__):
        heading = ""
        for line in inspect.getsource(base).splitlines() if inspect.get_annotations(base) else ():
            if found := re.fullmatch(r"    # (.+):", line):
                heading = found[1]
            elif (field := re.match(r"    (\w+): ", line)) and field[1] in inspect.get_annotations(base):
                beside[field[1]] = _beside(line)
                headings |= {field[1]: heading} if heading else {}
                heading = ""
    return beside, headings


def _beside(line: str) -> str:
    """The comment at the end of a line."""
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(line.strip()).readline))
    except tokenize.TokenError:  # a field that goes on in the next line
        return ""
    return next((token.string.removeprefix("#").strip() for token in tokens if token.type == tokenize.COMMENT), "")
