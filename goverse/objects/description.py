"""What a node says of the types that it hosts: to gates, which make OpenAPI of it, and to
operators. Plain JSON values, the same on every node that runs the same code.

Members of different versions read each other's: fields that are added have defaults.
"""

from __future__ import annotations

import inspect
from typing import Any

import msgspec

from goverse.objects.definition import MethodType, ObjectType
from goverse.objects.schemas import arguments_schema, result_schema, value_schema
from goverse.objects.signature import Signature

Schema = dict[str, Any]


class MethodDescription(msgspec.Struct, frozen=True):
    """One method. ``arguments`` is the JSON schema of an object of arguments by name, ``result``
    that of the value returned; both are complete in themselves."""

    doc: str = ""
    read_only: bool = False
    rollback: bool = False
    timeout_s: float | None = None
    arguments: Schema = {}
    result: Schema = {}


class TypeDescription(msgspec.Struct, frozen=True):
    """One object type: class options, declared state and methods, both in their order."""

    doc: str = ""
    durability: str = "none"
    concurrent: bool = False
    reentrancy: str = "refuse"
    idle_timeout_s: float | None = None
    fields: dict[str, Schema] = {}
    methods: dict[str, MethodDescription] = {}


class TypesDescription(msgspec.Struct, frozen=True):
    """All types of a node; the answer to `Verb.DESCRIBE`."""

    digest: str
    types: dict[str, TypeDescription]


def describe_type(object_type: ObjectType) -> TypeDescription:
    options = object_type.options
    return TypeDescription(
        doc=inspect.getdoc(object_type.cls) or "" if object_type.cls.__doc__ else "",
        durability=options.durability,
        concurrent=options.concurrent,
        reentrancy=options.reentrancy,
        idle_timeout_s=options.idle_timeout_s,
        fields={
            name: value_schema(annotation) for name, annotation in object_type.state.fields.items()
        },
        methods={name: _describe_method(found) for name, found in object_type.methods.items()},
    )


def _payload_schema(signature: Signature) -> Schema:
    """Of what a call sends as JSON: arguments by name, or a lone message as it is."""
    whole = signature.whole
    if whole is None:
        return arguments_schema(signature.struct)
    return value_schema(whole.kind | None if whole.nullable else whole.kind)


def _describe_method(method: MethodType) -> MethodDescription:
    signature = method.signature
    return MethodDescription(
        doc=inspect.getdoc(method.function) or "",
        read_only=method.read_only,
        rollback=method.tracked,
        timeout_s=method.timeout_s,
        arguments=_payload_schema(signature),
        result=result_schema(signature.result_type),
    )
