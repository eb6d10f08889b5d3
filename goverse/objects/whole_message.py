"""Methods whose only parameter is a protobuf message.

Where a payload has no names of ours in it, that message is the whole payload: the body of a
request over HTTP is its ProtoJSON, and a google.protobuf.Any holds it. Nothing sent is the
parameter's default, or else an empty message, since protobuf knows no fields that must be there.
Between our own processes (msgpack) it travels by name like every other argument.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from goverse.objects import foreign
from goverse.objects.foreign import ForeignFault


class WholeMessage:
    """The parameter ``name`` of class ``kind``, decoded into ``struct``."""

    __slots__ = ("_default", "_struct", "kind", "name", "nullable")

    def __init__(
        self, struct: type[msgspec.Struct], name: str, kind: Any, *, nullable: bool, default: bool
    ) -> None:
        self.name = name
        self.kind = kind
        self.nullable = nullable
        self._struct = struct
        self._default = default

    @property
    def full_name(self) -> str:
        """The protobuf name of the message."""
        name: str = self.kind.DESCRIPTOR.full_name
        return name

    def decode_json(self, payload: bytes) -> Any:
        """Raises `ForeignFault`, and what msgspec raises for bytes that are not JSON."""
        if not payload:
            return self.absent()
        value = msgspec.json.decode(payload)
        if value is None and self.nullable:
            return self.holding(None)
        return self.holding(foreign.from_json(self.kind, value))

    def decode_bytes(self, payload: bytes) -> Any:
        """From the message's own bytes. Raises `ForeignFault`."""
        try:
            return self.holding(foreign.from_bytes(self.kind, payload))
        except ForeignFault as fault:
            raise ForeignFault(self.name, fault.why) from None

    def absent(self) -> Any:
        """For a payload without anything in it."""
        return self._struct() if self._default else self.holding(self.kind())

    def holding(self, message: Any) -> Any:
        return self._struct(**{self.name: message})


def whole_message(
    struct: type[msgspec.Struct],
    parameters: Sequence[inspect.Parameter],
    hints: Mapping[str, Any],
) -> WholeMessage | None:
    """The only parameter, if it is a protobuf message or an Optional one."""
    if len(parameters) != 1:
        return None
    (parameter,) = parameters
    hint, nullable = hints[parameter.name], False
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        others = [part for part in typing.get_args(hint) if part is not type(None)]
        nullable = len(others) < len(typing.get_args(hint))
        hint = others[0] if len(others) == 1 else None
    if typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    if not foreign.is_protobuf(hint):
        return None
    default = parameter.default is not parameter.empty
    return WholeMessage(struct, parameter.name, hint, nullable=nullable, default=default)
