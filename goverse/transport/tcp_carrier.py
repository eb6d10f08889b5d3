"""A carrier over one TCP connection, as an asyncio protocol: no tasks, no queues of its own."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

from goverse.transport.carrier import MAX_GREETING_BYTES, Sink
from goverse.transport.framing import FramingError, Splitter, last_record, record
from goverse.transport.greeting import GreetingCarrier

log = logging.getLogger(__name__)

MAX_UNSENT_BYTES = 256 * 1024
"""What the connection takes beyond what the kernel does before the carrier is blocked. One more
message may lie on top of it."""

MAX_UNREAD_BYTES = 512 * 1024
"""What may wait to be handed over before the connection is read no further."""

LINGER_S = 1.0
"""How long the other side may take to read why the stream ended."""


class TcpCarrier(GreetingCarrier, asyncio.Protocol):
    """See `goverse.transport.carrier.Carrier`. Takes over a transport whose prefaces are done.

    ::

        open ──abort()──> saying why ──the other side closes, or LINGER_S──> gone
          └── its last record, its end, an error ──────────────────────────────^

    :param peer: the other side, for logs and for the loopback check.
    :param max_bytes: of one message that arrives.
    :param on_gone: called when the connection no longer exists.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        peer: str,
        *,
        max_bytes: int,
        on_gone: Callable[[TcpCarrier], None],
    ) -> None:
        super().__init__(peer)
        self.gone: asyncio.Future[None] = self._loop.create_future()
        self._transport = transport
        self._max_bytes = max_bytes
        self._on_gone = on_gone
        self._splitter = Splitter()
        self._aborted = False
        self._paused = False
        self._due = False
        self._linger: asyncio.TimerHandle | None = None
        transport.set_write_buffer_limits(high=MAX_UNSENT_BYTES)
        no_delay(transport)
        transport.set_protocol(self)

    # -- for links ----------------------------------------------------------------------------

    def write(self, message: bytes) -> None:
        if self._ended is None:
            self._transport.write(record(message))

    def abort(self, reason: str) -> None:
        if self._aborted:
            return
        self._aborted = True
        self._splitter.clear()
        self._end(reason or "aborted")
        transport = self._transport
        if transport.is_closing():
            return
        if transport.get_write_buffer_size():
            # Whoever does not read is not told why, and what it has not got, it does not get.
            transport.abort()
            return
        # Closing a connection with unread bytes resets it, and the reason with it: read on,
        # until the other side has closed it.
        transport.write(last_record(reason))
        if not write_eof(transport):
            transport.abort()
            return
        self._read_on()
        self._linger = self._loop.call_later(LINGER_S, transport.abort)

    def attach(self, sink: Sink) -> None:
        super().attach(sink)
        self._read_on()

    def _next(self) -> bytes | None:
        if self._aborted:
            return None
        max_bytes = MAX_GREETING_BYTES if self._sink is None else self._max_bytes
        try:
            message = self._splitter.next(max_bytes)
        except FramingError as error:
            log.warning("bad message from %s: %s", self.peer, error)
            self.abort(f"a bad message was sent: {error}")
            return None
        if message is None:
            if self._splitter.reason is not None:
                self._end(self._splitter.reason or "the other side ended the stream")
                self._close()
            else:
                self._read_on()
        return message

    def _tell_end(self, sink: Sink, reason: str) -> None:
        self._loop.call_soon(sink.on_end, reason)

    # -- for the event loop -------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._aborted:
            return
        self._splitter.feed(data)
        if self._sink is None:
            # A greeting is taken when somebody asks for it; until then nothing more is read.
            self._pause()
            self._arrived()
        elif not self._due:
            self._hand_over()
        elif self._splitter.waiting_bytes > MAX_UNREAD_BYTES:
            self._pause()

    def _hand_over(self) -> None:
        """One message per pass of the loop. Several that arrived together would otherwise be
        served together and answered together, and the peer would be idle all the while."""
        self._due = False
        sink, message = self._sink, self._next()
        if sink is not None and message is not None:
            sink.on_message(message)
            waiting = self._splitter.waiting_bytes
            if waiting and not self._aborted:
                self._due = True
                self._loop.call_soon(self._hand_over)
            if waiting <= MAX_UNREAD_BYTES:
                self._read_on()

    def _hand_over_all(self) -> None:
        while self._sink is not None and (message := self._next()) is not None:
            self._sink.on_message(message)

    def eof_received(self) -> bool:
        self._hand_over_all()
        if self._splitter.waiting_bytes and self._sink is not None:
            self._end("the other side ended the stream in the middle of a message")
        else:
            self._end("the other side ended the stream")
        return False  # the transport closes itself

    def pause_writing(self) -> None:
        self.blocked = True

    def resume_writing(self) -> None:
        self._unblocked()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._linger is not None:
            self._linger.cancel()
        self._hand_over_all()
        self._end(f"the connection broke: {exc}" if exc else "the connection was closed")
        if not self.gone.done():
            self.gone.set_result(None)
        self._on_gone(self)

    def _pause(self) -> None:
        if not self._paused and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def _read_on(self) -> None:
        if self._paused and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()

    def _close(self) -> None:
        if not self._transport.is_closing():
            self._transport.close()


def write_eof(transport: asyncio.Transport) -> bool:
    """Send no more. False if the connection cannot be half closed, or is broken already."""
    if transport.is_closing() or not transport.can_write_eof():
        return False
    try:
        transport.write_eof()
    except OSError:
        return False
    return True


def no_delay(transport: asyncio.Transport) -> None:
    """Messages leave at once, also on loops that do not see to it."""
    connection = transport.get_extra_info("socket")
    if connection is not None and connection.family in (socket.AF_INET, socket.AF_INET6):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
