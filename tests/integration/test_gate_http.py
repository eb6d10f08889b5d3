"""The HTTP listener with real sockets: malformed, slow and vanishing clients, and the stop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from goverse.call import Call, Codec, Reply
from goverse_gate.http_app import HttpApp, HttpLimits
from goverse_gate.http_front import Doors
from goverse_gate.http_server import HttpServer, open_http
from tests.support.eventually import eventually

POST = b"POST /v1/objects/Counter/a/add HTTP/1.1\r\nHost: gate\r\n"
CALL = POST + b"Content-Length: 2\r\n\r\n{}"


class SlowDoor:
    """Echoes; calls of method ``wait`` wait until they are let go, ``big`` answers a lot."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.waiting = 0
        self.go = asyncio.Event()

    async def invoke(self, call: Call) -> Reply:
        self.calls.append(call)
        if call.method == "wait":
            self.waiting += 1
            try:
                await self.go.wait()
            finally:
                self.waiting -= 1
        if call.method == "big":
            return Reply(b"x" * 30_000_000, Codec.JSON)
        return Reply(call.payload, Codec.JSON)


class WatchedApp(HttpApp):
    """Counts the requests that come as ASGI."""

    asgi_requests = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asgi_requests += 1
        await super().__call__(scope, receive, send)


class Http:
    """A listener and the raw connections that a test makes to it."""

    def __init__(self, door: SlowDoor, app: WatchedApp, server: HttpServer) -> None:
        self.door = door
        self.app = app
        self.server = server
        self._writers: list[asyncio.StreamWriter] = []

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, _, port = self.server.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        self._writers.append(writer)
        return reader, writer

    async def exchange(self, data: bytes) -> tuple[int, bytes]:
        """Send ``data``; status and body of the first answer."""
        reader, writer = await self.connect()
        writer.write(data)
        return await read_answer(reader)

    async def close(self, timeout_s: float = 5.0) -> None:
        for writer in self._writers:
            writer.transport.abort()
        await self.server.close(timeout_s)


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
    body = await asyncio.wait_for(reader.readexactly(int(headers["content-length"])), 10)
    return int(lines[0].split()[1]), body


async def read_raw(reader: asyncio.StreamReader) -> bytes:
    """The first answer as it came, without its date and without a 100 before it."""
    head = b" 100 "
    while b" 100 " in head:
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    found = re.search(rb"content-length: (\d+)", head)
    assert found is not None
    body = await asyncio.wait_for(reader.readexactly(int(found[1])), 10)
    return re.sub(rb"date: [^\r]*\r\n", b"", head) + body


Open = Callable[..., Awaitable[Http]]


@pytest.fixture
async def opened() -> AsyncIterator[Open]:
    made: list[Http] = []

    async def make(**limits: Any) -> Http:
        chosen = HttpLimits(**limits)
        door = SlowDoor()
        app = WatchedApp(Doors(door), chosen)
        http = Http(door, app, await open_http(app, chosen, "127.0.0.1:0"))
        made.append(http)
        return http

    yield make
    for http in made:
        await http.close()
        at_rest = http.server.snapshot()
        assert (at_rest.connections, at_rest.requests) == (0, 0)
        assert (http.app.snapshot().requests, http.app.snapshot().held_bytes) == (0, 0)
        assert http.door.waiting == 0


async def test_calls_follow_each_other_on_one_connection(opened: Open) -> None:
    http = await opened()
    reader, writer = await http.connect()
    for number in (b"12", b"34"):
        writer.write(POST + b"Content-Length: 2\r\n\r\n" + number)
        assert await read_answer(reader) == (200, number)
    assert http.server.snapshot().connections == 1


