"""Kinds of networks, by name: ours, and what plugins add."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from typing import Any, NamedTuple

from driftrec.errors import one_line
from driftrec.networks.config import NetworkConfig
from driftrec.networks.ncsnpp import NCSNpp
from driftrec.networks.network import Network
from driftrec.plugins import Table

OURS = "ncsnpp"


class Architecture(NamedTuple):
    """A kind of network."""

    config: type[Any]  # a frozen dataclass: its fields are settings, each with a default
    network: Callable[[Any], Network]  # of one of these


NETWORKS: Table[Architecture] = Table("network", {OURS: Architecture(NetworkConfig, NCSNpp)})


def create(config: Any) -> Network:
    """A new network of this shape, its weights from PyTorch's global generator."""
    return NETWORKS[name_of(config)].network(config)


def name_of(config: Any) -> str:
    """Of the kind that a config belongs to. Raises ValueError if there is none."""
    for name, kind in NETWORKS.items():
        if type(config) is kind.config:
            return name
    raise ValueError(f"no network has a config of type {type(config).__name__}; known: {', '.join(NETWORKS)}")


def as_values(config: Any) -> dict[str, Any]:
    """A config as JSON types, for `config_from`; ours without its name, as always."""
    name = name_of(config)
    return ({} if name == OURS else {"name": name}) | asdict(config)


def config_from(values: Mapping[str, Any]) -> Any:
    """{"name": kind, field: value, ...} as a config; without a name ours. Raises ValueError naming what is unknown."""
    settings = dict(values)
    name = str(settings.pop("name", OURS))
    if name not in NETWORKS:
        raise ValueError(f"unknown network {name!r}; known: {', '.join(NETWORKS)}; a plugin that brings it is missing")
    kind = NETWORKS[name].config
    known = [field.name for field in fields(kind)]
    if unknown := sorted(set(settings) - set(known)):
        raise ValueError(f"unknown network setting {unknown[0]!r}; known: {', '.join(known)}")
    try:
        return kind(**settings)
    except TypeError as error:  # of a plugin's that takes its numbers as they come
        raise ValueError(f"network {name}: {one_line(error)}") from error
