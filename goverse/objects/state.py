"""Declared state: the annotated fields of a class, their defaults, and their encoding.

The encoding made at the end of a turn is what the next turn is compared with and rolled back
to. It keeps the order of dicts, because a rollback must not change what iteration sees; the
order inside a set is not kept, so that an unchanged set may look changed, which costs a restore
and nothing else.
"""

from __future__ import annotations

import copy
import inspect
import operator
import typing
from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from goverse.objects import encoding
from goverse.objects.signature import TypeFacts, UnresolvedName, resolve_hints

_SHARED_DEFAULTS = (int, float, str, bytes, bool, type(None))


class StateCodec:
    """The declared fields of one class."""

    def __init__(self, cls: type, names: Mapping[str, Any], reserved: frozenset[str]) -> None:
        self.fields = _declared(cls, names, reserved)
        where = cls.__qualname__
        for name, annotation in self.fields.items():
            TypeFacts(annotation, f"{where}.{name}")
        self._names = tuple(self.fields)
        self._get: Any = operator.attrgetter(*self._names) if self._names else None
        self._single = len(self._names) == 1
        struct = msgspec.defstruct(
            f"{cls.__name__}_state", list(self.fields.items()), array_like=True, gc=False
        )
        self._decode = msgspec.msgpack.Decoder(struct, dec_hook=encoding.decode_hook).decode
        self._defaults = {name: getattr(cls, name) for name in self._names}
        self._copied = frozenset(
            name for name in self._names if not isinstance(self._defaults[name], _SHARED_DEFAULTS)
        )
        self._check_defaults(where)

    def __bool__(self) -> bool:
        return bool(self._names)

    def initialise(self, instance: Any) -> None:
        """Give ``instance`` its own copy of every default."""
        # Attribute by attribute: an instance whose __dict__ nobody asks for does not have one.
        for name, default in self._defaults.items():
            if name in self._copied:
                default = copy.deepcopy(default)
            object.__setattr__(instance, name, default)

    def encode(self, instance: Any) -> bytes:
        """Raises `EncodingFault` naming the field."""
        if self._get is None:
            return b""
        values = self._get(instance)
        try:
            return encoding.encode((values,) if self._single else values)
        except encoding.EncodingFault:
            raise self._named_fault(instance) from None

    def restore(self, instance: Any, encoded: bytes) -> None:
        """Put back the fields as they were when ``encoded`` was made."""
        if self._get is not None:
            values = self._decode(encoded)
            for name in self._names:
                object.__setattr__(instance, name, getattr(values, name))

    def _named_fault(self, instance: Any) -> encoding.EncodingFault:
        named = {name: getattr(instance, name) for name in self._names}
        fault = encoding.find_fault(named, json=False)
        return fault or encoding.EncodingFault("", "the declared state cannot be encoded")

    def _check_defaults(self, where: str) -> None:
        for name, annotation in self.fields.items():
            try:
                encoded = encoding.encode(self._defaults[name])
                msgspec.msgpack.decode(encoded, type=annotation, dec_hook=encoding.decode_hook)
            except (encoding.EncodingFault, *encoding.DECODE_ERRORS) as error:
                text = str(error).replace("`", "")
                raise TypeError(
                    f"{where}.{name}: the default {self._defaults[name]!r:.60} does not fit the "
                    f"annotation: {text}"
                ) from None


class StateKeeper:
    """The declared state of one instance between and during turns.

    The encoding made at the end of a turn is kept for the next one to be rolled back to, so that
    a turn costs one encoding. It is made again where something else may have changed the state.
    """

    __slots__ = ("_codec", "_encoded", "_instance", "shared")

    def __init__(self, codec: StateCodec, instance: Any) -> None:
        self._codec = codec
        self._instance = instance
        self._encoded: bytes | None = None
        #: Background tasks exist: they may change state between turns.
        self.shared = False

    @property
    def size(self) -> int:
        """Bytes of the encoding, 0 if there is none at hand."""
        return len(self._encoded) if self._encoded is not None else 0

    def begin(self, *, nested: bool) -> bytes:
        """What the turn that begins would be rolled back to. Raises `EncodingFault`.

        :param nested: it is part of another turn, which may have changed the state so far.
        """
        if self._encoded is None or nested or self.shared:
            return self._codec.encode(self._instance)
        return self._encoded

    def end(self) -> bytes:
        """A tracked turn has succeeded. Raises `EncodingFault` if its state cannot be kept."""
        self._encoded = encoded = self._codec.encode(self._instance)
        return encoded

    def changed(self) -> None:
        """An untracked turn may have changed the state."""
        self._encoded = None

    def roll_back(self, before: bytes, *, nested: bool) -> None:
        """Undo what a failed turn did."""
        try:
            unchanged = self._codec.encode(self._instance) == before
        except encoding.EncodingFault:
            unchanged = False
        if not unchanged:
            self._codec.restore(self._instance, before)
        if not nested:
            self._encoded = before


def _declared(cls: type, names: Mapping[str, Any], reserved: frozenset[str]) -> dict[str, Any]:
    annotated: dict[str, None] = {}
    for base in reversed(cls.__mro__):
        if base.__module__ != "builtins" and not getattr(base, "__goverse_root__", False):
            annotated.update(dict.fromkeys(inspect.get_annotations(base)))
    if not annotated:
        return {}
    where = cls.__qualname__
    try:
        hints = resolve_hints(cls, names, where)
    except UnresolvedName as error:
        raise TypeError(f"{error}; define it before {where}") from None
    fields: dict[str, Any] = {}
    for name in annotated:
        hint = hints[name]
        if hint is ClassVar or typing.get_origin(hint) is ClassVar:
            continue
        if name in reserved or name.startswith("__"):
            raise TypeError(f"{where}.{name}: this name is reserved by goverse.Object")
        if not hasattr(cls, name):
            raise TypeError(
                f"{where}.{name} is declared state and has no default: an object begins to exist "
                "when it is first called, so every field needs one (or make it a ClassVar)"
            )
        fields[name] = hint
    return fields