ORIGIN = b"Origin: https://app.example\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    "request_bytes",
    [
        CALL,
        CALL.replace(b"/add", b"/nothing%zz"),
        CALL.replace(b"/add", b"/add/more"),
        CALL.replace(b"/add", b"/add?amount=5"),
        CALL.replace(b"/add", b"/add#here"),
        CALL.replace(b"/v1/", b"/v2/"),
        CALL.replace(b"POST", b"PUT"),
        CALL.replace(b"HTTP/1.1", b"HTTP/1.0"),
        CALL.replace(b"Content-Length", b"Connection: close\r\nContent-Length"),
        CALL.replace(b"Content-Length", b"Expect: 100-continue\r\nContent-Length"),
        CALL.replace(b"Content-Length", b"Goverse-Timeout: soon\r\nContent-Length"),
        CALL.replace(b"Content-Length", ORIGIN + b"Content-Length"),
        CALL.replace(b"Content-Length", b"Origin: https://evil.example\r\nContent-Length"),
        POST + b"Content-Length: 11\r\n\r\n" + b"x" * 11,
        POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    ],
)
async def test_a_request_in_pieces_is_answered_as_a_whole_one(
    opened: Open, request_bytes: bytes
) -> None:
    http = await opened(max_body_bytes=10)
    reader, writer = await http.connect()
    writer.write(request_bytes)
    whole = await read_raw(reader)
    calls, http.door.calls = http.door.calls, []
    requests = http.app.asgi_requests
    reader, writer = await http.connect()
    writer.write(request_bytes[:-1])
    await eventually(lambda: http.app.asgi_requests == requests + 1)
    writer.write(request_bytes[-1:])
    assert await read_raw(reader) == whole
    assert [(c.id, c.method, c.payload, c.codec, c.call_id) for c in http.door.calls] == [
        (c.id, c.method, c.payload, c.codec, c.call_id) for c in calls
    ]


async def test_a_whole_call_needs_no_asgi(opened: Open) -> None:
    http = await opened()
    assert await http.exchange(CALL) == (200, b"{}")
    assert http.app.asgi_requests == 0


async def test_a_slow_answer_is_not_taken_for_an_idle_connection(opened: Open) -> None:
    http = await opened(keep_alive_timeout_s=0.05)
    reader, writer = await http.connect()
    writer.write(CALL)  # starts the timer
    assert (await read_answer(reader))[0] == 200
    for request in (CALL, CALL[:-1]):
        slow = request.replace(b"/add", b"/wait")
        http.door.go.clear()
        writer.write(slow)
        await eventually(lambda: http.server.snapshot().requests == 1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.2)
        writer.write(CALL[len(request) :])
        http.door.go.set()
        assert (await read_answer(reader))[0] == 200
    assert await asyncio.wait_for(reader.read(), 10) == b""


async def test_a_short_call_with_an_answer_left_unread_is_cut(opened: Open) -> None:
    http = await opened(write_timeout_s=0.05)
    _, writer = await http.connect()
    writer.write(CALL.replace(b"/add", b"/big"))
    await eventually(lambda: http.door.calls)
    await eventually(lambda: http.server.snapshot().connections == 0)


async def test_an_escaped_slash_stays_part_of_the_id(opened: Open) -> None:
    http = await opened()
    request = CALL.replace(b"/a/", b"/shard%235%2Fx/")
    assert await http.exchange(request) == (200, b"{}")
    assert http.door.calls[0].id == "shard#5/x"


async def test_requests_sent_ahead_are_answered_in_order(opened: Open) -> None:
    http = await opened()
    reader, writer = await http.connect()
    bodies = [b"%02d" % number for number in range(20)]
    writer.write(b"".join(POST + b"Content-Length: 2\r\n\r\n" + body for body in bodies))
    assert [await read_answer(reader) for _ in bodies] == [(200, body) for body in bodies]


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(50),
        b"NONSENSE\r\n\r\n",
        b"POST /\xff\xfe HTTP/1.1\r\nHost: gate\r\n\r\n",
        CALL.replace(b"/a/", b"/\xc3\xbc/"),
        CALL[:-1].replace(b"/a/", b"/\xc3\xbc/"),
        POST + b"Content-Length: x\r\n\r\n",
        POST + b"Content-Length: -5\r\n\r\n",
        POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        POST + b"Bad Header\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"CONNECT gate:80 HTTP/1.1\r\nHost: gate\r\n\r\n",
        b"POST http://[/x HTTP/1.1\r\nHost: gate\r\n\r\n",
    ],
)
async def test_a_malformed_request_is_answered_or_cut(opened: Open, request_bytes: bytes) -> None:
    http = await opened()
    reader, writer = await http.connect()
    writer.write(request_bytes)
    answer = await asyncio.wait_for(reader.read(65_536), 10)
    if answer:
        assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 404", b"HTTP/1.1 405"))
        assert b"application/problem+json" in answer
    assert not http.door.calls
    assert await http.exchange(CALL) == (200, b"{}")


