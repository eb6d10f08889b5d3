"""Bytes on an HTTP connection: heads that are broken, cut, repeated, or much too long."""

from __future__ import annotations

import asyncio
import itertools
import re
from typing import Any

import uvicorn
from hypothesis import strategies as st
from uvicorn.server import ServerState

from goverse.call import Call, Codec, Reply
from goverse_gate.http_app import HttpApp, HttpLimits
from goverse_gate.http_connection import HttpConnection, attended
from goverse_gate.http_front import Doors
from tests.fuzz.property import fuzzed
from tests.support.eventually import eventually
from tests.support.virtual import virtual

LIMITS = HttpLimits(max_head_bytes=2_000, max_body_bytes=1_000, max_pipelined=3, head_timeout_s=2)

LINES = [
    b"POST /v1/objects/Counter/a/add HTTP/1.1\r\n",
    b"GET /v1/objects/Counter/a/add HTTP/1.1\r\n",
    b"POST /v1/objects/%C3%28/\x00/%2 HTTP/1.1\r\n",
    b"POST http://[ HTTP/1.1\r\n",
    b"PRI * HTTP/2.0\r\n",
    b"OPTIONS * HTTP/1.0\r\n",
    b"POST / HTTP/9.9\r\n",
]
HEADERS = [
    b"host: gate\r\n",
    b"content-length: 2\r\n",
    b"content-length: 3\r\n",
    b"content-length: -1\r\n",
    b"content-length: 99999999999999999999\r\n",
    b"transfer-encoding: chunked\r\n",
    b"transfer-encoding: gzip, chunked\r\n",
    b"connection: upgrade\r\nupgrade: h2c\r\n",
    b"expect: 100-continue\r\n",
    b"goverse-timeout: 5s\r\n",
    b"goverse-timeout: 1e999s\r\n",
    b"origin: https://app.example\r\n",
    b"content-type: application/json\r\n",
    b": nothing\r\n",
    b" folded: x\r\n",
    b"x: " + b"y" * 1_500 + b"\r\n",
    b"x: \x00\r\n",
]
BODIES = [b"", b"{}", b"2\r\n{}\r\n0\r\n\r\n", b"FFFFFFFFFFFFFFFFF\r\n", b"{}" * 600]

requests = st.builds(
    lambda line, headers, end, body: line + b"".join(headers) + end + body,
    st.sampled_from(LINES),
    st.lists(st.sampled_from(HEADERS), max_size=6),
    st.sampled_from([b"\r\n", b"\r\n", b"\n", b""]),
    st.sampled_from(BODIES),
)


class Door:
    async def invoke(self, call: Call) -> Reply:
        return Reply(b"1", Codec.JSON)


class Wire(asyncio.Transport):
    """The server's end of a connection; keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closing = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def write(self, data: Any) -> None:
        self.written += data

    def writelines(self, list_of_data: Any) -> None:
        self.written += b"".join(list_of_data)

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


async def _send(pieces: list[bytes]) -> None:
    """What comes back is HTTP and no failure of the gate; then nothing is left."""
    app = HttpApp(Doors(Door()), LIMITS, ("https://app.example",))
    served: Any = attended(app)
    config = uvicorn.Config(served, loop="none", ws="none", lifespan="off", log_config=None)
    config.load()
    state = ServerState()
    connection = HttpConnection(config, state, {}, asyncio.get_running_loop(), limits=LIMITS)
    wire = Wire()
    connection.connection_made(wire)
    for piece in pieces:
        if wire.closing:
            break
        connection.data_received(piece)
        await asyncio.wait([asyncio.ensure_future(_soon())])
    connection.connection_lost(None)
    await eventually(lambda: not state.tasks)
    assert not state.connections
    assert not [limit for limit in app.limits() if limit.used]
    answer = bytes(wire.written)
    assert not answer or re.match(rb"HTTP/1\.[01] \d{3} ", answer), answer
    assert b'"code":"internal"' not in answer, answer
    assert b"HTTP/1.1 500" not in answer, answer


async def _soon() -> None:
    return None


def _cut(data: bytes, at: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(place % (len(data) + 1) for place in at)})
    return [data[a:b] for a, b in itertools.pairwise(places)] or [b""]


places = st.lists(st.integers(0, 5_000), max_size=4)


@fuzzed(st.binary(max_size=300), places)
def random_heads(data: bytes, at: list[int]) -> None:
    virtual(_send)(_cut(data, at))


@fuzzed(
    st.lists(requests, min_size=1, max_size=4), places, st.integers(0, 5_000), st.binary(max_size=3)
)
def changed_heads(sent: list[bytes], at: list[int], where: int, instead: bytes) -> None:
    data = b"".join(sent)
    where %= len(data) + 1
    virtual(_send)(_cut(data[:where] + instead + data[where + len(instead) :], at))
