"""GateService over real gRPC connections: limits, deadlines, errors, streams, rest afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import any_pb2, empty_pb2, struct_pb2
from google.protobuf.message import Message

import goverse
from goverse.aio.runtime import Runtime
from goverse.config.settings import LimitSettings
from goverse.errors import (
    ApplicationError,
    Conflict,
    DeadlineExceeded,
    Executed,
    GoverseError,
    InvalidArgument,
    ObjectFailed,
    Overloaded,
    PermissionDenied,
    RateLimited,
    TooLarge,
    Unavailable,
)
from goverse.storage.memory import MemoryStore
from goverse.transport.grpc_status import error_of
from goverse.transport.pb.gate import gate_pb2 as pb
from goverse.transport.pb.gate.gate_pb2_grpc import GateServiceStub
from goverse.transport.pushes import Outcome
from goverse.transport.tcp_network import TcpNetwork
from goverse_gate.buffer import Message as Pushed
from tests.support.eventually import eventually
from tests.support.hosted import Hosted, hosted
from tests.support.real_gate import real_gate
from tests.support.room import outcomes

MIB = 1024 * 1024
OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_send_message_length", 100 * MIB),
    ("grpc.max_receive_message_length", 100 * MIB),
]


@asynccontextmanager
async def gate(**limits: Any) -> AsyncIterator[Hosted]:
    settings = LimitSettings(**limits)
    network = TcpNetwork(limits=settings)
    async with hosted(network, "127.0.0.1:0", settings) as running:
        yield running
        await at_rest(running)
    await network.close()


async def at_rest(running: Hosted) -> None:
    def resting() -> bool:
        service, clients = running.service.snapshot(), running.clients.snapshot()
        ingress = running.ingress.snapshot()
        return (
            (service.calls, service.held_bytes, service.connections) == (0, 0, 0)
            and (clients.clients, clients.waiting, clients.bytes) == (0, 0, 0)
            and (ingress.doors, ingress.calls) == (0, 0)
        )

    await eventually(resting)


@asynccontextmanager
async def connected(running: Hosted) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(running.listener.address, options=OPTIONS) as channel:
        yield GateServiceStub(channel)


def packed(message: Message) -> any_pb2.Any:
    made = any_pb2.Any()
    made.Pack(message)
    return made


def a_call(method: str, client_id: str = "", id: str = "a", **arguments: Any) -> Any:
    struct = struct_pb2.Struct()
    struct.update(arguments)
    return pb.CallObjectRequest(
        client_id=client_id, type="Counter", id=id, method=method, request=packed(struct)
    )


def value(response: Any) -> Any:
    made = struct_pb2.Value()
    assert response.response.Unpack(made)
    return getattr(made, made.WhichOneof("kind"))


async def failing(rpc: Any) -> GoverseError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rpc
    error = caught.value
    made = error_of(error.code(), error.details() or "", error.trailing_metadata())
    assert error.code().name == made.grpc_status
    return made


async def register(stub: Any) -> tuple[str, Any]:
    stream = stub.Register(empty_pb2.Empty())
    first = pb.RegisterResponse()
    assert (await stream.read()).Unpack(first)
    return first.client_id, stream


async def test_errors_say_code_and_execution_in_a_trailer() -> None:
    async with gate() as running, connected(running) as stub:
        error = await failing(stub.CallObject(a_call("refuse", code="no_money"), timeout=10))
        assert isinstance(error, ApplicationError)
        assert (error.code, error.details) == ("no_money", {"value": 0})
        assert error.executed is Executed.YES
        error = await failing(stub.CallObject(a_call("fail"), timeout=10))
        assert isinstance(error, ObjectFailed) and "inside" not in error.message
        error = await failing(stub.CallObject(a_call("add", amount=1.5), timeout=10))
        assert isinstance(error, InvalidArgument) and error.details == {"path": "amount"}
        assert error.executed is Executed.NO


async def test_bytes_that_are_no_request_are_the_clients_fault() -> None:
    async with gate() as running:
        async with grpc.aio.insecure_channel(running.listener.address) as channel:
            for method in ("CallObject", "CreateObject", "DeleteObject", "ReliableCallObject"):
                for raw in (b"\xff", b"\x12\x02\xff\xff"):  # no message; a string that is none
                    rpc = channel.unary_unary(f"/gate.GateService/{method}")
                    assert isinstance(await failing(rpc(raw, timeout=10)), InvalidArgument), method


async def test_L30_a_client_id_is_good_on_its_own_connection_and_while_its_stream_lives() -> None:
    async with gate() as running, connected(running) as stub, connected(running) as other:
        mine, stream = await register(stub)
        second, _ = await register(stub)
        theirs, their_stream = await register(other)
        assert value(await stub.CallObject(a_call("client", mine), timeout=10)) == mine
        assert value(await stub.CallObject(a_call("client", second), timeout=10)) == second
        assert value(await stub.CallObject(a_call("client"), timeout=10)) == ""
        for client_id in (theirs, "0" * 32, mine.upper() + " "):
            error = await failing(stub.CallObject(a_call("add", client_id), timeout=10))
            assert isinstance(error, PermissionDenied) and error.executed is Executed.NO
        stream.cancel()
        await eventually(lambda: mine not in running.clients)
        error = await failing(stub.CallObject(a_call("add", mine), timeout=10))
        assert isinstance(error, PermissionDenied)
        assert value(await stub.CallObject(a_call("add"), timeout=10)) == 1
        their_stream.cancel()


METHODS: list[tuple[str, Any]] = [
    ("CallObject", lambda **over: pb.CallObjectRequest(**{**ADD, **over})),
    ("CreateObject", lambda **over: pb.CreateObjectRequest(**{**NEW, **over})),
    ("DeleteObject", lambda **over: pb.DeleteObjectRequest(**{**NEW, **over})),
    (
        "ReliableCallObject",
        lambda **over: pb.ReliableCallObjectRequest(**{**ADD, "call_id": "r", **over}),
    ),
]
NEW = {"type": "Counter", "id": "a"}
ADD = {**NEW, "method": "add"}


@pytest.mark.parametrize(("method", "request_of"), METHODS)
async def test_L31_every_method_goes_through_the_same_checks(method: str, request_of: Any) -> None:
    async with gate() as running, connected(running) as stub:
        rpc = getattr(stub, method)
        for wrong in ({"type": "no type"}, {"id": ""}, {"id": "a\0"}, {"id": "x" * 513}):
            error = await failing(rpc(request_of(**wrong), timeout=10))
            assert isinstance(error, InvalidArgument), wrong
            assert list(wrong) == [error.details["field"]]
        await running.service.close(0)
        error = await failing(rpc(request_of(), timeout=10))
        assert isinstance(error, Unavailable) and "stopping" in error.message


class Saved(goverse.Object, durability="acknowledged"):
    """What is called reliably."""

    value: int = 0

    @goverse.method
    async def add(self, amount: int = 1) -> int:
        self.value += amount
        return self.value

    @goverse.method
    async def decline(self) -> None:
        self.value += 1000
        raise goverse.ApplicationError("declined", "on purpose")


async def test_a_reliable_call_has_one_outcome_however_often_it_is_sent() -> None:
    kept = MemoryStore(Runtime())
    async with (
        real_gate(Saved, kept=kept) as running,
        grpc.aio.insecure_channel(running.gate.address, options=OPTIONS) as channel,
    ):
        stub: Any = GateServiceStub(channel)

        def request(method: str, call_id: str, **arguments: Any) -> Any:
            struct = struct_pb2.Struct()
            struct.update(arguments)
            return pb.ReliableCallObjectRequest(
                call_id=call_id, type="Saved", id="a", method=method, request=packed(struct)
            )

        for _ in range(3):
            told = await stub.ReliableCallObject(request("add", "r1", amount=5.0), timeout=10)
            assert (told.status, told.error, value(told)) == ("SUCCESS", "", 5)
        for _ in range(2):
            told = await stub.ReliableCallObject(request("decline", "r2"), timeout=10)
            assert (told.status, told.error) == ("FAILED", "on purpose")
        error = await failing(stub.ReliableCallObject(request("add", "r1", amount=6.0), timeout=10))
        assert isinstance(error, Conflict)
        error = await failing(stub.ReliableCallObject(request("add", "", amount=6.0), timeout=10))
        assert isinstance(error, InvalidArgument) and error.details == {"field": "call_id"}
        told = await stub.ReliableCallObject(request("add", "r3"), timeout=10)
        assert (told.status, value(told)) == ("SUCCESS", 6)


async def test_the_deadline_of_the_caller_is_the_deadline_of_the_call() -> None:
    async with gate() as running, connected(running) as stub:
        assert 3 < value(await stub.CallObject(a_call("remaining_s"), timeout=5)) <= 5
        error = await failing(stub.CallObject(a_call("wait"), timeout=0.3))
        assert isinstance(error, DeadlineExceeded)
        # The turn has ended too: the object answers again.
        assert value(await stub.CallObject(a_call("add"), timeout=10)) == 1
    async with gate(default_call_timeout_s=0.2) as running, connected(running) as stub:
        error = await failing(stub.CallObject(a_call("wait"), timeout=30))
        assert isinstance(error, DeadlineExceeded) and error.executed is Executed.UNKNOWN


async def test_a_cancelled_call_ends_its_turn() -> None:
    async with gate() as running, connected(running) as stub:
        call = stub.CallObject(a_call("wait"), timeout=30)
        await eventually(lambda: running.ingress.snapshot().calls == 1)
        call.cancel()
        await at_rest(running)
        assert value(await stub.CallObject(a_call("add"), timeout=10)) == 1


async def test_a_connection_has_a_largest_number_of_calls_and_disturbs_no_other() -> None:
    limits = {"max_session_calls": 2, "max_inflight_calls": 4}
    async with gate(**limits) as running, connected(running) as stub, connected(running) as other:
        waiting = [stub.CallObject(a_call("wait"), timeout=30) for _ in range(2)]
        await eventually(lambda: running.ingress.snapshot().calls == 2)
        error = await failing(stub.CallObject(a_call("add", id="b"), timeout=10))
        assert isinstance(error, RateLimited) and error.executed is Executed.NO
        assert value(await other.CallObject(a_call("add", id="b"), timeout=10)) == 1
        # A registered client has calls of its own.
        client_id, stream = await register(stub)
        named = stub.CallObject(a_call("wait", client_id), timeout=30)
        fourth = other.CallObject(a_call("wait"), timeout=30)
        await eventually(lambda: running.ingress.snapshot().calls == 4)
        error = await failing(other.CallObject(a_call("add", id="b"), timeout=10))
        assert isinstance(error, Overloaded) and error.executed is Executed.NO
        for call in (*waiting, named, fourth, stream):
            call.cancel()


async def test_what_is_held_has_a_limit() -> None:
    async with gate(max_inflight_bytes=3 * MIB) as running, connected(running) as stub:
        waiting = stub.CallObject(a_call("wait", text="x" * (2 * MIB)), timeout=30)
        assert isinstance(await failing(waiting), InvalidArgument)  # wait() has no such argument
        await eventually(lambda: running.service.snapshot().held_bytes == 0)
        error = await failing(stub.CallObject(a_call("echo", text="x" * (4 * MIB)), timeout=30))
        assert isinstance(error, Overloaded)
        assert value(await stub.CallObject(a_call("echo", text="x"), timeout=30)) == "x"


async def test_large_arguments_and_results_fit_and_larger_ones_are_refused() -> None:
    async with gate(max_payload_bytes=8 * MIB) as running, connected(running) as stub:
        text = "x" * (7 * MIB)
        assert value(await stub.CallObject(a_call("echo", text=text), timeout=30)) == text
        error = await failing(stub.CallObject(a_call("echo", text="x" * (8 * MIB)), timeout=30))
        assert isinstance(error, TooLarge) and error.executed is Executed.NO


async def test_there_is_a_largest_number_of_streams() -> None:
    async with gate(max_sessions=2) as running, connected(running) as stub:
        streams = [(await register(stub))[1] for _ in range(2)]
        third = stub.Register(empty_pb2.Empty())
        assert isinstance(await failing(third.read()), Overloaded)
        streams[0].cancel()
        await eventually(lambda: running.clients.snapshot().clients == 1)
        streams.append((await register(stub))[1])
        for stream in streams:
            stream.cancel()


def a_message(value: struct_pb2.Value) -> Pushed:
    return Pushed("google.protobuf.Value", b"", packed(value).SerializeToString())


async def test_what_is_pushed_arrives_in_order() -> None:
    async with gate() as running, connected(running) as stub:
        client_id, stream = await register(stub)
        for number in range(100):
            message = a_message(struct_pb2.Value(number_value=number))
            assert running.clients.put(client_id, message) is None
        for number in range(100):
            made = struct_pb2.Value()
            assert (await stream.read()).Unpack(made) and made.number_value == number
        await eventually(lambda: outcomes(running.metrics) == {"delivered": 100})
        running.clients.put(client_id, Pushed("Note", b'{"number": 1}'))
        fields = struct_pb2.Struct()
        assert (await stream.read()).Unpack(fields) and dict(fields) == {"number": 1}
        stream.cancel()


async def test_L24_a_client_that_does_not_read_holds_up_nobody_else() -> None:
    async with gate() as running, connected(running) as stub, connected(running) as other:
        slow_id, slow = await register(stub)
        good_id, good = await register(other)
        big = a_message(struct_pb2.Value(string_value="x" * 100_000))

        def fill() -> bool:
            while running.clients.put(slow_id, big) is None:
                pass
            snapshot = next(c for c in running.clients.clients() if c.client_id == slow_id)
            return snapshot.waiting_bytes > 3 * MIB

        await eventually(fill)
        assert running.clients.put(good_id, big) is None
        assert len((await good.read()).value) > 100_000
        assert value(await stub.CallObject(a_call("add", slow_id), timeout=10)) == 1
        slow.cancel()
        good.cancel()
        await at_rest(running)
        assert running.clients.put(slow_id, big) is Outcome.UNKNOWN_CLIENT


async def test_L19_a_client_that_vanishes_takes_its_stream_with_it() -> None:
    async with gate() as running:
        async with connected(running) as stub:
            client_id, stream = await register(stub)
        # The connection is closed; what is pushed at the same moment is not an accident.
        running.clients.put(client_id, Pushed("Note", b"{}"))
        await eventually(lambda: running.clients.snapshot().clients == 0)
        assert running.clients.put(client_id, Pushed("Note", b"{}")) is Outcome.UNKNOWN_CLIENT
        counted = outcomes(running.metrics)
        assert sum(counted.values()) == 2, counted
        del stream


async def test_L19_a_stop_writes_what_waits_before_it_ends_streams() -> None:
    async with gate() as running, connected(running) as stub:
        client_id, stream = await register(stub)
        for number in range(50):
            running.clients.put(client_id, a_message(struct_pb2.Value(number_value=number)))
        running.clients.close("this gate is stopping")
        for number in range(50):
            made = struct_pb2.Value()
            assert (await stream.read()).Unpack(made) and made.number_value == number
        assert isinstance(await failing(stream.read()), Unavailable)


async def test_L19_a_stop_lets_calls_end_and_then_ends_streams() -> None:
    async with gate() as running, connected(running) as stub:
        _, stream = await register(stub)
        waiting = stub.CallObject(a_call("wait"), timeout=30)
        await eventually(lambda: running.ingress.snapshot().calls == 1)
        running.clients.close("this gate is stopping")
        closing = asyncio.create_task(running.service.close(30))
        await eventually(lambda: running.service.snapshot().calls == 1 and not closing.done())
        waiting.cancel()
        await asyncio.wait_for(closing, 5)
        assert isinstance(await failing(stream.read()), Unavailable)
