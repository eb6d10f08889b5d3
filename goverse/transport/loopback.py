"""Carriers within one process: for tests and for simulation. Same bytes, no sockets.

Each end of a connection belongs to the process that made it: whatever arrives there is delivered
in the `contextvars.Context` of its `connect` or `listen`, so that a loop which pauses or kills a
process by context holds back or drops the delivery as well.

A direction is a queue with one timer: order holds whatever the delays do. A cut holds messages
back, the news that a connection was closed included, until the cut ends or nobody is left: as
with a cut cable, neither side is told.
"""

from __future__ import annotations

import asyncio
import contextvars
import enum
import errno
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from goverse.aio.tasks import Tasks
from goverse.transport.carrier import Accept, Carrier, CarrierClosed, Listener

Policy = Callable[[str, str], float | None]
"""(source process, destination process) -> delay in seconds, or None while the way is cut."""

MAX_UNREAD_BYTES = 4 * 1024 * 1024
"""What a connection takes before `send` waits for the other side to read."""

CUT_RETRY_S = 0.1
"""How often a cut direction is tried again."""


def _at_once(source: str, destination: str) -> float | None:
    return 0.0


class LoopbackHub:
    """The wires between all processes of one test."""

    def __init__(self) -> None:
        self._policy: Policy = _at_once
        self._listeners: dict[str, LoopbackListener] = {}
        self._ends: dict[LoopbackCarrier, None] = {}
        self._next_port = 40_000

    def network(self, name: str) -> LoopbackNetwork:
        """The network as the process ``name`` sees it."""
        return LoopbackNetwork(self, name)

    def set_policy(self, policy: Policy | None) -> None:
        """Decide delays and cuts from now on; None: everything arrives at once."""
        self._policy = policy or _at_once

    def kill(self, name: str) -> None:
        """The process is gone: its listeners vanish and its connections are reset."""
        for address, listener in tuple(self._listeners.items()):
            if listener.owner == name:
                del self._listeners[address]
        self.reset(name, f"{name} was killed")

    def reset(self, name: str, reason: str) -> None:
        """End all connections of a process."""
        for end in tuple(self._ends):
            if end.owner == name:
                end.abort(reason)

    def connections(self) -> int:
        """Ends that are open."""
        return len(self._ends)

    def delay_s(self, source: str, destination: str) -> float | None:
        return self._policy(source, destination)

    def find(self, address: str) -> LoopbackListener | None:
        return self._listeners.get(address)

    def bind(self, listener: LoopbackListener, address: str) -> str:
        """Register a listener; port 0 asks for a free one. Raises OSError if it is taken."""
        host, _, port = address.rpartition(":")
        if port == "0":
            self._next_port += 1
            address = f"{host}:{self._next_port}"
        if address in self._listeners:
            raise OSError(errno.EADDRINUSE, f"{address} is in use")
        self._listeners[address] = listener
        return address

    def unbind(self, listener: LoopbackListener) -> None:
        if self._listeners.get(listener.address) is listener:
            del self._listeners[listener.address]

    def opened(self, end: LoopbackCarrier) -> None:
        self._ends[end] = None

    def ended(self, end: LoopbackCarrier) -> None:
        self._ends.pop(end, None)


class _Kind(enum.Enum):
    CONNECT = 0
    ACCEPTED = 1
    DATA = 2
    CLOSED = 3


_Parcel = tuple[_Kind, bytes]


class _Way:
    """One direction of a connection, ending in the process that ``context`` belongs to."""

    def __init__(
        self, hub: LoopbackHub, source: str, destination: str, context: contextvars.Context
    ) -> None:
        self._hub = hub
        self._source = source
        self._destination = destination
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._queue: deque[tuple[float | None, _Parcel]] = deque()
        self._handle: asyncio.Handle | None = None
        self.deliver: Callable[[_Parcel], None]

    def put(self, kind: _Kind, data: bytes = b"") -> None:
        delay_s = self._hub.delay_s(self._source, self._destination)
        due = None if delay_s is None else self._loop.time() + delay_s
        self._queue.append((due, (kind, data)))
        if self._handle is None:
            self._arm()

    def stop(self) -> None:
        """Nobody is left at the far end."""
        self._queue.clear()
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _arm(self) -> None:
        due, now = self._queue[0][0], self._loop.time()
        if due is None:
            due = now + CUT_RETRY_S
        if due <= now:
            self._handle = self._loop.call_soon(self._fire, context=self._context)
        else:
            self._handle = self._loop.call_at(due, self._fire, context=self._context)

    def _fire(self) -> None:
        self._handle = None
        while self._queue:
            due, parcel = self._queue[0]
            delay_s = self._hub.delay_s(self._source, self._destination)
            if delay_s is None:  # what was under way when the cut began does not arrive either
                self._queue[0] = (None, parcel)
            elif due is None:
                self._queue[0] = (self._loop.time() + delay_s, parcel)
            elif due <= self._loop.time():
                self._queue.popleft()
                self.deliver(parcel)
                continue
            self._arm()
            return


