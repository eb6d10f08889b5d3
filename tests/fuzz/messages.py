"""Admin requests as bytes and as messages, into a node's answers."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError
from hypothesis import strategies as st

from goverse.admin.wire import METHODS, Method
from goverse.errors import GoverseError
from goverse.security.operators import OperatorRule
from goverse.transport.grpc_status import status_of
from goverse_node.admin.service import AdminService
from tests.fuzz.property import fuzzed
from tests.support.virtual import virtual
from tests.unit.admin.test_admin_node import World, objects
from tests.unit.gate import test_gate_service_requests as gate_service

methods = st.sampled_from(list(METHODS.values()))
texts = st.one_of(
    st.text(max_size=12), st.sampled_from(["n1", "n2", "Counter", "a", "shard#5/x", "node#n1/x"])
)


class Context:
    def peer(self) -> str:
        return "ipv4:127.0.0.1:5000"

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()

    def time_remaining(self) -> float | None:
        return None


async def _ask(method: Method, message: Any) -> None:
    """It is answered, or refused with a code that is the caller's fault."""
    world = World({"n1": objects("a", "b"), "n2": objects("c")}, leader="n1", num_shards=8)
    service = AdminService(world.nodes["n1"], OperatorRule(""))
    context: Any = Context()
    async with asyncio.timeout(60):
        try:
            await service._answer(method, message, context)
        except GoverseError as error:
            code, _, _ = status_of(error)
            assert code not in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN), error
    assert not [limit for limit in service.limits() if limit.used]


@fuzzed(methods, st.binary(max_size=80), st.booleans())
def random_requests(method: Method, data: bytes, packed: bool) -> None:
    """Random bytes, bare and as what an Any holds."""
    if packed:
        carrier = AnyMessage(type_url=f"x/{method.request.DESCRIPTOR.full_name}", value=data)
        message: Any = method.request()
        try:
            carrier.Unpack(message)
        except DecodeError:
            return
    else:
        try:
            message = method.request.FromString(data)
        except DecodeError:
            return
    virtual(_ask)(method, message)


def _values(type: int) -> st.SearchStrategy[Any]:
    """Of a field of that type."""
    if type == FieldDescriptor.TYPE_STRING:
        return texts
    if type == FieldDescriptor.TYPE_BYTES:
        return st.binary(max_size=20)
    if type == FieldDescriptor.TYPE_BOOL:
        return st.booleans()
    if type in (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT):
        return st.floats(width=32)
    return st.one_of(st.integers(-2, 9), st.integers(-(2**31), 2**31 - 1))


@fuzzed(methods, st.data())
def built_requests(method: Method, data: st.DataObject) -> None:
    """Every field of the request gets some value of its type."""
    message: Any = method.request()
    for field in method.request.DESCRIPTOR.fields:
        values = _values(field.type)
        if field.is_repeated:
            getattr(message, field.name).extend(data.draw(st.lists(values, max_size=3)))
        else:
            setattr(message, field.name, data.draw(values))
    virtual(_ask)(method, message)


@fuzzed(st.sampled_from(gate_service.METHODS), st.binary(max_size=200))
def gate_requests(method: str, raw: bytes) -> None:
    """The same for calls of foreign clients."""
    gate_service.test_random_bytes.hypothesis.inner_test(method, raw)  # type: ignore[attr-defined]
