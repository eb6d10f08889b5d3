"""A gRPC client's connection, passed through byte by byte to this process's own gRPC server.

::

    client ──> [outer side | inner side] ──> gRPC server, on a loopback port of its own
           <──                           <──

To that server every client comes from this process. Who it truly is stands in `Peers`, under the
address from which the inner side connected: entered before the first byte is forwarded, and gone
before that address can be anybody else's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import cast

from goverse.transport.front import spelled
from goverse.transport.goaway import GOAWAY, Frames
from goverse.transport.tcp_carrier import no_delay, write_eof

log = logging.getLogger(__name__)

CONNECT_S = 3.0
"""How long our own server may take to accept a connection."""

FLUSH_S = 3.0
"""How long a side may take to read the rest once the other has ended."""

Peers = dict[str, str]
"""Inner side's own address -> true peer; both as host:port."""


class Passage:
    """Two connections and their bytes. Neither side is read faster than the other takes.

    ::

        connecting ──> passing on ──one side ends──> flushing the other, at most FLUSH_S ──> gone
             └── no answer, or abort() ─────────────────────────────────────────────────────^

    :param outer: the client's connection.
    :param first: what has been read of it.
    :param peer: its true peer.
    :param peers: where it is entered.
    :param on_gone: called once, when both connections have ended.
    """

    def __init__(
        self,
        outer: asyncio.Transport,
        first: bytes,
        peer: str,
        peers: Peers,
        on_gone: Callable[[Passage], None],
    ) -> None:
        self._peer = peer
        self._peers = peers
        self._on_gone = on_gone
        self._first = first
        self._key = ""
        self._open = 2
        self._ending: asyncio.TimerHandle | None = None
        self._aborted = False
        self._outer = _Side(self._lost)
        self._inner = _Side(self._lost, self._inner_made)
        outer.pause_reading()  # until there is somebody to pass it on to
        outer.set_protocol(self._outer)
        self._outer.begin(outer)

    async def open(self, port: int) -> None:
        """Connect to the server at ``port``."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_S):
                await loop.create_connection(lambda: self._inner, "127.0.0.1", port)
        except BaseException as error:
            if isinstance(error, OSError):  # a timeout is one as well
                log.error("%s gets no answer from our own gRPC server: %s", self._peer, error)
            self.abort()
            if not self._inner.began:
                self._lost(self._inner)
            if not isinstance(error, OSError):
                raise

    def goodbye(self) -> None:
        """Ask the client to make no more calls on this connection. Those that it has made go on."""
        self._inner.say_goodbye()

    def abort(self) -> None:
        """End both connections now."""
        self._aborted = True
        self._forget()
        self._outer.abort()
        self._inner.abort()

    def _inner_made(self, transport: asyncio.Transport) -> None:
        if self._aborted or self._open < 2:  # the client has gone meanwhile
            transport.abort()
            return
        self._key = spelled(transport.get_extra_info("sockname"))
        self._peers[self._key] = self._peer
        self._inner.write(self._first)
        self._first = b""
        self._inner.pair(self._outer)
        self._outer.read(True)

    def _lost(self, side: _Side) -> None:
        """One of the connections has ended: the other takes what was meant for it, and ends."""
        self._open -= 1
        self._forget()
        if self._open:
            other = self._inner if side is self._outer else self._outer
            other.close()
            self._ending = asyncio.get_running_loop().call_later(FLUSH_S, other.abort)
        else:
            if self._ending is not None:
                self._ending.cancel()
            self._on_gone(self)

    def _forget(self) -> None:
        # Before the inner connection is closed by us. If the server closed it, the loop comes here
        # before it hears of any other connection from the same address.
        self._peers.pop(self._key, None)
        self._key = ""


class _Side(asyncio.Protocol):
    """One connection of a passage."""

    def __init__(
        self,
        on_lost: Callable[[_Side], None],
        on_made: Callable[[asyncio.Transport], None] | None = None,
    ) -> None:
        self.began = False
        self._on_lost = on_lost
        self._on_made = on_made
        self._transport: asyncio.Transport | None = None
        self._other: _Side | None = None
        self._ended = False
        self._frames = Frames() if on_made is not None else None  # of the server's side
        self._goodbye_due = False

    def begin(self, transport: asyncio.Transport) -> None:
        self.began = True
        self._transport = transport
        no_delay(transport)

    def pair(self, other: _Side) -> None:
        """From now on each passes on to the other what it reads."""
        self._other, other._other = other, self

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.begin(cast(asyncio.Transport, transport))
        if self._on_made is not None:
            self._on_made(cast(asyncio.Transport, transport))

    def data_received(self, data: bytes) -> None:
        if self._frames is not None:
            end = self._frames.passed(data)
            if self._goodbye_due and end >= 0:
                self._goodbye_due = False
                data = data[:end] + GOAWAY + data[end:]
        if self._other is not None:
            self._other.write(data)

    def say_goodbye(self) -> None:
        """Between this frame and the next."""
        if self._frames is not None and self._frames.between and self._other is not None:
            self._other.write(GOAWAY)
        else:
            self._goodbye_due = True

    def eof_received(self) -> bool:
        """This side sends no more; the other may go on for as long as it has something to say."""
        self._ended = True
        other = self._other
        return other is not None and not other._ended and other.end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._on_lost(self)

    def pause_writing(self) -> None:
        if self._other is not None:
            self._other.read(False)

    def resume_writing(self) -> None:
        if self._other is not None:
            self._other.read(True)

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def end(self) -> bool:
        """Send no more. False if that cannot be told apart from the end of everything."""
        return self._transport is not None and write_eof(self._transport)

    def read(self, yes: bool) -> None:
        transport = self._transport
        if transport is None or transport.is_closing() or self._ended:
            return
        if yes:
            transport.resume_reading()
        else:
            transport.pause_reading()

    def close(self) -> None:
        """Send what is to be sent, then end."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