class LoopbackCarrier:
    """One end of a connection; see `goverse.transport.carrier.Carrier`."""

    def __init__(self, hub: LoopbackHub, owner: str, peer: str, out: _Way, into: _Way) -> None:
        self.owner = owner
        self._hub = hub
        self._peer = peer
        self._out = out
        self._into = into
        self._other: LoopbackCarrier | None = None
        self._inbox: deque[bytes] = deque()
        self._unread = 0  # sent and not received by the other side
        self._ended: str | None = None
        self._aborted = False
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()
        into.deliver = self._deliver
        hub.opened(self)

    @property
    def peer(self) -> str:
        return self._peer

    def pair(self, other: LoopbackCarrier) -> None:
        self._other = other
        other._other = self

    async def send(self, message: bytes) -> None:
        while self._unread >= MAX_UNREAD_BYTES and self._ended is None:
            self._writer = self._loop.create_future()
            await self._writer
        if self._ended is not None:
            raise CarrierClosed(self._ended)
        self._unread += len(message)
        self._out.put(_Kind.DATA, message)

    async def receive(self) -> bytes:
        while not self._inbox:
            if self._ended is not None:
                raise CarrierClosed(self._ended)
            self._reader = self._loop.create_future()
            await self._reader
        message = self._inbox.popleft()
        if self._other is not None:
            self._other._acknowledge(len(message))
        return message

    async def wait_accepted(self, timeout_s: float) -> None:
        """The first thing that the client's end hears, or the end of it."""
        timer = self._loop.call_later(timeout_s, self.abort, f"no answer in {timeout_s:g} s")
        try:
            await self.receive()
        except asyncio.CancelledError:
            self.abort("given up")
            raise
        finally:
            timer.cancel()

    def abort(self, reason: str) -> None:
        if self._aborted:
            return
        self._aborted = True
        self._inbox.clear()
        self._into.stop()
        self._end(reason)
        self._hub.ended(self)
        if self._other is None or self._other._aborted:
            self._out.stop()
        else:  # it hears of this after everything that was sent before
            self._out.put(_Kind.CLOSED, reason.encode())

    def _deliver(self, parcel: _Parcel) -> None:
        kind, data = parcel
        if kind is _Kind.CLOSED:
            self._end(f"closed by the other side: {data.decode()}")
        elif not self._aborted:
            self._inbox.append(data)
            _wake(self._reader)

    def _acknowledge(self, size: int) -> None:
        self._unread -= size
        _wake(self._writer)

    def _end(self, reason: str) -> None:
        if self._ended is None:
            self._ended = reason
        _wake(self._reader)
        _wake(self._writer)


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


class LoopbackListener:
    """See `goverse.transport.carrier.Listener`."""

    def __init__(self, hub: LoopbackHub, owner: str, address: str, accept: Accept) -> None:
        self.owner = owner
        self.context = contextvars.copy_context()
        self._hub = hub
        self._accept = accept
        self._tasks = Tasks(f"{owner}:listener")
        self._ends: dict[LoopbackCarrier, None] = {}
        self._closed = False
        self.address = hub.bind(self, address)

    def connected(self, end: LoopbackCarrier) -> None:
        """A connection has reached this process; runs in its context."""
        if self._closed:
            end.abort("connection refused")
            return
        self._ends[end] = None
        self._tasks.spawn("accept", self._serve(end))

    async def _serve(self, end: LoopbackCarrier) -> None:
        try:
            await self._accept(end)
        finally:
            end.abort("the server is done")
            self._ends.pop(end, None)

    async def close(self) -> None:
        self._closed = True
        self._hub.unbind(self)
        for end in tuple(self._ends):
            end.abort("the server has stopped")
        await self._tasks.close()


class LoopbackNetwork:
    """See `goverse.transport.carrier.Network`; made by `LoopbackHub.network`."""

    def __init__(self, hub: LoopbackHub, name: str) -> None:
        self._hub = hub
        self._name = name
        self._listeners: list[LoopbackListener] = []

    async def connect(self, address: str, *, timeout_s: float) -> Carrier:
        listener = self._hub.find(address)
        if listener is None:
            raise CarrierClosed(f"{address}: connection refused")
        context = contextvars.copy_context()
        there = _Way(self._hub, self._name, listener.owner, listener.context)
        back = _Way(self._hub, listener.owner, self._name, context)
        mine = LoopbackCarrier(self._hub, self._name, address, there, back)

        def arrive(parcel: _Parcel) -> None:
            theirs = LoopbackCarrier(
                self._hub, listener.owner, f"loopback:{self._name}", back, there
            )
            mine.pair(theirs)
            back.put(_Kind.ACCEPTED)
            listener.connected(theirs)

        there.deliver = arrive
        there.put(_Kind.CONNECT)
        await mine.wait_accepted(timeout_s)
        return mine

    async def listen(
        self, address: str, accept: Accept, *, services: Sequence[Any] = ()
    ) -> Listener:
        listener = LoopbackListener(self._hub, self._name, address, accept)
        self._listeners.append(listener)
        return listener

    async def close(self) -> None:
        for listener in self._listeners:
            await listener.close()
        self._hub.reset(self._name, "the network is closed")
