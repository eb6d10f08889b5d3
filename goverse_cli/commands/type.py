"""``type list|describe``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click
from rich.console import Group, RenderableType
from rich.text import Text

from goverse.admin.api import TypeDescriptions, TypeInfo
from goverse_cli.exits import CliError, Exit
from goverse_cli.output import emit, fields, plain, rows
from goverse_cli.session import Options, run_async, shared_options


@click.group("type")
def type_group() -> None:
    """Object types: what nodes host, and how it is called.

    \b
    Examples:
      goverse-cli type list
      goverse-cli type describe Counter
    """


@type_group.command("list")
@shared_options
@run_async
async def type_list(options: Options) -> None:
    """List the object types that the answering node hosts.

    \b
    Examples:
      goverse-cli type list
      goverse-cli type list -o json | jq -r '.[].name'
    """
    async with options.admin() as admin:
        found = await admin.describe_types()
    emit(
        options.output,
        [_decoded(info) for info in found.types],
        lambda: rows(
            ("type", "durability", "methods", "doc"),
            (
                (info.name, info.durability, len(info.methods), info.doc.partition("\n")[0])
                for info in found.types
            ),
        ),
    )


@type_group.command("describe")
@click.argument("name")
@shared_options
@run_async
async def type_describe(options: Options, name: str) -> None:
    """Show the methods of an object type, their parameters and results, and its state.

    \b
    Examples:
      goverse-cli type describe Counter
      goverse-cli type describe Counter -o json | jq '.methods[].arguments'
    """
    async with options.admin() as admin:
        info = _named(await admin.describe_types(), name)
    emit(options.output, _decoded(info), lambda: _table(info))


def _named(found: TypeDescriptions, name: str) -> TypeInfo:
    for info in found.types:
        if info.name == name:
            return info
    known = ", ".join(info.name for info in found.types) or "none"
    raise CliError(f"type {name!r} is not hosted; hosted types: {known}", Exit.NOT_FOUND)


def _decoded(info: TypeInfo) -> Any:
    """With schemas as JSON instead of its bytes."""
    value = plain(info)
    for field in value["fields"]:
        field["schema"] = json.loads(field["schema"])
    for method in value["methods"]:
        method["arguments"] = json.loads(method["arguments"])
        method["result"] = json.loads(method["result"])
    return value


def _table(info: TypeInfo) -> RenderableType:
    idle = f"{info.idle_timeout_s:g} s" if info.idle_timeout_s else "the node's setting"
    parts: list[RenderableType] = [
        fields(
            (
                ("type", info.name),
                ("doc", info.doc),
                ("durability", info.durability),
                ("concurrent", info.concurrent),
                ("reentrancy", info.reentrancy),
                ("idle timeout", idle),
            )
        )
    ]
    if info.fields:
        parts += [
            Text("\nstate", style="bold"),
            rows(("field", "type"), ((f.name, _word(json.loads(f.schema))) for f in info.fields)),
        ]
    parts += [
        Text("\nmethods", style="bold"),
        rows(("method", "result", "read only", "doc"), _methods(info)),
    ]
    return Group(*parts)


def _methods(info: TypeInfo) -> Iterator[tuple[object, ...]]:
    for method in info.methods:
        result = _word(json.loads(method.result))
        doc = method.doc.partition("\n")[0]
        yield (
            f"{method.name}({_parameters(json.loads(method.arguments))})",
            result,
            method.read_only,
            doc,
        )


def _parameters(schema: dict[str, Any]) -> str:
    if "properties" not in schema:
        return _word(schema)  # a message that is the whole body
    required = schema.get("required", [])
    return ", ".join(
        f"{name}: {_word(part)}"
        + ("" if name in required else f" = {json.dumps(part.get('default'))}")
        for name, part in schema["properties"].items()
    )


def _word(schema: Any) -> str:
    """A schema in a word or a few."""
    if not isinstance(schema, dict):
        return "any"
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " | ".join(dict.fromkeys(_word(part) for part in schema["anyOf"]))
    if "enum" in schema:
        return " | ".join(json.dumps(value) for value in schema["enum"][:5])
    kind = schema.get("type", schema.get("title", "any"))
    if kind == "array" and "items" in schema:
        return f"[{_word(schema['items'])}]"
    return str(schema.get("format", kind))
