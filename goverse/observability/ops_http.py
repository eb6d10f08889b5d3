"""Just enough HTTP for operators: one request per connection, small, and soon."""

from __future__ import annotations

import asyncio
import http
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

import httptools

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 64
MAX_REQUEST_BYTES = 64 * 1024
#: For the whole request: a client that sends a byte now and then does not get more.
REQUEST_TIMEOUT_S = 5.0
#: For the whole connection, the answer included.
CONNECTION_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Request:
    """One request.

    :param path: as sent, not unquoted.
    :param headers: names in lower case; the last of several wins.
    :param peer: host:port of the other side.
    :param params: what the route's pattern matched, unquoted.
    """

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    peer: str
    params: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Response:
    status: int = 200
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"

    @staticmethod
    def text(text: str, status: int = 200) -> Response:
        return Response(status, text.encode() + b"\n")

    @staticmethod
    def json(value: Any, status: int = 200, content_type: str = "application/json") -> Response:
        return Response(status, json.dumps(value).encode() + b"\n", content_type)


Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Route:
    """``Route("POST", "/admin/v1/shards/{n}/pin", handler)``; ``{n}`` matches one segment."""

    method: str
    pattern: str
    handler: Handler

    def match(self, path: str) -> dict[str, str] | None:
        """What stands for the names in braces, or None if ``path`` is another one."""
        wanted, given = self.pattern.split("/"), path.split("/")
        if len(wanted) != len(given):
            return None
        params = {}
        for name, segment in zip(wanted, given, strict=True):
            if name.startswith("{") and name.endswith("}"):
                # Split before unquoting, so that an escaped slash stays inside its segment.
                params[name[1:-1]] = unquote(segment)
            elif name != segment:
                return None
        return params


class Connections:
    """All open connections. Past the limit the oldest one that is still sending has to go.

    A crowd that opens connections and says nothing therefore cannot keep a probe out.
    """

    def __init__(self, answer: Handler) -> None:
        self.answer = answer
        self._open: dict[Connection, None] = {}
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._closing = False
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._open)

    def protocol(self) -> Connection:
        return Connection(self)

    def add(self, connection: Connection) -> None:
        if len(self._open) >= MAX_CONNECTIONS:
            idle = next((other for other in self._open if other.receiving), connection)
            idle.abort()
        self._open[connection] = None
        if self._closing:
            connection.abort()  # accepted just before the listener was closed

    def remove(self, connection: Connection) -> None:
        self._open.pop(connection, None)
        self._changed.set()

    def spawn(self, connection: Connection, request: Request) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(connection, request))
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))

    async def close(self) -> None:
        """Cut everything, and return when it is cut. The listener is closed already."""
        self._closing = True
        for connection in list(self._open):
            connection.abort()
        for task in list(self._tasks):
            task.cancel()
        # Nothing but this module runs in this loop: the other tasks are answers being cancelled
        # and connections being accepted.
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=1.0)
        while self._open:
            self._changed.clear()
            await self._changed.wait()

    async def _serve(self, connection: Connection, request: Request) -> None:
        try:
            response = await self.answer(request)
        except Exception:
            log.exception("%s %s failed", request.method, request.path)
            response = Response.text("internal error", 500)
        connection.send(response, with_body=request.method != "HEAD")


class Connection(asyncio.Protocol):
    """One connection, for one request. Fed by httptools, which calls the ``on_*`` methods."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._transport: asyncio.Transport | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._parser = httptools.HttpRequestParser(self)
        self._received = 0
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self.receiving = True

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        loop = asyncio.get_running_loop()
        self._timers = [
            loop.call_later(REQUEST_TIMEOUT_S, self._give_up),
            loop.call_later(CONNECTION_TIMEOUT_S, self.abort),
        ]
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        if not self.receiving:
            return  # one request per connection
        self._received += len(data)
        if self._received > MAX_REQUEST_BYTES:
            self._refuse(413, f"requests are limited to {MAX_REQUEST_BYTES} bytes")
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(400, "this port speaks HTTP/1.1 only")
        except httptools.HttpParserError as error:
            self._refuse(400, f"not HTTP: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in self._timers:
            timer.cancel()
        self.receiving = False
        self._connections.remove(self)

    # What httptools calls.

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        if not self.receiving:
            return  # a second request in the same piece of data
        self.receiving = False
        assert self._transport is not None
        path, _, query = self._url.decode("latin-1").partition("?")
        peer = self._transport.get_extra_info("peername") or ("", 0)
        request = Request(
            method=self._parser.get_method().decode("latin-1"),
            path=path,
            query=dict(parse_qsl(query, keep_blank_values=True)),
            headers=self._headers,
            body=b"".join(self._body),
            peer=f"[{peer[0]}]:{peer[1]}" if ":" in peer[0] else f"{peer[0]}:{peer[1]}",
        )
        self._connections.spawn(self, request)

    # What the server calls.

    def send(self, response: Response, *, with_body: bool = True) -> None:
        """Answer, and close once the answer is out."""
        if self._transport is None or self._transport.is_closing():
            return
        reason = http.HTTPStatus(response.status).phrase
        head = (
            f"HTTP/1.1 {response.status} {reason}\r\n"
            f"content-type: {response.content_type}\r\n"
            f"content-length: {len(response.body)}\r\n"
            "cache-control: no-store\r\n"
            "x-content-type-options: nosniff\r\n"
            "connection: close\r\n\r\n"
        )
        self._transport.write(head.encode("latin-1") + (response.body if with_body else b""))
        self._transport.close()

    def abort(self) -> None:
        self.receiving = False
        if self._transport is not None:
            self._transport.abort()

    def _give_up(self) -> None:
        if self.receiving:
            self._refuse(408, f"the request was not complete after {REQUEST_TIMEOUT_S:g} s")

    def _refuse(self, status: int, why: str) -> None:
        self.receiving = False
        self.send(Response.text(why, status))
