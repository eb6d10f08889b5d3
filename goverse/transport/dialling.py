"""The dialler's first word on a connection, and the answer to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from goverse.transport.carrier import CarrierClosed
from goverse.transport.framing import PREFACE, VERSION
from goverse.transport.tcp_carrier import TcpCarrier


class Dialling(asyncio.Protocol):
    """Says our preface and waits for the listener's: a kernel accepts connections for processes
    that stand still, and at an address there may be anybody.

    :param make: turns the connection into a carrier, once the other side is known.
    """

    def __init__(self, make: Callable[[asyncio.Transport], TcpCarrier]) -> None:
        self.answered: asyncio.Future[TcpCarrier] = asyncio.get_running_loop().create_future()
        self._make = make
        self._seen = b""
        self._transport: asyncio.Transport | None = None

    def give_up(self) -> None:
        """Nobody waits any more, not even for a carrier that has just been made."""
        answered = self.answered
        if self._transport is not None:
            self._transport.abort()
        if answered.cancelled() or answered.cancel():
            return
        if answered.exception() is None:
            answered.result().abort("given up")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(PREFACE)

    def data_received(self, data: bytes) -> None:
        self._seen += data
        seen, transport = self._seen, self._transport
        length = len(PREFACE)
        if transport is None:
            return
        if seen[: length - 1] != PREFACE[: length - 1][: len(seen)]:
            self._fail("what answers there is no process of Goverse")
            transport.abort()
        elif len(seen) >= length:
            if seen[length - 1] != VERSION:
                self._fail(
                    f"the process there frames links in version {seen[length - 1]}, this one in "
                    f"{VERSION}"
                )
                transport.abort()
                return
            self._transport = None
            carrier = self._make(transport)
            if len(seen) > length:
                carrier.data_received(seen[length:])
            if self.answered.done():
                carrier.abort("given up")
            else:
                self.answered.set_result(carrier)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._fail(f"the connection broke: {exc}" if exc else "the connection was closed")

    def _fail(self, reason: str) -> None:
        if not self.answered.done():
            self.answered.set_exception(CarrierClosed(reason))
