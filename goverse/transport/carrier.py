"""What a link needs from below: a two-way stream of messages. gRPC and loopback provide it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol


class CarrierClosed(Exception):
    """The stream ended or broke; its text says how. Nothing more can be sent or received."""


class Carrier(Protocol):
    """One stream. At most one task receives and one task sends; neither is ever cancelled in the
    middle of an operation by anything but the end of the stream."""

    @property
    def peer(self) -> str:
        """Address of the other side, for logs and for the loopback check."""
        ...

    async def send(self, message: bytes) -> None:
        """Return when the carrier has taken ``message``. Raises `CarrierClosed`."""
        ...

    async def receive(self) -> bytes:
        """The next message. Raises `CarrierClosed`, once everything sent before an orderly end
        has been received."""
        ...

    def abort(self, reason: str) -> None:
        """End it now, without waiting; pending operations raise `CarrierClosed`."""
        ...


class Listener(Protocol):
    @property
    def address(self) -> str:
        """host:port really bound (port 0 asks for a free one)."""
        ...

    async def close(self) -> None:
        """Accept no more; then abort what is left."""
        ...


Accept = Callable[[Carrier], Awaitable[None]]


class Network(Protocol):
    """Makes carriers. The composition root has gRPC's, a simulation the loopback one."""

    async def connect(self, address: str, *, timeout_s: float) -> Carrier:
        """Open a stream to host:port. Raises `CarrierClosed`."""
        ...

    async def listen(
        self, address: str, accept: Accept, *, services: Sequence[Any] = ()
    ) -> Listener:
        """Serve; ``accept(carrier)`` runs as long as the stream lives.

        :param services: further services for the same address, in the carrier's own form (gRPC:
            generic handlers). A carrier that has no such thing leaves them out.
        """
        ...

    async def close(self) -> None: ...
