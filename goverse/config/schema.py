"""Every key of the configuration, derived from the settings classes.

A key is written as its attribute, except that a duration drops the ``_s``: its value has the
unit. Rates (``_per_s``) and sizes (``_bytes``) keep their names.
"""

from __future__ import annotations

import enum
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from typing import Any

from goverse.config.settings import Settings


class Kind(enum.Enum):
    TEXT = "text"
    FLAG = "true or false"
    INTEGER = "a whole number"
    NUMBER = "a number"
    DURATION = "a duration"
    SIZE = "a size"
    TEXTS = "a list"
    TABLE = "a list of mappings"


@dataclass(frozen=True)
class Key:
    """One setting.

    :param path: ``cluster.etcd.endpoints``.
    :param attributes: how to reach it from `Settings`.
    :param row: the class of a table's rows.
    """

    path: str
    attributes: tuple[str, ...]
    kind: Kind
    default: Any
    secret: bool = False
    row: type[Any] | None = None

    @property
    def environment_name(self) -> str:
        return "GOVERSE_" + self.path.replace(".", "__").upper()

    def get(self, settings: object) -> Any:
        for attribute in self.attributes:
            settings = getattr(settings, attribute)
        return settings

    def set(self, settings: Settings, value: Any) -> Settings:
        """A copy of ``settings`` with this key's value replaced."""
        changed: Settings = _replaced(settings, self.attributes, value)
        return changed


@cache
def keys() -> types.MappingProxyType[str, Key]:
    """All keys by path, in the order of the classes."""
    return types.MappingProxyType({key.path: key for key in _walk(Settings, (), ())})


@cache
def sections() -> frozenset[str]:
    """Paths that have keys below them."""
    return frozenset(
        ".".join(parts[:length])
        for parts in (path.split(".") for path in keys())
        for length in range(1, len(parts))
    )


def row_keys(row: type[Any]) -> types.MappingProxyType[str, Key]:
    """The keys of one row of a table."""
    return types.MappingProxyType({key.path: key for key in _walk(row, (), ())})


def _walk(cls: type[Any], path: tuple[str, ...], attributes: tuple[str, ...]) -> Iterator[Key]:
    hints = typing.get_type_hints(cls)
    defaults = cls()
    for field in fields(cls):
        here = (*attributes, field.name)
        hint = hints[field.name]
        if is_dataclass(hint) and isinstance(hint, type):
            yield from _walk(hint, (*path, field.name), here)
            continue
        kind, row = _kind(hint, field.name)
        name = field.name.removesuffix("_s") if kind is Kind.DURATION else field.name
        yield Key(
            path=".".join((*path, name)),
            attributes=here,
            kind=kind,
            default=getattr(defaults, field.name),
            secret=bool(field.metadata.get("secret")),
            row=row,
        )


def _replaced(settings: Any, attributes: tuple[str, ...], value: Any) -> Any:
    name, rest = attributes[0], attributes[1:]
    inner = _replaced(getattr(settings, name), rest, value) if rest else value
    return replace(settings, **{name: inner})


def _kind(hint: Any, name: str) -> tuple[Kind, type[Any] | None]:
    if hint is float:
        duration = name.endswith("_s") and not name.endswith("_per_s")
        return (Kind.DURATION if duration else Kind.NUMBER), None
    if hint is int:
        return (Kind.SIZE if name.endswith("_bytes") else Kind.INTEGER), None
    if hint in (bool, str):
        return (Kind.FLAG if hint is bool else Kind.TEXT), None
    item = typing.get_args(hint)[0]
    return (Kind.TEXTS, None) if item is str else (Kind.TABLE, item)
