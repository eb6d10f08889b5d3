"""Carriers within one process: for tests and for simulation. Same bytes, no sockets.

Each end of a connection belongs to the process that made it: whatever arrives there is delivered
in the `contextvars.Context` of its `connect` or `listen`, so that a loop which pauses or kills a
process by context holds back or drops the delivery as well.

A cut holds messages back, the news that a connection was closed included, until the cut ends or
nobody is left: as with a cut cable, neither side is told.
"""

from __future__ import annotations

import contextvars
import errno
from collections.abc import Sequence
from typing import Any

from goverse.aio.tasks import Tasks
from goverse.transport.carrier import Accept, Carrier, CarrierClosed, Listener
from goverse.transport.loopback_carrier import Kind, LoopbackCarrier, Parcel, Policy, Way


def _at_once(source: str, destination: str) -> float | None:
    return 0.0


class LoopbackHub:
    """The wires between all processes of one test."""

    def __init__(self) -> None:
        self._policy: Policy = _at_once
        self._listeners: dict[str, LoopbackListener] = {}
        self.ends: dict[LoopbackCarrier, None] = {}
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
        for end in tuple(self.ends):
            if end.owner == name:
                end.abort(reason)

    def connections(self) -> int:
        """Ends that are open."""
        return len(self.ends)

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

    async def retire(self, grace_s: float) -> None:
        """No gRPC clients come this way."""

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
        there = Way(self._hub.delay_s, self._name, listener.owner, listener.context)
        back = Way(self._hub.delay_s, listener.owner, self._name, context)
        mine = LoopbackCarrier(self._name, address, there, back, self._hub.ends)

        def arrive(parcel: Parcel) -> None:
            peer = f"loopback:{self._name}"
            theirs = LoopbackCarrier(listener.owner, peer, back, there, self._hub.ends)
            mine.pair(theirs)
            back.put(Kind.ACCEPTED)
            listener.connected(theirs)

        there.deliver = arrive
        there.put(Kind.CONNECT)
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
