"""One connection of the loopback network: two ends, and a way in each direction.

A way is a queue with one timer, so order holds whatever the delays do, and it delivers in the
`contextvars.Context` of the process at its far end.
"""

from __future__ import annotations

import asyncio
import contextvars
import enum
from collections import deque
from collections.abc import Callable

from goverse.transport.carrier import CarrierClosed

Policy = Callable[[str, str], float | None]
"""(source process, destination process) -> delay in seconds, or None while the way is cut."""

MAX_UNREAD_BYTES = 4 * 1024 * 1024
"""What a connection takes before `send` waits for the other side to read."""

CUT_RETRY_S = 0.1
"""How often a cut direction is tried again."""


class Kind(enum.Enum):
    CONNECT = 0
    ACCEPTED = 1
    DATA = 2
    CLOSED = 3


Parcel = tuple[Kind, bytes]


class Way:
    """One direction of a connection, ending in the process that ``context`` belongs to."""

    def __init__(
        self, policy: Policy, source: str, destination: str, context: contextvars.Context
    ) -> None:
        self._policy = policy
        self._source = source
        self._destination = destination
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._queue: deque[tuple[float | None, Parcel]] = deque()
        self._handle: asyncio.Handle | None = None
        self.deliver: Callable[[Parcel], None]

    def put(self, kind: Kind, data: bytes = b"") -> None:
        delay_s = self._policy(self._source, self._destination)
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
            delay_s = self._policy(self._source, self._destination)
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

    def __init__(
        self,
        owner: str,
        peer: str,
        out: Way,
        into: Way,
        ends: dict[LoopbackCarrier, None],
    ) -> None:
        self.owner = owner
        self._ends = ends
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
        ends[self] = None

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
        self._out.put(Kind.DATA, message)
        await asyncio.sleep(0)  # no real carrier is faster, and others may have something to say

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
        # What has arrived can still be received: in gRPC, too, a read may have ended just before.
        self._into.stop()
        self._end(reason)
        self._ends.pop(self, None)
        if self._other is None or self._other._aborted:
            self._out.stop()
        else:  # it hears of this after everything that was sent before
            self._out.put(Kind.CLOSED, reason.encode())

    def _deliver(self, parcel: Parcel) -> None:
        kind, data = parcel
        if kind is Kind.CLOSED:
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
