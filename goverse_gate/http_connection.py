"""One HTTP connection: uvicorn's httptools protocol with the limits that it lacks.

uvicorn with httptools reads a head of any size for any time, never gives up on a client that
does not read its answer, and tells an application of a lost connection only when asked. The
hooks used here are asyncio's protocol and httptools' parser callbacks, which do not change.
"""

from __future__ import annotations

import asyncio
import http
from collections.abc import Callable
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from goverse.errors import Executed, GoverseError, Overloaded, Unavailable
from goverse_gate.asgi import Application, Message, Receive, Scope, Send, answer
from goverse_gate.http_app import HttpLimits
from goverse_gate.http_calls import Answer, HttpProblem, problem
from goverse_gate.http_front import BODY_ARRIVED
from goverse_gate.stall import StallTimer

#: Where a scope holds its connection; ASGI leaves names with a prefix to servers.
CONNECTION = "goverse.connection"


class _Refused(Exception):
    """Raised in a parser callback; httptools turns it into a parser error."""


class HttpConnection(HttpToolsProtocol):
    """::

    idle --first byte--> head --complete--> request running --answered--> idle
      |  keep-alive limit  |  head limits      |  client gone: cancelled
      +--------------------+-------------------+---> closed
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        limits: HttpLimits,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.limits = limits
        self.running: asyncio.Task[Any] | None = None
        self.lost = False
        self._in_head = False
        self._head_bytes = 0
        self._read_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._upgraded = False
        self._stall: StallTimer | None = None
        self._refusal: GoverseError | None = None

    # What asyncio calls.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.limits.max_connections:
            self._refuse(Overloaded("the gate has as many connections as it takes"))
            return
        self._stall = StallTimer(
            self.loop, self.limits.write_timeout_s, self.transport.get_write_buffer_size, self.abort
        )
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._read_bytes = len(data)
        super().data_received(data)
        if self._upgraded:
            return
        self._read_ended()
        if self._in_head or self.cycle is None or self.cycle.response_complete:
            if self._in_head:
                # Where in its first read a head began is not known: that read counts nothing,
                # and asyncio bounds it.
                self._head_bytes = 0 if self._head_bytes < 0 else self._head_bytes + len(data)
                if self._head_bytes > self.limits.max_head_bytes:
                    self._refuse(self._head_too_large())
                    return
            if self._head_timer is None and not self.transport.is_closing():
                self._watch_head()
        elif self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._stop_timers()
        super().connection_lost(exc)
        if self.running is not None:
            self.running.cancel()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stall is not None:
            self._stall.start()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stall is not None:
            self._stall.stop()

    def _read_ended(self) -> None:
        """All that came in one read has been parsed."""

    # What httptools calls.

    def on_message_begin(self) -> None:
        self._begin_head()
        self._make_scope()

    def _begin_head(self) -> None:
        self._in_head = True
        self._head_bytes = -1

    def _make_scope(self) -> None:
        super().on_message_begin()
        cast(Scope, self.scope)[CONNECTION] = self

    def on_headers_complete(self) -> None:
        self._check_head()
        self._begin_cycle()

    def _begin_cycle(self) -> None:
        super().on_headers_complete()

    def _check_head(self) -> None:
        self._in_head = False
        # A head that came in one small read needs no measuring.
        if self._head_bytes >= 0 or self._read_bytes > self.limits.max_head_bytes:
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > self.limits.max_head_bytes:
                self._refusal = self._head_too_large()
                raise _Refused
        if len(self.pipeline) >= self.limits.max_pipelined:
            self._refusal = Overloaded("too many requests were sent ahead of their answers")
            raise _Refused

    def on_message_complete(self) -> None:
        super().on_message_complete()
        cast(Scope, self.scope)[BODY_ARRIVED] = True
        # A large body has paused reading. It is all here now, and an end of the connection is
        # seen only while reading.
        if not self.pipeline:
            self.flow.resume_reading()

    # What uvicorn calls.

    def send_400_response(self, msg: str) -> None:
        self._refuse(self._refusal or HttpProblem(400, "malformed_request", msg))

    def handle_websocket_upgrade(self) -> None:
        # From here on the transport has another protocol, and nothing of this one may end it.
        self._upgraded = True
        self._stop_timers()
        super().handle_websocket_upgrade()

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():
            self.abort()  # closing would wait for a client that does not read
        else:
            super().timeout_keep_alive_handler()

    def abort(self) -> None:
        self.transport.abort()

    def _stop_timers(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
        if self._stall is not None:
            self._stall.stop()

    def _watch_head(self) -> None:
        timeout_s = self.limits.head_timeout_s
        self._head_timer = self.loop.call_later(timeout_s, self._head_timed_out)

    def _head_timed_out(self) -> None:
        self._head_timer = None
        if self.transport.is_closing():
            return
        if self.flow.read_paused:
            self._watch_head()  # we do not read: the rest of the head may well be there
        elif self._in_head:
            self._refuse(HttpProblem(408, "request_timeout", "the head did not arrive in time"))
        else:
            self.transport.close()

    def _head_too_large(self) -> HttpProblem:
        limit = self.limits.max_head_bytes
        return HttpProblem(431, "head_too_large", f"path and headers are above {limit} bytes")

    def _refuse(self, error: GoverseError) -> None:
        """Answer without the application, and close."""
        if self.cycle is None or self.cycle.response_complete:
            status, headers, body = problem(error)
            lines = [b"HTTP/1.1 %d %s" % (status, _reason(status))]
            lines += [b"%s: %s" % header for header in headers]
            lines += [b"connection: close", b"", body]
            self.transport.write(b"\r\n".join(lines))
        # Otherwise an earlier answer is due on this connection, and ours would be read as that.
        self.transport.close()


def _reason(status: int) -> bytes:
    return http.HTTPStatus(status).phrase.encode()


def cut_short() -> Answer:
    """What a stopping server tells those whose call it cancels."""
    return problem(
        Unavailable("the gate stops before the answer was there", executed=Executed.UNKNOWN)
    )


def attended(app: Application, draining: Callable[[], bool] = lambda: False) -> Application:
    """``app``, cancelled when its connection is lost; a stopping server's cancel is answered.

    :param draining: whether an answer is the last on its connection.
    """

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        connection: HttpConnection | None = scope.get(CONNECTION)
        if connection is None:  # a WebSocket, which learns of its end by itself
            await app(scope, receive, send)
            return
        task = asyncio.current_task()
        connection.running = task

        async def last(message: Message) -> None:
            if message["type"] == "http.response.start" and draining():
                headers = [*message["headers"], (b"connection", b"close")]
                message = {**message, "headers": headers}
            await send(message)

        try:
            await app(scope, receive, last)
            if draining():  # also where the answer began before that
                connection.transport.close()
        except asyncio.CancelledError:
            # The task is the server's own and ends here, so nobody else waits for the cancel.
            if connection.lost:
                return
            try:
                await answer(send, *cut_short())
            except RuntimeError:  # part of another answer was sent: cut it short, visibly
                connection.abort()
        finally:
            if connection.running is task:
                connection.running = None

    return serve
