"""The object types of one process."""

from __future__ import annotations

import hashlib
import inspect
import json
from typing import Any

import msgspec

from goverse.errors import NotFound
from goverse.objects.definition import MethodType, Object, ObjectType


class Registry:
    """Types by name. Nodes host all of a registry's types; all nodes have the same."""

    def __init__(self) -> None:
        self._types: dict[str, ObjectType] = {}

    def add(self, cls: type[Object]) -> ObjectType:
        """Host ``cls``; adding it again changes nothing.

        Raises ValueError if another class has its name, TypeError if an annotation of it names
        nothing.
        """
        found = cls.__goverse__.complete()
        other = self._types.setdefault(found.name, found)
        if other is not found:
            raise ValueError(
                f"two classes are named {found.name}: {_place(other.cls)} and {_place(cls)}; "
                "give one of them another type name with class X(goverse.Object, name=...)"
            )
        return found

    def get(self, type_name: str) -> ObjectType:
        """Raises NotFound."""
        found = self._types.get(type_name)
        if found is None:
            known = ", ".join(sorted(self._types)) or "none"
            raise NotFound(
                f"type {type_name[:64]!r} is not hosted here; hosted types: {known[:500]}",
                details={"type": type_name[:128]},
            )
        return found

    def types(self) -> tuple[ObjectType, ...]:
        """All types, by name."""
        return tuple(self._types[name] for name in sorted(self._types))

    def describe(self) -> dict[str, Any]:
        """Types, methods and the JSON schemas of their arguments and results."""
        return {object_type.name: _describe_type(object_type) for object_type in self.types()}

    def types_digest(self) -> str:
        """Equal for two processes that host the same interfaces."""
        text = json.dumps(self.describe(), sort_keys=True, default=repr)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _place(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _describe_type(object_type: ObjectType) -> dict[str, Any]:
    return {
        "doc": inspect.getdoc(object_type.cls) if object_type.cls.__doc__ else "",
        "concurrent": object_type.options.concurrent,
        "durability": object_type.options.durability,
        "methods": {name: _describe_method(found) for name, found in object_type.methods.items()},
    }


def _describe_method(method: MethodType) -> dict[str, Any]:
    signature = method.signature
    return {
        "doc": inspect.getdoc(method.function) or "",
        "read_only": method.read_only,
        "arguments": _schema(signature.struct),
        "result": _schema(signature.result_type),
    }


def _schema(annotation: Any) -> dict[str, Any]:
    return msgspec.json.schema(annotation, schema_hook=_schema_hook)


def _schema_hook(kind: type) -> dict[str, Any]:
    if hasattr(kind, "__goverse_reference__"):
        return {
            "type": "object",
            "title": f"reference to {kind.__name__}",
            "properties": {"type": {"type": "string"}, "id": {"type": "string"}},
            "required": ["type", "id"],
            "additionalProperties": False,
        }
    model_schema = getattr(kind, "model_json_schema", None)
    if model_schema is not None:
        schema: dict[str, Any] = model_schema()
        return schema
    return {"type": "object", "title": kind.__name__}
