"""Between the model and protobuf, field by field: both have the same names.

The methods come from the descriptor, so no generated stubs are needed beside the messages.
"""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass
from typing import Any

from google.protobuf import message_factory
from google.protobuf.message import Message

from goverse.admin import api
from goverse.transport.pb.goverse.v1 import admin_pb2

SERVICE = "goverse.v1.Admin"

Shape = dict[str, tuple[Any, bool]]


@dataclass(frozen=True)
class Method:
    """One rpc: its name on the wire, its name in `api.Admin`, and its messages."""

    name: str
    python_name: str
    request: type[Message]
    response: type[Message]
    model: type[Any]

    @property
    def path(self) -> str:
        return f"/{SERVICE}/{self.name}"


def to_message(model: Any, cls: type[Message]) -> Message:
    """``model`` (a dataclass of `goverse.admin.api`) as a message of ``cls``."""
    return cls(**_plain(model))


def _plain(model: Any) -> dict[str, Any]:
    def value(item: Any) -> Any:
        if dataclasses.is_dataclass(item):
            return _plain(item)
        if isinstance(item, tuple):
            return [value(part) for part in item]
        return item

    return {f.name: value(getattr(model, f.name)) for f in dataclasses.fields(model)}


def to_model(message: Message, cls: type[Any]) -> Any:
    """``message`` as an instance of ``cls``. Fields that ``cls`` does not know are dropped."""
    values: dict[str, Any] = {}
    for name, (nested, repeated) in _SHAPES[cls].items():
        value = getattr(message, name)
        if nested is not None:
            value = (
                tuple(to_model(item, nested) for item in value)
                if repeated
                else to_model(value, nested)
            )
        elif repeated:
            value = tuple(value)
        values[name] = value
    return cls(**values)


def _shape(cls: type[Any]) -> Shape:
    """For each field: the model class inside it, if any, and whether it is a tuple."""
    shape: Shape = {}
    for name, hint in typing.get_type_hints(cls).items():
        repeated = typing.get_origin(hint) is tuple
        inner = typing.get_args(hint)[0] if repeated else hint
        shape[name] = (inner if dataclasses.is_dataclass(inner) else None, repeated)
    return shape


_SHAPES: dict[type[Any], Shape] = {
    cls: _shape(cls)
    for cls in vars(api).values()
    if isinstance(cls, type) and dataclasses.is_dataclass(cls)
}


def _snake(name: str) -> str:
    return "".join("_" + c.lower() if c.isupper() else c for c in name).lstrip("_")


def _methods() -> tuple[Method, ...]:
    service = admin_pb2.DESCRIPTOR.services_by_name["Admin"]
    return tuple(
        Method(
            name=rpc.name,
            python_name=_snake(rpc.name),
            request=message_factory.GetMessageClass(rpc.input_type),
            response=message_factory.GetMessageClass(rpc.output_type),
            model=getattr(api, rpc.output_type.name),
        )
        for rpc in service.methods
    )


#: Every rpc of the service by the name of its method in `api.Admin`.
METHODS = {method.python_name: method for method in _methods()}