def mutated(source: random.Random, request: bytes) -> bytes:
    """``request`` with some bytes changed, doubled, cut out or put in."""
    data = bytearray(request)
    for _ in range(source.randint(1, 6)):
        at = source.randrange(len(data) + 1)
        kind = source.randrange(4)
        if kind == 0:
            data[at:at] = source.choice(
                [b"\r\n", b"\0", b":", b"%", b"/", b"\xff", b"chunked", b" "]
            )
        elif kind == 1:
            del data[at : at + source.randint(1, 8)]
        elif kind == 2:
            data[at:at] = data[at : at + source.randint(1, 40)]
        else:
            data[at : at + 1] = source.randbytes(1)
    return bytes(data)


async def test_no_bytes_break_the_listener(opened: Open) -> None:
    http = await opened(head_timeout_s=0.2, body_timeout_s=0.2, keep_alive_timeout_s=0.2)
    source = random.Random(1)
    requests = [
        CALL,
        CALL + CALL,
        POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    ]

    async def attempt(data: bytes) -> str:
        reader, writer = await http.connect()
        writer.write(data)
        try:
            answer = await asyncio.wait_for(reader.read(), 10)
        except ConnectionError:
            return "reset"
        assert not answer or answer.startswith(b"HTTP/1.1 "), (data, answer)
        return answer[9:12].decode()

    statuses: list[str] = []
    for _ in range(10):
        batch = [mutated(source, source.choice(requests)) for _ in range(50)]
        statuses += await asyncio.gather(*map(attempt, batch))
    assert {"200", "400"} <= set(statuses)
    assert set(statuses) <= {"", "reset", "200", "400", "404", "405", "408", "413", "501"}
    assert await http.exchange(CALL) == (200, b"{}")


@pytest.mark.parametrize(
    "head",
    [
        POST + b"X: " + b"x" * 5000 + b"\r\n\r\n",
        POST + b"X: y\r\n" * 1000 + b"\r\n",
        b"POST /" + b"x" * 5000 + b" HTTP/1.1\r\n\r\n",
    ],
)
async def test_a_head_above_the_limit_is_refused(opened: Open, head: bytes) -> None:
    http = await opened(max_head_bytes=4096)
    status, body = await http.exchange(head)
    assert (status, json.loads(body)["code"]) == (431, "head_too_large")


async def test_a_head_that_never_ends_is_refused(opened: Open) -> None:
    http = await opened(max_head_bytes=4096)
    reader, writer = await http.connect()
    writer.write(POST + b"X: " + b"x" * 2_000_000)
    answer = b""
    with contextlib.suppress(ConnectionError):  # what we sent and nobody read resets it
        answer = await asyncio.wait_for(reader.read(65_536), 10)
    assert not answer or answer.startswith(b"HTTP/1.1 431")
    await eventually(lambda: http.server.snapshot().connections == 0)


async def test_a_head_after_a_large_body_may_arrive_in_pieces(opened: Open) -> None:
    http = await opened(max_head_bytes=1024)
    reader, writer = await http.connect()
    body = b"x" * 200_000
    writer.write(POST + b"Content-Length: 200000\r\n\r\n" + body + POST[:20])
    assert await read_answer(reader) == (200, body)
    writer.write(POST[20:] + b"Content-Length: 0\r\n\r\n")
    assert (await read_answer(reader))[0] == 200


@pytest.mark.parametrize("sent", [b"", POST, b"\r\n"])
async def test_a_slow_head_is_given_up(opened: Open, sent: bytes) -> None:
    http = await opened(head_timeout_s=0.05)
    reader, writer = await http.connect()
    writer.write(sent)
    answer = await asyncio.wait_for(reader.read(65_536), 10)
    assert not answer or answer.startswith(b"HTTP/1.1 408")
    assert bool(answer) == (sent == POST)


async def test_a_slow_body_is_given_up(opened: Open) -> None:
    http = await opened(body_timeout_s=0.05)
    reader, writer = await http.connect()
    writer.write(POST + b"Content-Length: 100\r\n\r\n{")
    assert (await read_answer(reader))[0] == 408
    assert await asyncio.wait_for(reader.read(), 10) == b""
    assert not http.door.calls


