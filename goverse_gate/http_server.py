"""The HTTP listener: uvicorn inside our event loop, without its hands on our signals."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import os
import socket
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, cast

import uvicorn

from goverse.aio.limits import Limit, fullest
from goverse.aio.tasks import Tasks
from goverse_gate.http_app import HttpApp, HttpLimits
from goverse_gate.http_connection import HttpConnection, attended
from goverse_gate.http_quick import QuickConnection, WholeCalls
from goverse_gate.websocket_connection import MAX_MESSAGE_BYTES, WebSocketConnection

_DRAIN_LOOK_S = 0.02


@dataclass(frozen=True)
class HttpServerSnapshot:
    address: str
    connections: int
    requests: int


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set_result(None)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Signals belong to the process: it stops more than this listener, and in order."""
        yield


class HttpServer:
    """Serves one application on one address from `open_http` until `close`."""

    def __init__(self, app: HttpApp, limits: HttpLimits, sockets: list[socket.socket]) -> None:
        calls = WholeCalls(app.respond)
        connection = functools.partial(QuickConnection, limits=limits, calls=calls)
        websocket = functools.partial(WebSocketConnection, write_timeout_s=limits.write_timeout_s)
        config = uvicorn.Config(
            cast(Any, attended(app, lambda: calls.draining)),
            http=cast(Any, connection),
            loop="none",
            ws=cast(Any, websocket),
            ws_max_size=MAX_MESSAGE_BYTES,
            ws_ping_interval=limits.heartbeat_s,
            ws_ping_timeout=limits.write_timeout_s,
            ws_per_message_deflate=False,
            lifespan="off",
            interface="asgi3",
            log_config=None,
            # Anybody can send malformed requests; they are answered, not logged.
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=cast(int, limits.keep_alive_timeout_s),
        )
        self._limits = limits
        self._calls = calls
        self.address = _text(sockets[0].getsockname())
        self._sockets = sockets
        self._server = _Server(config)
        self._tasks = Tasks("http")
        self._serving: asyncio.Task[None] | None = None

    @property
    def serving(self) -> bool:
        """False before `start`, after `close`, and if the listener has failed."""
        return self._serving is not None and not self._serving.done()

    async def start(self) -> None:
        """Returns once connections are accepted."""
        self._serving = self._tasks.spawn("serve", self._server.serve(sockets=self._sockets))
        either = [self._serving, self._server.listening]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if self._serving.done():
            self._serving.result()

    def snapshot(self) -> HttpServerSnapshot:
        state = self._server.server_state
        return HttpServerSnapshot(
            address=self.address, connections=len(state.connections), requests=len(state.tasks)
        )

    def limits(self) -> Iterator[Limit]:
        connections = [cast(HttpConnection, c) for c in self._server.server_state.connections]
        most = self._limits.max_connections
        yield Limit("http.connections", len(connections), most, standing=True)
        most = self._limits.max_pipelined
        yield from fullest(Limit("http.pipelined", len(c.pipeline), most) for c in connections)

    def retire(self) -> None:
        """From now on each answer is the last on its connection, a stream that ends included."""
        self._calls.draining = True

    async def wait_left(self, notice_s: float) -> None:
        """Serve until no connection is left, or ``notice_s`` have passed."""
        connections = self._server.server_state.connections
        deadline = asyncio.get_running_loop().time() + notice_s
        # uvicorn tells nobody when a connection ends.
        while connections and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(_DRAIN_LOOK_S)

    async def close(self, timeout_s: float) -> None:
        """Accept no more, end idle connections, give requests ``timeout_s``, then end the rest."""
        state = self._server.server_state
        self._server.config.timeout_graceful_shutdown = cast(int, timeout_s)
        self._server.should_exit = True
        if self._serving is not None:
            await asyncio.wait([self._serving], timeout=timeout_s + 5.0)
        if state.tasks:
            # uvicorn has cancelled them and does not wait for what they still tell their clients.
            await asyncio.wait(list(state.tasks), timeout=1.0)
        for connection in list(state.connections):
            cast(HttpConnection | WebSocketConnection, connection).abort()
        if state.tasks:
            await asyncio.wait(list(state.tasks), timeout=1.0)
        await self._tasks.close()
        for listening in self._sockets:
            listening.close()


async def open_http(app: HttpApp, limits: HttpLimits, address: str) -> HttpServer:
    """Listen on ``address`` (host:port; port 0 asks for a free one) and serve ``app``.

    Raises OSError, naming the address, if it cannot be had.
    """
    server = HttpServer(app, limits, await _listen(address))
    try:
        await server.start()
    except BaseException:
        await server.close(0)
        raise
    return server


async def _listen(address: str) -> list[socket.socket]:
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        raise OSError(errno.EINVAL, f"cannot listen on {address!r}: expected host:port")
    loop = asyncio.get_running_loop()
    host = host.strip("[]") or "0.0.0.0"
    found = await loop.getaddrinfo(
        host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    if port == "0":
        found = found[:1]  # two families would get two ports
    sockets: list[socket.socket] = []
    failed: OSError | None = None
    for family, _, _, _, where in found:
        try:
            sockets.append(_bound(family, where))
        except OSError as error:
            failed = error
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                break
            # A name can have an address of a family that this machine lacks.
    else:
        if sockets:
            return sockets
    for listening in sockets:
        listening.close()
    number = failed.errno if failed else errno.EADDRNOTAVAIL
    raise OSError(number, f"cannot listen on {address}: {os.strerror(number or 0)}") from failed


def _bound(family: int, where: Any) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setblocking(False)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind(where)
        listening.listen(2048)
    except OSError:
        listening.close()
        raise
    return listening


def _text(name: Any) -> str:
    host, port = name[0], name[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
