"""Models and messages have the same fields, and errors survive the way through gRPC."""

from __future__ import annotations

import dataclasses

import grpc
import pytest

from goverse.admin import api
from goverse.admin.wire import METHODS, to_message, to_model
from goverse.errors import (
    ApplicationError,
    DeadlineExceeded,
    Executed,
    GoverseError,
    Internal,
    NotFound,
    NotOwner,
    Unavailable,
)
from goverse.transport.grpc_status import ERROR_TRAILER, error_of, status_of
from goverse.transport.pb.goverse.v1 import admin_pb2

MODELS = [
    cls for cls in vars(api).values() if isinstance(cls, type) and dataclasses.is_dataclass(cls)
]


@pytest.mark.parametrize("model", MODELS, ids=lambda cls: cls.__name__)
def test_a_model_has_the_fields_of_its_message(model: type) -> None:
    message = admin_pb2.DESCRIPTOR.message_types_by_name[model.__name__]
    assert [f.name for f in dataclasses.fields(model)] == [f.name for f in message.fields]


def test_every_rpc_has_its_method_and_its_arguments() -> None:
    for name, method in METHODS.items():
        code = getattr(api.Admin, name).__code__
        arguments = set(code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount])
        fields = {field.name for field in method.request.DESCRIPTOR.fields}
        assert arguments - {"timeout_s"} == fields, name


def test_a_model_survives_the_way_through_its_message() -> None:
    status = api.ClusterStatus(
        cluster_id="c",
        generation=2,
        num_shards=8,
        nodes=(api.Member(name="n1", weight=2.5, leader=True, claimed=8),),
        shards=api.ShardCounts(total=8, claimed=8, owned=8),
        warnings=(api.Warning(code="x", message="y", shards=(1, 2)),),
    )
    message = to_message(status, METHODS["get_status"].response)
    again = METHODS["get_status"].response.FromString(message.SerializeToString())
    assert to_model(again, api.ClusterStatus) == status


@pytest.mark.parametrize(
    "error",
    [
        NotFound("no shard 9", details={"shard": 9}),
        DeadlineExceeded("late", executed=Executed.UNKNOWN),
        ApplicationError("too_poor", "no money", {"missing": 3}),
    ],
)
def test_an_error_arrives_as_it_was_raised(error: GoverseError) -> None:
    code, message, trailers = status_of(error)
    arrived = error_of(code, message, trailers)
    assert type(arrived) is type(error)
    assert (arrived.code, arrived.message, arrived.executed, arrived.details) == (
        error.code,
        error.message,
        error.executed,
        error.details,
    )


def test_what_must_not_leave_is_answered_as_internal() -> None:
    for error in (KeyError("secret"), NotOwner("secret")):
        code, message, trailers = status_of(error)
        assert code is grpc.StatusCode.INTERNAL
        assert "secret" not in message + str(trailers)
        assert isinstance(error_of(code, message, trailers), Internal)


def test_details_too_large_for_a_header_are_left_out() -> None:
    _, _, trailers = status_of(NotFound("x" * 5000, details={"all": "y" * 100_000}))
    assert sum(len(value) for _, value in trailers) < 4096


@pytest.mark.parametrize("trailer", [b"", b"[]", b'{"code": 1}', b'{"code": [], "executed": "no"}'])
def test_a_trailer_that_is_not_ours_is_ignored(trailer: bytes) -> None:
    arrived = error_of(grpc.StatusCode.UNAVAILABLE, "gone", ((ERROR_TRAILER, trailer),))
    assert isinstance(arrived, Unavailable)
    assert arrived.executed is Executed.UNKNOWN
