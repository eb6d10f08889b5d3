"""The quick way of one request: a call of an object that arrived in one read.

Such a request needs no ASGI: its body is here, its answer is one write. It skips the scope, the
request cycle and the messages of uvicorn, which cost the gate more than the call does. Everything
else, a body in pieces included, goes on to the application as in `HttpConnection`.
"""

from __future__ import annotations

import asyncio
import http
import logging
from collections.abc import Awaitable, Callable
from typing import Any, cast

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.server import ServerState

from goverse_gate.http_app import HttpLimits
from goverse_gate.http_calls import Answer, Headers
from goverse_gate.http_connection import HttpConnection, cut_short

log = logging.getLogger(__name__)

#: What carries out ``POST path`` with these headers and this body: `HttpApp.respond`.
Respond = Callable[[bytes, Headers, bytes], Awaitable[Answer]]

_PATH = b"/v1/objects/"
#: Above this, head and body are two writes rather than one copy.
_JOINED_BYTES = 64 * 1024


class WholeCalls:
    """What the connections of a server share: who carries a call out, and the head of a 200."""

    def __init__(self, respond: Respond) -> None:
        self.respond = respond
        self.draining = False
        """Every answer is the last on its connection: the client shall turn to another gate."""
        self._defaults: list[tuple[bytes, bytes]] | None = None
        self._head = b""

    def head(self, defaults: list[tuple[bytes, bytes]]) -> bytes:
        """The head of a 200, up to the number of its length.

        :param defaults: the server's own headers, a new list whenever they (the date) change.
        """
        if defaults is not self._defaults:
            self._defaults = defaults
            lines = _lines(200, [*defaults, (b"content-type", b"application/json")])
            self._head = lines + b"content-length: "
        return self._head


class _Exchange:
    """Stands in uvicorn's place for a request cycle, from a whole request to its answer."""

    __slots__ = ("disconnected", "keep_alive", "response_complete")

    #: uvicorn sets it when the connection is lost; nobody waits for it here.
    message_event = asyncio.Event()

    def __init__(self) -> None:
        self.disconnected = False
        self.keep_alive = True
        self.response_complete = False


class QuickConnection(HttpConnection):
    """::

    head complete --quick?--> gathering --message complete--> answering --> idle
         | no                     | the read ended before the body
         +-----> application <----+
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        limits: HttpLimits,
        calls: WholeCalls,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop, limits=limits)
        self._calls = calls
        self._gathered: list[bytes] | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._idle_since = 0.0

    def connection_lost(self, exc: Exception | None) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        super().connection_lost(exc)

    # What httptools calls.

    def on_message_begin(self) -> None:
        # A scope is made once it is known that the application needs one.
        self._begin_head()
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        self._check_head()
        if self._may_be_quick():
            self._gathered = []
        else:
            self._hand_over()

    def on_body(self, body: bytes) -> None:
        if self._gathered is not None:
            self._gathered.append(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        gathered = self._gathered
        if gathered is None:
            super().on_message_complete()
            return
        self._gathered = None
        exchange = _Exchange()
        self.cycle = cast(RequestResponseCycle, exchange)
        body = gathered[0] if len(gathered) == 1 else b"".join(gathered)
        task = self.loop.create_task(
            self._answer(exchange, self.url, self.headers, body), name="http call"
        )
        self.running = task
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def _may_be_quick(self) -> bool:
        parser, url = self.parser, self.url
        return (
            url.startswith(_PATH)
            and (self.cycle is None or self.cycle.response_complete)
            and parser.get_method() == b"POST"
            and parser.should_keep_alive()
            and parser.get_http_version() == "1.1"
            and not parser.should_upgrade()
            and not self.expect_100_continue
            # The application knows what to say of these.
            and b"?" not in url
            and b"#" not in url
            and url.isascii()
        )

    def _read_ended(self) -> None:
        gathered = self._gathered
        if gathered is None:
            return
        self._gathered = None
        if self.transport.is_closing():
            return
        try:
            self._hand_over()
        except (httptools.HttpParserError, ValueError):
            self.send_400_response("Invalid HTTP request received.")
            return
        for body in gathered:
            super().on_body(body)

    def _hand_over(self) -> None:
        """Give the request, whose head is here, to the application."""
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        self._make_scope()
        self.url, self.expect_100_continue = url, expects
        self.headers += headers  # the scope has this list
        self._begin_cycle()

    # The answer.

    async def _answer(
        self, exchange: _Exchange, path: bytes, headers: Headers, body: bytes
    ) -> None:
        try:
            try:
                answer = await self._calls.respond(path, headers, body)
            except asyncio.CancelledError:
                # The task is the server's own and ends here: nobody else waits for the cancel.
                if self.lost:
                    return
                answer = cut_short()
            if self.flow.write_paused:
                await self.flow.drain()
            exchange.response_complete = True
            if self._calls.draining:
                exchange.keep_alive = False
            if not self.transport.is_closing():
                self._write(exchange, *answer)
                self._answered()
        except Exception:
            log.exception("an answer could not be written")
            self.abort()
        finally:
            self.running = None  # what waited in the pipeline has not begun yet

    def _write(self, exchange: _Exchange, status: int, headers: Headers, body: bytes) -> None:
        defaults = self.server_state.default_headers
        if status == 200 and not headers and exchange.keep_alive:
            head = b"%b%d\r\n\r\n" % (self._calls.head(defaults), len(body))
        else:
            close = (b"connection", b"close")
            if status == 200:
                headers = [
                    (b"content-type", b"application/json"),
                    (b"content-length", b"%d" % len(body)),
                    *headers,
                ]
            if close in headers:
                exchange.keep_alive = False
            elif not exchange.keep_alive:
                headers = [*headers, close]
            head = _lines(status, [*defaults, *headers]) + b"\r\n"
        if len(body) <= _JOINED_BYTES:
            self.transport.write(head + body)
        else:
            self.transport.write(head)
            self.transport.write(body)
        if not exchange.keep_alive:
            self.transport.close()

    def _answered(self) -> None:
        if self.pipeline:
            self.on_response_complete()
            return
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        # One timer that looks again, rather than one for every request.
        self._idle_since = self.loop.time()
        if self._idle_timer is None:
            self._watch_idle(self.timeout_keep_alive)

    def _watch_idle(self, delay_s: float) -> None:
        self._idle_timer = self.loop.call_later(delay_s, self._idle_timed_out)

    def _idle_timed_out(self) -> None:
        self._idle_timer = None
        if self._head_timer is not None or self.timeout_keep_alive_task is not None:
            return  # a request has begun, or the application answered since: their timers count
        if not self.cycle.response_complete:
            return  # its answer starts this anew
        remaining = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if remaining > 0:
            self._watch_idle(remaining)
        else:
            self.timeout_keep_alive_handler()


def _lines(status: int, headers: Headers) -> bytes:
    parts = [b"HTTP/1.1 %d %s\r\n" % (status, http.HTTPStatus(status).phrase.encode())]
    parts += [b"%b: %b\r\n" % header for header in headers]
    return b"".join(parts)
