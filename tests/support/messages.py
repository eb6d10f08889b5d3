"""Protobuf classes without a compiler: descriptors made here, each in a pool of its own, so that
two versions of one message can meet in one process."""

from __future__ import annotations

from typing import Any

from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, empty_pb2, message_factory

#: (number, name, type): a scalar's name, or the full name of a message; ``repeated`` before it.
Field = tuple[int, str, str]

_FIELD = descriptor_pb2.FieldDescriptorProto


def add_message(
    file: descriptor_pb2.FileDescriptorProto, name: str, fields: tuple[Field, ...]
) -> None:
    made = file.message_type.add(name=name)
    for number, field_name, kind in fields:
        field = made.field.add(name=field_name, number=number, label=_FIELD.LABEL_OPTIONAL)
        if kind.startswith("repeated "):
            field.label = _FIELD.LABEL_REPEATED
            kind = kind.removeprefix("repeated ")
        if "." in kind:
            field.type, field.type_name = _FIELD.TYPE_MESSAGE, f".{kind}"
        else:
            field.type = _FIELD.Type.Value(f"TYPE_{kind.upper()}")


def new_file(name: str, package: str) -> descriptor_pb2.FileDescriptorProto:
    """An empty proto3 file that knows Any and Empty."""
    needs = [any_pb2.DESCRIPTOR.name, empty_pb2.DESCRIPTOR.name]
    return descriptor_pb2.FileDescriptorProto(
        name=name, package=package, syntax="proto3", dependency=needs
    )


def pool_of(file: descriptor_pb2.FileDescriptorProto) -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    for known in (any_pb2, empty_pb2):
        pool.AddSerializedFile(known.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    return pool


def classes(package: str, messages: dict[str, tuple[Field, ...]]) -> Any:
    """The classes of ``messages``, in their order."""
    file = new_file(f"{package}.proto", package)
    for name, fields in messages.items():
        add_message(file, name, fields)
    pool = pool_of(file)
    return [
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))
        for name in messages
    ]
