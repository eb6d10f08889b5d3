"""What a link needs from below: a two-way stream of messages. TCP and loopback provide it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

MAX_GREETING_BYTES = 64 * 1024
"""The longest message that is received before a sink is attached: of a stranger, that is."""


class CarrierClosed(Exception):
    """The stream ended or broke; its text says how. Nothing more can be sent or received."""


class Sink(Protocol):
    """Who is told what happens on a stream. Nothing that is called here may wait or raise."""

    def on_message(self, message: bytes) -> None:
        """A message has arrived. After `Carrier.abort` one may still come: ignore it."""
        ...

    def on_writable(self) -> None:
        """`Carrier.blocked` was true and is so no more."""
        ...

    def on_end(self, reason: str) -> None:
        """The stream is over, whoever ended it. Called once, last, and never from within
        `Carrier.abort`."""
        ...


class Carrier(Protocol):
    """One stream. It begins with greetings, `send` and `receive`, by at most one task each. From
    `attach` on there are no tasks: messages are handed over, and `write` takes them."""

    @property
    def peer(self) -> str:
        """Address of the other side, for logs and for the loopback check."""
        ...

    @property
    def blocked(self) -> bool:
        """Whether the other side reads too slowly. Whoever writes all the same fills memory."""
        ...

    def write(self, message: bytes) -> None:
        """Take ``message``. Once the stream has ended this does nothing: the end is told."""
        ...

    def attach(self, sink: Sink) -> None:
        """Hand over to ``sink`` what has arrived, now, and from then on what arrives."""
        ...

    async def send(self, message: bytes) -> None:
        """`write`, once the carrier is not blocked. Raises `CarrierClosed`."""
        ...

    async def receive(self) -> bytes:
        """The next message, of at most `MAX_GREETING_BYTES`. Raises `CarrierClosed`, once
        everything sent before an orderly end has been received."""
        ...

    def abort(self, reason: str) -> None:
        """End it now, without waiting; the other side is told ``reason`` if it listens."""
        ...


class Listener(Protocol):
    @property
    def address(self) -> str:
        """host:port really bound (port 0 asks for a free one)."""
        ...

    async def retire(self, grace_s: float) -> None:
        """Take no more gRPC clients, ask those that are here to go elsewhere, and return when they
        have, after ``grace_s`` at the latest. Links are up to whoever accepts them."""
        ...

    async def close(self) -> None:
        """Accept no more; then abort what is left."""
        ...


Accept = Callable[[Carrier], Awaitable[None]]


class Network(Protocol):
    """Makes carriers. The composition root has that of TCP, a simulation the loopback one."""

    async def connect(self, address: str, *, timeout_s: float) -> Carrier:
        """Open a stream to host:port. Raises `CarrierClosed`."""
        ...

    async def listen(
        self, address: str, accept: Accept, *, services: Sequence[Any] = ()
    ) -> Listener:
        """Serve; ``accept(carrier)`` runs as long as the stream lives.

        :param services: gRPC services for the same address, as generic handlers. The loopback
            network leaves them out.
        """
        ...

    async def close(self) -> None: ...
