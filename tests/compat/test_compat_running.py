"""A foreign client against a running gate and node: bytes written by hand from the table, and a
client whose classes are made from it. Nothing here knows our generated code."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest
from google.protobuf import empty_pb2, struct_pb2, wrappers_pb2

import goverse
from goverse.aio.runtime import Runtime
from goverse_gate.app import Gate
from goverse_node.app import Node
from tests.compat import table
from tests.support.eventually import eventually
from tests.support.messages import classes
from tests.support.real_gate import real_gate


class Counter(goverse.Object):
    value: int = 0

    @goverse.method
    async def add(self, amount: int = 1) -> int:
        self.value += amount
        return self.value

    @goverse.method
    async def double(self, number: wrappers_pb2.Int64Value) -> wrappers_pb2.Int64Value:
        return wrappers_pb2.Int64Value(value=2 * number.value)

    @goverse.method
    async def who(self) -> str:
        return goverse.context().client_id

    @goverse.method
    async def tell_me(self) -> None:
        goverse.push(goverse.context().client_id, wrappers_pb2.Int64Value(value=7))

    @goverse.method
    async def refuse(self) -> None:
        raise goverse.ApplicationError("no_money", "none left", {"missing": 3})

    @goverse.method
    async def wait(self) -> None:
        await asyncio.Event().wait()


@dataclass
class Running:
    gate: Gate
    node: Node
    channel: grpc.aio.Channel
    http: httpx.AsyncClient

    async def send(self, method: str, request: bytes, service: str = "gate.GateService") -> bytes:
        answer: bytes = await self.channel.unary_unary(f"/{service}/{method}")(request, timeout=10)
        return answer

    async def call(self, method: str, request: Any, response: Any) -> Any:
        rpc: Any = self.channel.unary_unary(
            f"/gate.GateService/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString,
        )
        return await rpc(request, timeout=10)


@asynccontextmanager
async def running() -> AsyncIterator[Running]:
    async with (
        real_gate(Counter) as real,
        grpc.aio.insecure_channel(real.gate.address) as channel,
        httpx.AsyncClient(base_url=f"http://{real.gate.http_address}") as http,
    ):
        yield Running(real.gate, real.node, channel, http)


STRUCT_URL = b"type.googleapis.com/google.protobuf.Struct"
VALUE_URL = b"type.googleapis.com/google.protobuf.Value"
# A Struct {"amount": 5}: field 1 (an entry) of 19 bytes: key "amount", value { number 5.0 }.
STRUCT = b"\x0a\x13\x0a\x06amount\x12\x09\x11\x00\x00\x00\x00\x00\x00\x14\x40"
# A Value { number 5.0 }.
FIVE = b"\x11\x00\x00\x00\x00\x00\x00\x14\x40"
PACKED_STRUCT = b"\x0a\x2a" + STRUCT_URL + b"\x12\x15" + STRUCT
PACKED_FIVE = b"\x0a\x29" + VALUE_URL + b"\x12\x09" + FIVE

CREATE = (b"\x0a\x07Counter\x12\x05first", b"\x0a\x05first")
#         type "Counter", id "first"        id "first"
CALL = (
    # type "Counter", id "first", method "add", request (67 bytes)
    b"\x12\x07Counter\x1a\x05first\x22\x03add\x2a\x43" + PACKED_STRUCT,
    # response (54 bytes)
    b"\x0a\x36" + PACKED_FIVE,
)
DELETE = (b"\x0a\x05first\x12\x07Counter", b"")
#         id "first", type "Counter"


async def test_bytes_written_by_hand_are_understood_and_answered_to_the_byte() -> None:
    async with running() as run:
        for method, (request, response) in (
            ("CreateObject", CREATE),
            ("CallObject", CALL),
            ("DeleteObject", DELETE),
            ("DeleteObject", DELETE),
            ("CallObject", CALL),
        ):
            assert await run.send(method, request) == response, method


async def test_what_an_object_pushes_comes_on_the_register_stream() -> None:
    async with running() as run:
        stream = run.channel.unary_stream("/gate.GateService/Register")(b"")
        client_id = (await stream.read())[-48:]
        await run.send(
            "CallObject", b"\x0a\x30" + client_id + b"\x12\x07Counter\x1a\x01a\x22\x07tell_me"
        )
        url = b"type.googleapis.com/google.protobuf.Int64Value"
        assert await stream.read() == b"\x0a\x2e" + url + b"\x12\x02\x08\x07"
        stream.cancel()


async def test_register_says_who_the_client_is_and_the_id_is_its_connections() -> None:
    async with running() as run:
        stream = run.channel.unary_stream("/gate.GateService/Register")(b"")
        first = await stream.read()
        url = b"type.googleapis.com/gate.RegisterResponse"
        head = b"\x0a\x29" + url + b"\x12\x32\x0a\x30"
        assert first[: len(head)] == head and len(first) == len(head) + 48
        client_id = first[len(head) :]
        request = b"\x0a\x30" + client_id + b"\x12\x07Counter\x1a\x01a\x22\x03who"
        answer = await run.send("CallObject", request)
        assert client_id in answer
        async with grpc.aio.insecure_channel(
            run.gate.address, options=[("grpc.use_local_subchannel_pool", 1)]
        ) as other:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await other.unary_unary("/gate.GateService/CallObject")(request, timeout=10)
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        stream.cancel()
        await eventually(lambda: run.gate.snapshot().clients.clients == 0)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await run.send("CallObject", request)
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_client_made_from_the_table() -> None:
    made = dict(
        zip(
            table.GATE_MESSAGES,
            classes(table.GATE_PACKAGE, table.GATE_MESSAGES),
            strict=True,
        )
    )
    call, answer = made["CallObjectRequest"], made["CallObjectResponse"]

    def a_call(method: str, arguments: Any = None, **fields: str) -> Any:
        request = call(type="Counter", id="a", method=method)
        for name, value in fields.items():
            setattr(request, name, value)
        if arguments is not None:
            # Its Any is another class than ours.
            request.request.type_url = f"type.googleapis.com/{arguments.DESCRIPTOR.full_name}"
            request.request.value = arguments.SerializeToString()
        return request

    async with running() as run:
        request = a_call("double", wrappers_pb2.Int64Value(value=2**60))
        response = await run.call("CallObject", request, answer)
        assert response.response.type_url == "type.googleapis.com/google.protobuf.Int64Value"
        value = wrappers_pb2.Int64Value.FromString(response.response.value)
        assert value.value == 2**61
        arguments = struct_pb2.Struct()
        arguments.update({"amount": 2})
        response = await run.call("CallObject", a_call("add", arguments), answer)
        assert struct_pb2.Value.FromString(response.response.value).number_value == 2
        # An object is created once, and deleted as often as one likes.
        create = made["CreateObjectRequest"](type="Counter", id="b")
        response = await run.call("CreateObject", create, made["CreateObjectResponse"])
        assert response.id == "b"
        for method, request, code in (
            ("CreateObject", create, "ALREADY_EXISTS"),
            ("CallObject", a_call("refuse"), "ABORTED"),
            ("CallObject", a_call("none"), "NOT_FOUND"),
            ("CallObject", a_call("none", type="None"), "NOT_FOUND"),
            ("CallObject", a_call("add", id=""), "INVALID_ARGUMENT"),
            ("CallObject", a_call("add", call()), "INVALID_ARGUMENT"),
            ("CallObject", a_call("add", client_id="x"), "PERMISSION_DENIED"),
            (
                "ReliableCallObject",
                made["ReliableCallObjectRequest"](
                    call_id="r1", type="Counter", id="a", method="add"
                ),
                "FAILED_PRECONDITION",
            ),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await run.call(method, request, empty_pb2.Empty)
            assert caught.value.code().name == code, method


@pytest.mark.parametrize(
    ("path", "body", "status", "answer"),
    [
        ("create/Counter/h", b"", 200, b'{"id":"h"}'),
        (
            "call/Counter/h/add",
            b'{"request": "' + base64.b64encode(PACKED_STRUCT) + b'"}',
            200,
            b'{"response":"' + base64.b64encode(PACKED_FIVE) + b'"}',
        ),
        ("delete/Counter/h", b"", 200, b'{"success":true}'),
        (
            "call/Counter/h/refuse",
            b"{}",
            422,
            b'{"error":"none left","code":"no_money"}',
        ),
    ],
)
async def test_http_answers_to_the_byte(path: str, body: bytes, status: int, answer: bytes) -> None:
    async with running() as run:
        response = await run.http.post(f"/api/v1/objects/{path}", content=body)
        assert (response.status_code, response.content) == (status, answer)
        assert response.headers["content-type"] == "application/json"


async def test_a_node_says_what_it_is_and_what_it_hosts() -> None:
    made = dict(
        zip(table.NODE_MESSAGES, classes(table.NODE_PACKAGE, table.NODE_MESSAGES), strict=True)
    )
    async with running() as run, grpc.aio.insecure_channel(run.node.address) as channel:

        async def ask(method: str, kind: Any) -> Any:
            rpc = channel.unary_unary(f"/goverse.Goverse/{method}")
            return kind.FromString(await rpc(b"", timeout=10))

        status = await ask("Status", made["StatusResponse"])
        assert status.advertise_addr == run.node.address
        assert (status.num_objects, status.uptime_seconds >= 0) == (0, True)
        assert len((await ask("ListObjects", made["ListObjectsResponse"])).objects) == 0
        before = Runtime().clock.wall()
        await run.send("CreateObject", CREATE[0])
        assert (await ask("Status", made["StatusResponse"])).num_objects == 1
        (one,) = (await ask("ListObjects", made["ListObjectsResponse"])).objects
        assert (one.type, one.id) == ("Counter", "first")
        assert before - 2 <= one.creation_time <= Runtime().clock.wall() + 1


async def test_L19_a_gate_stops_while_foreign_clients_are_connected() -> None:
    async with running() as run:
        stream = run.channel.unary_stream("/gate.GateService/Register")(b"")
        await stream.read()
        request = b"\x12\x07Counter\x1a\x01a\x22\x04wait"
        waiting = run.channel.unary_unary("/gate.GateService/CallObject")(request, timeout=60)
        await eventually(lambda: run.gate.snapshot().gate_service.calls == 1)
        await asyncio.wait_for(run.gate.drain(0.1), 5)
        assert run.gate.snapshot().clients.clients == 0
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await run.send("CallObject", request)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert not waiting.done()
    with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
        await waiting
