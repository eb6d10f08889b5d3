"""Event streams over real sockets: identity, resuming, slow and vanishing readers, the stop."""

from __future__ import annotations

import asyncio
import base64
import json
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
import websockets
from google.protobuf import any_pb2, struct_pb2

from goverse.config.settings import LimitSettings
from goverse_gate.app import Gate
from goverse_gate.buffer import Message
from goverse_gate.events import EventStream as EventStreams
from goverse_gate.events import OwnEvents
from goverse_gate.http_app import HttpApp, HttpLimits
from goverse_gate.http_front import Doors
from goverse_gate.http_server import open_http
from goverse_gate.websocket import WebSocketEvents
from tests.support.event_stream import EventStream
from tests.support.eventually import eventually
from tests.support.room import World, outcomes

PAGE = "http://page.example"


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    async with world.running_node():
        yield world
        await eventually(lambda: world.node.snapshot().pushes.at_rest)


@pytest.fixture
async def stack(world: World) -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def call(gate: Gate, method: str, room: str = "a", token: str = "", **arguments: Any) -> Any:
    headers = {"goverse-client-token": token} if token else {}
    url = f"http://{gate.http_address}/v1/objects/Room/{room}/{method}"
    async with httpx.AsyncClient(verify=False) as http:
        answer = await http.post(url, content=json.dumps(arguments), headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def opened(gate: Gate, **headers: str) -> EventStream:
    stream = await EventStream.open(gate.http_address, **headers)
    assert stream.status == 200
    await stream.register()
    return stream


async def at_rest(gate: Gate) -> None:
    await eventually(lambda: gate.snapshot().clients.clients == 0)
    snapshot = gate.snapshot()
    assert (snapshot.clients.waiting, snapshot.clients.bytes) == (0, 0)
    assert snapshot.ingress.doors == 1  # that of calls without a client
    assert snapshot.http is not None and snapshot.http.requests == 0


async def test_a_stream_and_calls_with_its_token_are_one_client(
    world: World, stack: AsyncExitStack
) -> None:
    gate = await stack.enter_async_context(world.gate(resume_grace_s=0.05))
    stream = await opened(gate)
    assert stream.headers["content-type"] == "text/event-stream"
    assert await call(gate, "join", token=stream.token) == stream.client_id
    await call(gate, "say", text="hello")
    event = await stream.next()
    assert event.data == {"type": "Note", "message": {"number": 1, "text": "hello"}}
    assert event.id == f"{stream.token}.1"
    stream.abort()
    await at_rest(gate)
    assert outcomes(world.metrics["g1"]) == {"delivered": 1}


async def test_L30_a_client_id_counts_only_with_the_token_of_its_own_stream(
    world: World, stack: AsyncExitStack
) -> None:
    gate = await stack.enter_async_context(world.gate(resume_grace_s=0.05))
    mine, theirs = await opened(gate), await opened(gate)
    url = f"http://{gate.http_address}/v1/objects/Room/a/join"
    async with httpx.AsyncClient(verify=False) as http:
        for headers in (
            {"goverse-client-id": theirs.client_id},
            {"goverse-client-id": theirs.client_id, "goverse-client-token": mine.token},
            {"goverse-client-token": theirs.client_id},
            {"goverse-client-token": ""},
            {"goverse-client-id": ""},
        ):
            answer = await http.post(url, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (403, "permission_denied")
        headers = {"goverse-client-id": mine.client_id, "goverse-client-token": mine.token}
        assert (await http.post(url, headers=headers)).json() == mine.client_id
        mine.abort()
        await eventually(lambda: gate.snapshot().clients.clients == 1)
        answer = await http.post(url, headers=headers)
        assert answer.status_code == 403, "the stream is gone, and its token with it"
    theirs.abort()


async def test_L31_a_stream_obeys_the_rules_of_calls(world: World, stack: AsyncExitStack) -> None:
    limits = LimitSettings(max_sessions=2)
    gate = await stack.enter_async_context(world.gate(limits=limits, allowed_origins=(PAGE,)))
    url = f"http://{gate.http_address}/v1/events"
    async with httpx.AsyncClient(verify=False) as http:
        answer = await http.get(url, headers={"origin": "http://evil.example"})
        assert (answer.status_code, answer.json()["code"]) == (403, "permission_denied")
        answer = await http.post(url)
        assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
        answer = await http.get(url, params={"user": "x"})
        assert (answer.status_code, answer.json()["details"]) == (400, {"field": "user"})
    with pytest.raises(websockets.InvalidStatus) as refused:
        await websockets.connect(
            f"ws://{gate.http_address}/v1/events", origin="http://evil.example"
        )  # type: ignore[arg-type]
    assert refused.value.response.status_code == 403
    assert gate.snapshot().clients.clients == 0
    allowed = await opened(gate, origin=PAGE)
    assert allowed.headers["access-control-allow-origin"] == PAGE
    other = await opened(gate)
    third = await EventStream.open(gate.http_address)
    assert third.status == 503
    allowed.abort()
    await eventually(lambda: gate.snapshot().clients.away == 1)
    third = await opened(gate)  # whoever is away makes room
    assert gate.snapshot().clients.clients == 2
    for stream in (other, third):
        stream.abort()


async def test_L25_who_comes_back_in_time_is_the_same_client_and_misses_nothing(
    world: World, stack: AsyncExitStack
) -> None:
    gate = await stack.enter_async_context(world.gate())
    first = await opened(gate)
    await call(gate, "join", token=first.token)
    await call(gate, "burst", count=3)
    assert await first.numbers(2) == [0, 1]
    first.abort()
    await eventually(lambda: gate.snapshot().clients.away == 1)
    await call(gate, "say", text="while it was away")
    again = await EventStream.open(gate.http_address, last_event_id=first.last_id)
    told = await again.register()
    assert told == {"client_id": first.client_id, "token": first.token, "resumed": True}
    assert await again.numbers(2) == [2, 1]
    await call(gate, "say")
    assert await again.numbers(1) == [2]
    assert outcomes(world.metrics["g1"]) == {"delivered": 5}, "what is sent again counts once"
    again.abort()


async def impatient(gate: Gate, stack: AsyncExitStack) -> str:
    """The gate's event streams on a listener that waits for nothing; its address."""
    limits = HttpLimits(
        write_timeout_s=0.1,
        keep_alive_timeout_s=0.05,
        head_timeout_s=0.05,
        body_timeout_s=0.05,
        heartbeat_s=0.02,
    )
    app = HttpApp(
        Doors(gate.ingress.door(client_id="", max_calls=1)),
        limits,
        fronts={b"/v1/events": EventStreams(gate.clients, 0.02, random.Random(1), OwnEvents())},
        websockets={b"/v1/events": WebSocketEvents(gate.clients, 0.02)},
    )
    server = await open_http(app, limits, "127.0.0.1:0")
    stack.push_async_callback(server.close, 0.0)
    return server.address


async def test_L25_a_stream_outlives_the_timeouts_of_its_server(
    world: World, stack: AsyncExitStack
) -> None:
    gate = await stack.enter_async_context(world.gate())
    address = await impatient(gate, stack)
    stream = await EventStream.open(address)
    await stream.register()
    await call(gate, "join", token=stream.token)
    async with websockets.connect(f"ws://{address}/v1/events") as socket:
        await call(gate, "join", token=json.loads(await socket.recv())["token"])
        for _ in range(20):
            await stream.next("heartbeat")
            assert json.loads(await socket.recv()) == {"event": "heartbeat"}
        await call(gate, "say")
        assert await stream.numbers(1) == [1]
        while (event := json.loads(await socket.recv()))["event"] == "heartbeat":
            pass
        assert event["message"]["number"] == 1
    stream.abort()


async def test_L25_an_unknown_token_makes_a_new_client(world: World, stack: AsyncExitStack) -> None:
    gate = await stack.enter_async_context(world.gate(resume_grace_s=0.05))
    first = await opened(gate)
    first.abort()
    await at_rest(gate)
    for last in (first.last_id, "0" * 32 + ".7", "17", "x" * 100):
        again = await EventStream.open(gate.http_address, last_event_id=last)
        told = await again.register()
        assert told["resumed"] is False and told["client_id"] != first.client_id
        again.abort()


async def test_a_client_that_connects_twice_moves_to_the_second_stream(
    world: World, stack: AsyncExitStack
) -> None:
    gate = await stack.enter_async_context(world.gate())
    first = await opened(gate)
    await call(gate, "join", token=first.token)
    second = await EventStream.open(gate.http_address, f"/v1/events?last_event_id={first.last_id}")
    assert (await second.register())["resumed"] is True
    with pytest.raises(EOFError):
        await first.next()
    await call(gate, "say")
    assert await second.numbers(1) == [1]
    second.abort()


async def test_L24_L26_a_reader_that_stalls_loses_messages_and_holds_up_nobody(
    world: World, stack: AsyncExitStack
) -> None:
    limits = LimitSettings(max_push_messages=20, max_push_queue_bytes=2 * 1024 * 1024)
    gate = await stack.enter_async_context(world.gate(limits=limits))
    stalls = await EventStream.open(gate.http_address, limit=1024)
    fast = await opened(gate)
    await call(gate, "join", token=fast.token)
    await stalls.register()
    await call(gate, "join", room="b", token=stalls.token)
    text = "x" * 60_000
    sent = 0
    while not outcomes(world.metrics["g1"]).get("buffer_full"):
        await call(gate, "say", room="b", text=text)
        sent += 1
        assert sent < 2_000
    for number in range(1, 6):
        await call(gate, "say")
        assert await asyncio.wait_for(fast.numbers(1), 2) == [number]
    assert gate.snapshot().clients.waiting <= 20
    seen, lost = [], 0
    while not seen or seen[-1] < sent - 1:
        event = await stalls.next()
        if event.name == "lost":
            lost += event.data["count"]
            break
        seen.append(event.data["message"]["number"])
    counted = outcomes(world.metrics["g1"])
    assert seen == list(range(1, len(seen) + 1))
    assert (lost or 1) == counted["buffer_full"] == 1
    await eventually(lambda: sum(outcomes(world.metrics["g1"]).values()) == sent + 5)
    for stream in (stalls, fast):
        stream.abort()


UPGRADE = {
    "connection": "Upgrade",
    "upgrade": "websocket",
    "sec_websocket_version": "13",
    "sec_websocket_key": "dGhlIHNhbXBsZSBub25jZQ==",
}


@pytest.mark.parametrize("headers", [{}, UPGRADE], ids=["events", "websocket"])
async def test_L24_a_reader_that_reads_nothing_at_all_is_cut_off(
    world: World, stack: AsyncExitStack, headers: dict[str, str]
) -> None:
    gate = await stack.enter_async_context(world.gate())
    address = await impatient(gate, stack)
    stalls = await EventStream.open(address, limit=1024, **headers)
    assert stalls.status == (101 if headers else 200)
    message = Message("Note", b'"%s"' % (b"x" * 60_000))

    def cut() -> bool:
        gate.clients.put(gate.clients.ids()[0], message)
        return gate.snapshot().clients.away == 1

    await eventually(cut)
    stalls.abort()


async def test_L26_what_waits_for_a_client_that_never_returns_is_not_delivered(
    world: World, stack: AsyncExitStack
) -> None:
    gate = await stack.enter_async_context(world.gate(resume_grace_s=0.2))
    stream = await opened(gate)
    await call(gate, "join", token=stream.token)
    stream.abort()
    await eventually(lambda: gate.snapshot().clients.away == 1)
    await call(gate, "burst", count=7)
    await at_rest(gate)
    await eventually(lambda: outcomes(world.metrics["g1"]) == {"disconnected": 7})


async def test_L19_a_gate_stops_at_once_while_streams_are_open(world: World) -> None:
    async with AsyncExitStack() as stack:
        gate = await stack.enter_async_context(world.gate())
        streams = [await opened(gate) for _ in range(5)]
        socket = await websockets.connect(f"ws://{gate.http_address}/v1/events")
        await socket.recv()
        compatible = await EventStream.open(gate.http_address, "/api/v1/events/stream")
        await compatible.register()
        gone = await opened(gate)
        gone.abort()
        await asyncio.wait_for(stack.aclose(), 1.5)
        for stream in streams:
            told = await stream.next()
            assert told.name == "reconnect" and "connect again" in told.data["reason"]
        for stream in (*streams, compatible):
            with pytest.raises(EOFError):
                await stream.next()
        with pytest.raises(websockets.ConnectionClosed):
            await socket.recv()
        assert socket.close_code in (1001, 1012)
        assert "connect again" in (socket.close_reason or "")
        snapshot = gate.snapshot().clients
        assert (snapshot.clients, snapshot.away) == (0, 0)


async def test_L19_pushes_that_race_disconnects_break_nothing(
    world: World, stack: AsyncExitStack
) -> None:
    gate = await stack.enter_async_context(world.gate(resume_grace_s=0.01))
    stays = await opened(gate)
    await call(gate, "join", token=stays.token)
    told = 0
    for _ in range(10):
        leavers = [await opened(gate) for _ in range(4)]
        await asyncio.gather(*(call(gate, "join", token=leaver.token) for leaver in leavers))
        saying = asyncio.ensure_future(call(gate, "say"))
        for leaver in leavers:
            leaver.abort()
        told = await saying
    assert await stays.numbers(told) == list(range(1, told + 1))
    await eventually(lambda: gate.snapshot().clients.clients == 1)
    counted = outcomes(world.metrics["g1"])
    pushed = sum(1 + 4 * round for round in range(1, told + 1))
    assert sum(counted.values()) == pushed, counted
    stays.abort()


async def test_the_compatible_stream_has_its_own_form(world: World, stack: AsyncExitStack) -> None:
    gate = await stack.enter_async_context(world.gate(event_heartbeat_s=0.05))
    stream = await EventStream.open(gate.http_address, "/api/v1/events/stream")
    assert list(await stream.register()) == ["clientId"]
    assert (await stream.next("heartbeat")).data == {}
    await call(gate, "tell", client=stream.client_id, text="hello")
    event = await stream.next()
    packed = any_pb2.Any.FromString(base64.b64decode(event.data["payload"]))
    assert event.data["type"] == packed.type_url == "type.googleapis.com/google.protobuf.Struct"
    fields = struct_pb2.Struct()
    assert packed.Unpack(fields)
    assert dict(fields) == {"number": 0, "text": "hello"}
    stream.abort()
    await at_rest(gate)


async def test_a_websocket_carries_the_same_events(world: World, stack: AsyncExitStack) -> None:
    gate = await stack.enter_async_context(world.gate(event_heartbeat_s=0.05))
    url = f"ws://{gate.http_address}/v1/events"
    async with websockets.connect(url) as socket:
        registered = json.loads(await socket.recv())
        assert registered["event"] == "register" and registered["resumed"] is False
        token = registered["token"]
        assert await call(gate, "join", token=token) == registered["client_id"]
        assert json.loads(await socket.recv()) == {"event": "heartbeat"}
        await call(gate, "say", text="hello")
        while (event := json.loads(await socket.recv()))["event"] == "heartbeat":
            pass
        assert event == {
            "event": "message",
            "id": f"{token}.1",
            "type": "Note",
            "message": {"number": 1, "text": "hello"},
        }
    await eventually(lambda: gate.snapshot().clients.away == 1)
    await call(gate, "say", text="away")
    async with websockets.connect(f"{url}?last_event_id={event['id']}") as socket:
        assert json.loads(await socket.recv())["resumed"] is True
        assert json.loads(await socket.recv())["message"]["text"] == "away"
        await socket.send("hello?")
        with pytest.raises(websockets.ConnectionClosed):
            while True:
                await socket.recv()
        assert socket.close_code == 1003
    with pytest.raises(websockets.InvalidStatus) as refused:
        await websockets.connect(f"ws://{gate.http_address}/v1/nothing")
    assert refused.value.response.status_code == 404
