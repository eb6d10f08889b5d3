"""One connection of the loopback network: two ends, and a way in each direction.

A way is a queue with one timer, so order holds whatever the delays do, and it delivers in the
`contextvars.Context` of the process at its far end.
"""

from __future__ import annotations

import asyncio
import contextvars
import enum
import functools
from collections import deque
from collections.abc import Callable

from goverse.transport.carrier import Sink
from goverse.transport.greeting import GreetingCarrier

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

    def stop(self) -> list[bytes]:
        """Nobody is left at the far end. Returns the messages that were under way."""
        late = [data for _, (kind, data) in self._queue if kind is Kind.DATA]
        self._queue.clear()
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        return late

    def run(self, function: Callable[..., None], *arguments: object) -> None:
        """Have something called soon in the process at the far end."""
        self._loop.call_soon(functools.partial(function, *arguments), context=self._context)

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


class LoopbackCarrier(GreetingCarrier):
    """One end of a connection; see `goverse.transport.carrier.Carrier`."""

    def __init__(
        self,
        owner: str,
        peer: str,
        out: Way,
        into: Way,
        ends: dict[LoopbackCarrier, None],
    ) -> None:
        super().__init__(peer)
        self.owner = owner
        self._ends = ends
        self._out = out
        self._into = into
        self._other: LoopbackCarrier | None = None
        self._inbox: deque[bytes] = deque()
        self._unread = 0  # sent and not taken by the other side
        self._aborted = False
        into.deliver = self._deliver
        ends[self] = None

    def pair(self, other: LoopbackCarrier) -> None:
        self._other = other
        other._other = self

    def write(self, message: bytes) -> None:
        if self._ended is None:
            self._unread += len(message)
            self.blocked = self._unread >= MAX_UNREAD_BYTES
            self._out.put(Kind.DATA, message)

    async def send(self, message: bytes) -> None:
        await super().send(message)
        await asyncio.sleep(0)  # no real carrier is faster, and others may have something to say

    def _next(self) -> bytes | None:
        if not self._inbox:
            return None
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
        late = self._into.stop()
        if self._sink is not None:
            # They were just being handed over. Whoever aborts must ignore what still comes.
            for message in late:
                self._into.run(self._sink.on_message, message)
        self._end(reason)
        self._ends.pop(self, None)
        if self._other is None or self._other._aborted:
            self._out.stop()
        else:  # it hears of this after everything that was sent before
            self._out.put(Kind.CLOSED, reason.encode())

    def _tell_end(self, sink: Sink, reason: str) -> None:
        # In the process that this end belongs to: one that was killed is told nothing.
        self._into.run(sink.on_end, reason)

    def _deliver(self, parcel: Parcel) -> None:
        kind, data = parcel
        if kind is Kind.CLOSED:
            self._end(f"closed by the other side: {data.decode()}")
        elif self._aborted:
            return
        elif self._sink is None:
            self._inbox.append(data)
            self._arrived()
        else:
            if self._other is not None:
                self._other._acknowledge(len(data))
            self._sink.on_message(data)

    def _acknowledge(self, size: int) -> None:
        """Called by the other end, and so in the context of its process."""
        self._unread -= size
        if self.blocked:
            self._into.run(self._look_again)

    def _look_again(self) -> None:
        if self._unread < MAX_UNREAD_BYTES:
            self._unblocked()
