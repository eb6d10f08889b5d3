"""Messages of other libraries as arguments and results: protobuf and pydantic.

Neither library is imported here: an annotation can only name one of their classes if the
application has imported it. In msgpack a protobuf message is its serialized bytes, in JSON its
ProtoJSON; either form is understood when decoding.
"""

from __future__ import annotations

import sys
from typing import Any


def _class_of(module: str, name: str) -> type | None:
    """A library's base class if the application has loaded the library."""
    found = getattr(sys.modules.get(module), name, None)
    return found if isinstance(found, type) else None


def is_supported(kind: type) -> bool:
    """Whether ``kind`` is a protobuf message class or a pydantic model."""
    return _is_protobuf(kind) or _is_pydantic(kind)


def _is_protobuf(kind: type) -> bool:
    base = _class_of("google.protobuf.message", "Message")
    return base is not None and issubclass(kind, base)


def _is_pydantic(kind: type) -> bool:
    base = _class_of("pydantic", "BaseModel")
    return base is not None and issubclass(kind, base)


def encode(value: Any) -> Any:
    """Builtins for msgpack. Raises TypeError for what is neither library's."""
    if _is_protobuf(type(value)):
        # Deterministic, since the encoding of declared state is compared.
        return value.SerializeToString(deterministic=True)
    if _is_pydantic(type(value)):
        return value.model_dump(mode="json")
    raise TypeError(f"Encoding objects of type {type(value).__qualname__} is unsupported")


def encode_json(value: Any) -> Any:
    """Builtins for JSON. Raises TypeError for what is neither library's."""
    if _is_protobuf(type(value)):
        from google.protobuf import json_format

        return json_format.MessageToDict(value)
    return encode(value)


def decode(kind: type, value: Any) -> Any:
    """A message of class ``kind``. Raises ValueError for a value that does not fit."""
    if _is_protobuf(kind):
        if isinstance(value, bytes):
            return _from_bytes(kind, value)
        from google.protobuf import json_format

        try:
            return json_format.ParseDict(value, kind())
        except (json_format.ParseError, AttributeError, TypeError) as error:
            raise ValueError(f"not a {kind.__name__}: {error}") from None
    if _is_pydantic(kind):
        model: Any = kind
        return model.model_validate(value)  # pydantic's ValidationError is a ValueError
    raise TypeError(f"cannot decode into {kind.__qualname__}")


def _from_bytes(kind: Any, value: bytes) -> Any:
    from google.protobuf.message import DecodeError

    try:
        return kind.FromString(value)
    except DecodeError as error:
        raise ValueError(f"not a serialized {kind.__name__}: {error}") from None
