"""Payloads of codec ANY: a serialized google.protobuf.Any, as existing clients send it.

A method whose only parameter is a protobuf message gets what the Any holds. Every other method
gets its arguments by name from a google.protobuf.Struct, and none from a google.protobuf.Empty. A
result that is a protobuf message answers as itself, every other one as a google.protobuf.Value.

Numbers in Struct and Value are doubles. A whole one below 2^53 in size is an int on arrival, which
a float parameter takes too; larger ones stay floats, because a double does not say which of several
integers was meant. A result with an integer from 2^53 on is refused for the same reason, and so are
numbers that are not finite, which neither message can be printed with.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
from google.protobuf import any_pb2, empty_pb2, struct_pb2
from google.protobuf.message import Message

from goverse.objects import encoding, foreign
from goverse.objects.encoding import EncodingFault
from goverse.objects.whole_message import WholeMessage

_EXACT = 2**53
#: Protobuf reads messages 100 deep, and a Value nests two or three for each level of ours.
_MAX_DEPTH = 96

_ANY = any_pb2.Any.DESCRIPTOR.full_name
_EMPTY = empty_pb2.Empty.DESCRIPTOR.full_name
_STRUCT = struct_pb2.Struct.DESCRIPTOR.full_name


class AnyDecoder:
    """Decodes the arguments of one method into its ``struct``."""

    __slots__ = ("_struct", "_whole")

    def __init__(self, struct: type[msgspec.Struct], whole: WholeMessage | None) -> None:
        self._struct = struct
        self._whole = whole

    def __call__(self, payload: bytes) -> Any:
        """Raises `EncodingFault`, `ForeignFault`."""
        packed = foreign.from_bytes(any_pb2.Any, payload)
        whole = self._whole
        if whole is None:
            return self._by_name(packed)
        if whole.full_name == _ANY:
            return whole.holding(packed)
        if not packed.type_url and not packed.value:
            return whole.absent()
        name = _type_name(packed)
        if name != whole.full_name:
            raise EncodingFault(whole.name, f"expected {whole.full_name}, got {name}")
        return whole.decode_bytes(packed.value)

    def _by_name(self, packed: any_pb2.Any) -> Any:
        arguments: dict[str, Any] = {}
        if packed.type_url or packed.value:
            name = _type_name(packed)
            if name == _STRUCT:
                arguments = _fields(foreign.from_bytes(struct_pb2.Struct, packed.value), "")
            elif name != _EMPTY:
                raise EncodingFault("", f"expected arguments by name in {_STRUCT}, got {name}")
        try:
            return msgspec.convert(
                arguments, self._struct, str_keys=True, dec_hook=encoding.decode_hook
            )
        except msgspec.ValidationError as error:
            path, why = encoding.explain(error)
            if why == "expected int, got float":
                why += " (a Struct carries whole numbers below 2^53)"
            raise EncodingFault(path, why) from None


def encode(value: Any) -> bytes:
    """A result as a serialized Any. Raises `EncodingFault`."""
    try:
        if not isinstance(value, Message):
            value = _value_of(value)
        elif value.DESCRIPTOR.full_name == _ANY:
            return value.SerializeToString(deterministic=True)
        packed = any_pb2.Any()
        packed.Pack(value, deterministic=True)
        return packed.SerializeToString()
    except encoding.ENCODE_ERRORS as error:
        raise EncodingFault("", str(error)) from None


def _type_name(packed: any_pb2.Any) -> str:
    """The name of the message within. Raises `EncodingFault` for a type URL without one."""
    _, slash, name = packed.type_url.rpartition("/")
    if not slash or not name:
        raise EncodingFault("", f"the type URL {packed.type_url[:200]!r} names no type")
    return name[:200]


def _fields(found: struct_pb2.Struct, path: str) -> dict[str, Any]:
    return {key: _plain(value, f"{path}.{key}".lstrip(".")) for key, value in found.fields.items()}


def _plain(value: struct_pb2.Value, path: str) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return _fields(value.struct_value, path)
    if kind == "list_value":
        return [_plain(part, f"{path}[{n}]") for n, part in enumerate(value.list_value.values)]
    if kind == "null_value":
        return None
    if kind == "number_value":
        return _number(value.number_value, path)
    if kind is None:
        raise EncodingFault(path, "a google.protobuf.Value without a value")
    return getattr(value, kind)


def _number(number: float, path: str) -> int | float:
    if not math.isfinite(number):
        raise EncodingFault(path, f"a Struct has no {number}")
    return int(number) if number.is_integer() and abs(number) < _EXACT else number


def _value_of(value: Any) -> struct_pb2.Value:
    fault = encoding.find_fault(value, json=True)
    if fault is not None:
        raise fault
    made = struct_pb2.Value()
    _fill(made, encoding.json_builtins(value), "", 0)
    return made


def _fill(made: struct_pb2.Value, value: Any, path: str, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise EncodingFault(path[:200], "nested too deeply")
    if value is None:
        made.null_value = struct_pb2.NULL_VALUE
    elif isinstance(value, bool):
        made.bool_value = value
    elif isinstance(value, int):
        if abs(value) >= _EXACT:
            raise EncodingFault(path, "an integer from 2^53 on is not exact in a Value")
        made.number_value = value
    elif isinstance(value, float):
        made.number_value = value
    elif isinstance(value, str):
        made.string_value = value
    elif isinstance(value, dict):
        made.struct_value.SetInParent()
        for key, part in value.items():
            _fill(made.struct_value.fields[key], part, f"{path}.{key}".lstrip("."), depth + 3)
    else:
        made.list_value.SetInParent()
        for n, part in enumerate(value):
            _fill(made.list_value.values.add(), part, f"{path}[{n}]", depth + 2)
