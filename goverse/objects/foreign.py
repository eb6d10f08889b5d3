"""Messages of other libraries as arguments, results and state: protobuf and pydantic.

Neither library is imported here before it is used: an annotation can only name one of their
classes if the application has imported it. In msgpack a protobuf message is its serialized bytes,
in JSON its ProtoJSON; either form is understood when decoding. A pydantic model is what it makes
of itself for JSON, under its aliases; in msgpack without computed fields, so that it can be read
again whatever the model says of extra fields.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from typing import Any

_FAILED = re.compile(r"Failed to parse (\w+) field: ")
_UNKNOWN = re.compile(r'Message type "[^"]*" has no field named "([^"]*)" at "\w+\.?([^"]*)"')
_AT = re.compile(r" at \"?\w+((?:\.\w+(?:\[\d+\])?)+)\"?\.*\Z")


class ForeignFault(ValueError):
    """A value that is no such message. ``path`` is where in the message: empty for all of it."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path}: {why}" if path else why)
        self.path = path
        self.why = why


def _class_of(module: str, name: str) -> type | None:
    """A library's base class if the application has loaded the library."""
    found = getattr(sys.modules.get(module), name, None)
    return found if isinstance(found, type) else None


def is_supported(kind: type) -> bool:
    """Whether ``kind`` is a protobuf message class or a pydantic model."""
    return is_protobuf(kind) or _is_pydantic(kind)


def is_protobuf(kind: Any) -> bool:
    """Whether ``kind`` is a class of protobuf messages."""
    base = _class_of("google.protobuf.message", "Message")
    return base is not None and isinstance(kind, type) and issubclass(kind, base)


def _is_pydantic(kind: type) -> bool:
    base = _class_of("pydantic", "BaseModel")
    return base is not None and issubclass(kind, base)


def encode(value: Any) -> Any:
    """Builtins for msgpack. Raises TypeError for what is neither library's."""
    if is_protobuf(type(value)):
        from google.protobuf.message import EncodeError

        try:
            # Deterministic, since the encoding of declared state is compared.
            return value.SerializeToString(deterministic=True)
        except EncodeError as error:  # a required field of proto2 is missing
            raise ValueError(str(error)) from None
    if _is_pydantic(type(value)):
        return value.model_dump(mode="json", by_alias=True, round_trip=True)
    raise TypeError(f"Encoding objects of type {type(value).__qualname__} is unsupported")


def encode_json(value: Any) -> Any:
    """Builtins for JSON. Raises TypeError for what is neither library's."""
    if is_protobuf(type(value)):
        from google.protobuf import json_format

        try:
            return json_format.MessageToDict(value)
        except json_format.Error as error:
            raise ValueError(str(error)) from None
    if _is_pydantic(type(value)):
        return value.model_dump(mode="json", by_alias=True)
    return encode(value)


def parts(value: Any) -> Any:
    """What a pydantic model encodes as, to look for what cannot be carried; None for all else."""
    if not _is_pydantic(type(value)):
        return None
    try:
        return encode_json(value)
    except ValueError:
        return None  # The encoder will say the same, and more.


def decode(kind: type, value: Any) -> Any:
    """A message of class ``kind``. Raises `ForeignFault` for a value that does not fit."""
    if is_protobuf(kind):
        return from_bytes(kind, value) if isinstance(value, bytes) else from_json(kind, value)
    if _is_pydantic(kind):
        return _model(kind, value)
    raise TypeError(f"cannot decode into {kind.__qualname__}")


def from_bytes(kind: Any, value: bytes) -> Any:
    """A protobuf message from its serialized bytes. Raises `ForeignFault`."""
    from google.protobuf.message import DecodeError

    try:
        return _complete(kind.FromString(value))
    except DecodeError as error:
        raise ForeignFault("", f"not a serialized {kind.__name__}: {error}") from None


def _complete(message: Any) -> Any:
    """``message``; one that misses required fields (of proto2) could never be encoded again."""
    if not message.IsInitialized():
        raise ForeignFault(message.FindInitializationErrors()[0], "missing field")
    return message


def from_json(kind: Any, value: Any) -> Any:
    """A protobuf message from its ProtoJSON, as builtins. Raises `ForeignFault`."""
    from google.protobuf import json_format

    try:
        return _complete(json_format.ParseDict(value, kind()))
    except ForeignFault:
        raise
    except json_format.ParseError as error:
        path, why = _explain(str(error))
        raise ForeignFault(path, why) from None
    except (AttributeError, TypeError, ValueError):
        # How the parser meets a value of another kind than the whole message has.
        name = type(value).__name__
        raise ForeignFault("", f"not the ProtoJSON of a {kind.__name__}: {name}") from None


def _explain(text: str) -> tuple[str, str]:
    """The parser's text as (path, sentence). It names the fields on the way down, and only for
    some faults the place in full."""
    names: list[str] = []
    while (match := _FAILED.match(text)) is not None:
        names.append(match[1])
        text = text[match.end() :]
    unknown = _UNKNOWN.match(text)
    if unknown is not None:
        return f"{unknown[2]}.{unknown[1]}".lstrip("."), "unknown field"
    place = _AT.search(text)
    if place is not None:
        return place[1].lstrip("."), text[: place.start()]
    return ".".join(names), text.split("\n", 1)[0].rstrip(".")


def _model(kind: Any, value: Any) -> Any:
    # As JSON, which is what the model was told when it was encoded: a strict model takes a date
    # from text there and nowhere else. The library's own JSON, because it can carry NaN.
    try:
        text = json.dumps(value)
    except (TypeError, ValueError) as error:
        raise ForeignFault("", str(error)) from None
    try:
        return kind.model_validate_json(text)
    except ValueError as error:
        raise _model_fault(error) from None


def _model_fault(error: Any) -> ForeignFault:
    faults = error.errors(include_url=False, include_input=False, include_context=False)
    first = faults[0]
    more = f" (and {len(faults) - 1} more faults)" if len(faults) > 1 else ""
    return ForeignFault(_path(first["loc"]), first["msg"] + more)


def _path(steps: Iterable[str | int]) -> str:
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    return path.lstrip(".")


def pack_any(message: Any) -> bytes:
    """A protobuf message as a serialized google.protobuf.Any."""
    from google.protobuf.any_pb2 import Any as AnyMessage

    packed = AnyMessage()
    packed.Pack(message, deterministic=True)
    return packed.SerializeToString()


def unpack_any(kind: Any, data: bytes) -> Any:
    """The message of class ``kind`` in an Any. Raises `ForeignFault` if it holds another one."""
    from google.protobuf.any_pb2 import Any as AnyMessage

    packed = from_bytes(AnyMessage, data)
    if not packed.Is(kind.DESCRIPTOR):
        held = packed.type_url or "an empty Any"
        raise ForeignFault("", f"{held} is not {kind.DESCRIPTOR.full_name}")
    return from_bytes(kind, packed.value)