async def test_an_idle_connection_is_ended(opened: Open) -> None:
    http = await opened(keep_alive_timeout_s=0.05)
    reader, writer = await http.connect()
    writer.write(CALL)
    assert (await read_answer(reader))[0] == 200
    assert await asyncio.wait_for(reader.read(), 10) == b""


async def test_connections_have_a_limit(opened: Open) -> None:
    http = await opened(max_connections=1)
    _, first = await http.connect()
    await eventually(lambda: http.server.snapshot().connections == 1)
    reader, _ = await http.connect()
    status, body = await read_answer(reader)
    assert (status, json.loads(body)["code"]) == (503, "overloaded")
    first.transport.abort()
    await eventually(lambda: http.server.snapshot().connections == 0)
    assert await http.exchange(CALL) == (200, b"{}")


async def test_requests_sent_ahead_have_a_limit(opened: Open) -> None:
    http = await opened(max_pipelined=2)
    reader, writer = await http.connect()
    writer.write(CALL.replace(b"/add", b"/wait") * 10)
    assert await asyncio.wait_for(reader.read(), 10) == b""
    await eventually(lambda: http.door.waiting == 0 and http.server.snapshot().requests == 0)


async def test_a_client_that_leaves_its_answer_unread_is_cut(opened: Open) -> None:
    http = await opened(write_timeout_s=0.05)
    _, writer = await http.connect()
    body = b"x" * 30_000_000
    writer.write(POST + b"Content-Length: %d\r\n\r\n" % len(body))
    writer.write(body)
    await eventually(lambda: http.door.calls)
    await eventually(lambda: http.server.snapshot().connections == 0)


@pytest.mark.parametrize("size", [2, 300_000])
async def test_a_client_that_disconnects_cancels_its_call(opened: Open, size: int) -> None:
    http = await opened()
    _, writer = await http.connect()
    request = POST.replace(b"/add", b"/wait") + b"Content-Length: %d\r\n\r\n" % size
    writer.write(request + b"x" * size)
    await eventually(lambda: http.door.waiting == 1)
    writer.close()
    await eventually(lambda: http.door.waiting == 0)
    await eventually(lambda: http.server.snapshot().requests == 0)


async def test_L19_a_stop_ends_idle_connections_and_finishes_requests(opened: Open) -> None:
    http = await opened()
    idle_reader, idle_writer = await http.connect()
    idle_writer.write(CALL)
    await read_answer(idle_reader)
    half_reader, half_writer = await http.connect()
    half_writer.write(POST)
    reader, writer = await http.connect()
    writer.write(CALL.replace(b"/add", b"/wait"))
    await eventually(lambda: http.door.waiting == 1)

    stopping = asyncio.create_task(http.server.close(10))
    assert await asyncio.wait_for(idle_reader.read(), 10) == b""
    assert await asyncio.wait_for(half_reader.read(), 10) == b""
    with pytest.raises(OSError):
        await http.connect()
    assert not stopping.done()
    http.door.go.set()
    assert await read_answer(reader) == (200, b"{}")
    await asyncio.wait_for(stopping, 10)
    assert http.server.snapshot().connections == 0


async def test_L19_a_stop_does_not_wait_longer_than_it_may(opened: Open) -> None:
    http = await opened()
    reader, writer = await http.connect()
    writer.write(CALL.replace(b"/add", b"/wait"))
    slow_reader, slow_writer = await http.connect()
    slow_writer.write(POST + b"Content-Length: 100\r\n\r\n{")
    await eventually(lambda: http.server.snapshot().requests == 2)
    await asyncio.wait_for(http.server.close(0.1), 10)
    for waiting in (reader, slow_reader):
        status, body = await read_answer(waiting)
        assert (status, json.loads(body)["executed"]) == (503, "unknown")
    assert http.door.waiting == 0
    assert http.server.snapshot().connections == 0


async def test_signals_stay_with_the_process(opened: Open) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    http = await opened()
    assert await http.exchange(CALL) == (200, b"{}")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


async def test_an_address_that_is_taken_is_named(opened: Open) -> None:
    http = await opened()
    with pytest.raises(OSError, match=http.server.address):
        await open_http(http.app, HttpLimits(), http.server.address)
    with pytest.raises(OSError, match="host:port"):
        await open_http(http.app, HttpLimits(), "nonsense")
