"""The generated code, compared field by field with the table."""

from __future__ import annotations

import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor

from goverse.transport.pb.gate import gate_pb2
from goverse.transport.pb.goverse import goverse_pb2
from goverse_gate import gate_service
from goverse_node import goverse_service
from tests.compat import table
from tests.support.messages import Field

_FIELD = descriptor_pb2.FieldDescriptorProto
_TYPES = {_FIELD.TYPE_STRING: "string", _FIELD.TYPE_INT64: "int64"}

SIDES = [
    (
        gate_pb2.DESCRIPTOR,
        table.GATE_PACKAGE,
        table.GATE_SERVICE,
        table.GATE_MESSAGES,
        table.GATE_METHODS,
    ),
    (
        goverse_pb2.DESCRIPTOR,
        table.NODE_PACKAGE,
        table.NODE_SERVICE,
        table.NODE_MESSAGES,
        table.NODE_METHODS,
    ),
]


def fields_of(message: descriptor_pb2.DescriptorProto) -> tuple[Field, ...]:
    # Nothing that the table has no word for: no oneof, no enum, no nested message, no extension.
    assert {field.name for field, _ in message.ListFields()} <= {"name", "field"}
    return tuple((field.number, field.name, type_of(field)) for field in message.field)


def type_of(field: descriptor_pb2.FieldDescriptorProto) -> str:
    assert field.label in (_FIELD.LABEL_OPTIONAL, _FIELD.LABEL_REPEATED)
    assert not field.proto3_optional
    kind = field.type_name.lstrip(".") or _TYPES[field.type]
    return f"repeated {kind}" if field.label == _FIELD.LABEL_REPEATED else kind


@pytest.mark.parametrize(("file", "package", "service", "messages", "methods"), SIDES)
def test_descriptors_are_those_of_the_table(
    file: FileDescriptor,
    package: str,
    service: str,
    messages: table.Messages,
    methods: table.Methods,
) -> None:
    proto = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(proto)
    assert (proto.package, proto.syntax) == (package, "proto3")
    assert {message.name: fields_of(message) for message in proto.message_type} == messages
    (found,) = proto.service
    assert found.name == service
    assert {
        method.name: (
            method.input_type.lstrip("."),
            method.output_type.lstrip("."),
            method.server_streaming,
        )
        for method in found.method
    } == methods
    assert not any(method.client_streaming for method in found.method)


def test_the_services_are_served_under_their_names() -> None:
    assert f"{table.GATE_PACKAGE}.{table.GATE_SERVICE}" == gate_service.SERVICE
    assert f"{table.NODE_PACKAGE}.{table.NODE_SERVICE}" == goverse_service.SERVICE
