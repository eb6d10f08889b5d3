"""Settings as YAML: what is in force and why, and the example file with every default."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from typing import Any

import yaml

from goverse.config import settings as settings_module
from goverse.config.schema import Key, Kind, keys
from goverse.config.settings import Settings
from goverse.config.values import format_duration, format_size

MASK = "'********'"
_WIDTH = 98

_HEAD = """\
Every setting with its default. To change one, remove the # before its name.

Flags win over the environment, the environment over this file; empty means unset. Durations
need a unit (30s, 1m30s, 200ms). Each key can also be set as an environment variable:
cluster.etcd.endpoints is GOVERSE_CLUSTER__ETCD__ENDPOINTS, lists separated by commas. A secret
can be kept in a file of its own: cluster.etcd.password_file. Check with: goverse-node
check-config --config FILE, or goverse-gate check-config.

Made from goverse/config/settings.py by scripts/example-config.
"""


def render(settings: Settings, sources: Mapping[str, str]) -> str:
    """What is in force, with where it came from; secrets are masked."""

    def line_of(key: Key, name: str) -> str:
        value = key.get(settings)
        shown = MASK if key.secret and value else _value(key, value)
        source = sources.get(key.path, "default")
        return f"{name}: {shown}" if source == "default" else f"{name}: {shown}  # {source}"

    return "\n".join(_tree(line_of, {})) + "\n"


def example() -> str:
    """The content of config/cluster.example.yaml: every default, commented out."""
    head = [f"# {line}".rstrip() for line in _HEAD.splitlines()]

    def line_of(key: Key, name: str) -> str:
        return f"#{name}: {_value(key, key.default)}"

    return "\n".join([*head, *_tree(line_of, dict(_docs(Settings, "")))]) + "\n"


def _tree(line_of: Callable[[Key, str], str], docs: Mapping[str, str]) -> Iterator[str]:
    """A line per section and key, indented, each after its explanation if there is one."""
    opened: tuple[str, ...] = ()
    for key in keys().values():
        *parents, name = key.path.split(".")
        entries = [
            (tuple(parents[:depth]), f"{parents[depth - 1]}:")
            for depth in range(1, len(parents) + 1)
            if opened[:depth] != tuple(parents[:depth])
        ]
        entries.append((tuple(key.path.split(".")), line_of(key, name)))
        opened = tuple(parents)
        for path, line in entries:
            indent = "  " * (len(path) - 1)
            if explained := docs.get(".".join(path)):
                yield ""
                for text in textwrap.wrap(explained, _WIDTH - len(indent)):
                    yield f"{indent}# {text}"
            yield indent + line


def _value(key: Key, value: Any) -> str:
    """A value as its key reads it, on one line."""
    if key.kind is Kind.DURATION:
        return format_duration(value)
    if key.kind is Kind.SIZE:
        return format_size(value)
    if key.kind is Kind.FLAG:
        return "true" if value else "false"
    if key.kind in (Kind.INTEGER, Kind.NUMBER):
        return f"{value:g}" if isinstance(value, float) and value.is_integer() else str(value)
    if key.kind is Kind.TEXTS:
        return _flow(list(value))
    if key.kind is Kind.TABLE:
        return _flow([{f.name: getattr(row, f.name) for f in fields(row)} for row in value])
    return _flow(value)


def _flow(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def _docs(cls: type[Any], path: str) -> Iterator[tuple[str, str]]:
    """The string below each field, by the key's path."""
    docs = _field_docs()[cls.__name__]
    by_attributes = {key.attributes: key.path for key in keys().values()}
    for field in fields(cls):
        here = f"{path}.{field.name}" if path else field.name
        attributes = tuple(here.split("."))
        nested = field.default_factory if callable(field.default_factory) else None
        text = " ".join(docs[field.name].replace("``", "").split())
        yield by_attributes.get(attributes, here), text
        if isinstance(nested, type):
            yield from _docs(nested, here)


def _field_docs() -> dict[str, dict[str, str]]:
    """Python keeps no docstrings of fields: they are read from the source."""
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(settings_module)).body:
        if not isinstance(node, ast.ClassDef):
            continue
        docs = found[node.name] = {}
        for field, after in zip(node.body, node.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
            ):
                docs[field.target.id] = str(after.value.value)
    return found
