"""A protobuf message with a field of every kind, without a generator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

# Not "float": protobuf writes the largest one as 3.4028235e+38, which its own parser refuses.
_FIELD = descriptor_pb2.FieldDescriptorProto
SCALARS = {
    name.removeprefix("TYPE_").lower(): number
    for name, number in _FIELD.Type.items()
    if name not in ("TYPE_GROUP", "TYPE_MESSAGE", "TYPE_ENUM", "TYPE_FLOAT")
}


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name="goverse_test/every_field.proto", package="goverse_test", syntax="proto3"
    )
    shade = file.enum_type.add(name="Shade")
    shade.value.add(name="SHADE_UNKNOWN", number=0)
    shade.value.add(name="SHADE_DARK", number=1)
    message = file.message_type.add(name="EveryField")
    numbers = iter(range(1, 100))

    def add(name: str, type: int, **more: Any) -> None:
        field = message.field.add(name=name, number=next(numbers), label=1, type=type)
        for key, value in more.items():
            setattr(field, key, value)

    for name, type in SCALARS.items():
        add(f"a_{name}", type)
        add(f"many_{name}", type, label=3)
    add("shade", _FIELD.TYPE_ENUM, type_name=".goverse_test.Shade")
    add("inner", _FIELD.TYPE_MESSAGE, type_name=".goverse_test.EveryField")
    message.oneof_decl.add(name="choice")
    add("this", _FIELD.TYPE_STRING, oneof_index=0)
    add("that", _FIELD.TYPE_INT32, oneof_index=0)
    entry = message.nested_type.add(name="CountsEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=1, type=_FIELD.TYPE_INT64)
    entry.field.add(name="value", number=2, label=1, type=_FIELD.TYPE_BOOL)
    add("counts", _FIELD.TYPE_MESSAGE, label=3, type_name=".goverse_test.EveryField.CountsEntry")
    return file


if TYPE_CHECKING:
    from google.protobuf.message import Message as EveryField
else:
    _POOL = descriptor_pool.DescriptorPool()
    _POOL.Add(_file())
    EveryField = message_factory.GetMessageClass(
        _POOL.FindMessageTypeByName("goverse_test.EveryField")
    )
