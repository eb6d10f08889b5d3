"""The awaiting half of a carrier, which every kind of carrier has in common.

::

    send, receive ──attach(sink)──> callbacks ──┐
         └── the other side ended it, or it broke, or abort() ──> ended
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod

from goverse.transport.carrier import CarrierClosed, Sink


class GreetingCarrier(ABC):
    """See `goverse.transport.carrier.Carrier`. A kind of carrier provides the abstract methods,
    sets `blocked`, and calls those with an underscore when something happens."""

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.blocked = False
        self._sink: Sink | None = None
        self._ended: str | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()

    @abstractmethod
    def write(self, message: bytes) -> None: ...

    @abstractmethod
    def abort(self, reason: str) -> None: ...

    @abstractmethod
    def _next(self) -> bytes | None:
        """The next message that has arrived whole; never one after `abort`."""

    @abstractmethod
    def _tell_end(self, sink: Sink, reason: str) -> None:
        """Have ``sink.on_end(reason)`` called by the loop, where the sink belongs."""

    async def send(self, message: bytes) -> None:
        while self.blocked and self._ended is None:
            self._writer = self._loop.create_future()
            await self._writer
        if self._ended is not None:
            raise CarrierClosed(self._ended)
        self.write(message)

    async def receive(self) -> bytes:
        while (message := self._next()) is None:
            if self._ended is not None:
                raise CarrierClosed(self._ended)
            self._reader = self._loop.create_future()
            await self._reader
        return message

    def attach(self, sink: Sink) -> None:
        ended = self._ended  # what ends it from here on is told by `_end`
        self._sink = sink
        while (message := self._next()) is not None:
            sink.on_message(message)
        if ended is not None:
            self._tell_end(sink, ended)

    def _arrived(self) -> None:
        _wake(self._reader)

    def _unblocked(self) -> None:
        if not self.blocked:
            return
        self.blocked = False
        _wake(self._writer)
        if self._sink is not None and self._ended is None:
            self._sink.on_writable()

    def _end(self, reason: str) -> None:
        """The stream is over; only the first reason counts."""
        if self._ended is not None:
            return
        self._ended = reason
        _wake(self._reader)
        _wake(self._writer)
        if self._sink is not None:
            self._tell_end(self._sink, reason)


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
