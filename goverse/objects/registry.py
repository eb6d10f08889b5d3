"""The object types of one process."""

from __future__ import annotations

import hashlib

import msgspec

from goverse.errors import NotFound
from goverse.objects.definition import Object, ObjectType
from goverse.objects.description import TypesDescription, describe_type


class Registry:
    """Types by name. Nodes host all of a registry's types; all nodes have the same."""

    def __init__(self) -> None:
        self._types: dict[str, ObjectType] = {}
        self._description: TypesDescription | None = None

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
        self._description = None
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

    def durable(self) -> tuple[str, ...]:
        """Names of the types whose state is kept in a store."""
        return tuple(found.name for found in self.types() if found.stored is not None)

    def types_digest(self) -> str:
        """Equal for two processes that host the same interfaces."""
        return self.describe().digest

    def describe(self) -> TypesDescription:
        """Types, fields, methods and the JSON schemas of what they take and give."""
        if self._description is None:
            types = {found.name: describe_type(found) for found in self.types()}
            encoded = msgspec.json.encode(types, order="deterministic")
            digest = hashlib.sha256(encoded).hexdigest()[:16]
            self._description = TypesDescription(digest, types)
        return self._description


def _place(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
