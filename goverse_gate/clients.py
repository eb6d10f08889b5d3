"""Clients with a Register stream: their ids, and what waits to be written to them.

An id belongs to the connection on which it was issued and lives as long as the stream does.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from goverse.aio.limits import Limit
from goverse.errors import Overloaded, PermissionDenied, Unavailable
from goverse_gate.ingress import Door, Ingress

#: Told once what became of a message: True once the connection has taken it.
Told = Callable[[bool], None]


@dataclass(frozen=True)
class ClientLimits:
    """``max_messages`` and ``max_bytes`` are of what waits for one client."""

    max_clients: int = 10_000
    max_calls: int = 8_192
    """Calls of one client in flight."""
    max_messages: int = 1_024
    max_bytes: int = 4 * 1024 * 1024


@dataclass(frozen=True)
class ClientsSnapshot:
    clients: int
    messages: int
    queued_bytes: int


class RegisteredClient:
    """One stream.

    :param peer: the connection that it came on.
    :param door: for calls that name this client.
    """

    def __init__(self, client_id: str, peer: str, door: Door, limits: ClientLimits) -> None:
        self.client_id = client_id
        self.peer = peer
        self.door = door
        self.queued_bytes = 0
        self._limits = limits
        self._waiting: deque[tuple[bytes, Told | None]] = deque()
        self._something = asyncio.Event()
        self._ended = False

    @property
    def messages(self) -> int:
        return len(self._waiting)

    def offer(self, message: bytes, told: Told | None = None) -> bool:
        """Queue a serialized google.protobuf.Any; False if it has ended, or too much waits.

        :param told: called later, once, if the message was queued.
        """
        limits = self._limits
        if self._ended or len(self._waiting) >= limits.max_messages:
            return False
        if self.queued_bytes + len(message) > limits.max_bytes:
            return False
        self._waiting.append((message, told))
        self.queued_bytes += len(message)
        self._something.set()
        return True

    def end(self) -> None:
        """Queue nothing more; `drain` returns when everything is written."""
        self._ended = True
        self._something.set()

    async def drain(self, write: Callable[[bytes], Awaitable[None]]) -> None:
        """Write what is queued, in order, until `end`."""
        while True:
            if not self._waiting:
                if self._ended:
                    return
                self._something.clear()
                await self._something.wait()
                continue
            # It stays counted, and first, while it is being written: that is where it waits if
            # the client does not read.
            message, told = self._waiting[0]
            await write(message)
            self._waiting.popleft()
            self.queued_bytes -= len(message)
            if told is not None:
                told(True)

    def drop(self) -> None:
        """The stream is over: nothing that still waits will be written."""
        self._ended = True
        waiting, self._waiting = self._waiting, deque()
        self.queued_bytes = 0
        for _, told in waiting:
            if told is not None:
                told(False)


class Clients:
    """All registered clients of this gate.

    :param new_id: makes a client id that nobody can guess.
    """

    def __init__(self, ingress: Ingress, new_id: Callable[[], str], limits: ClientLimits) -> None:
        self._ingress = ingress
        self._new_id = new_id
        self._limits = limits
        self._clients: dict[str, RegisteredClient] = {}
        self._closing = False
        self._all_gone = asyncio.Event()

    def snapshot(self) -> ClientsSnapshot:
        clients = self._clients.values()
        return ClientsSnapshot(
            clients=len(self._clients),
            messages=sum(client.messages for client in clients),
            queued_bytes=sum(client.queued_bytes for client in clients),
        )

    def limits(self) -> Iterator[Limit]:
        most = self._limits
        yield Limit("gate.clients", len(self._clients), most.max_clients, standing=True)
        for client in self._clients.values():
            yield Limit("client.messages", client.messages, most.max_messages)
            yield Limit("client.message_bytes", client.queued_bytes, most.max_bytes)

    def register(self, peer: str) -> RegisteredClient:
        """A new client on the connection ``peer``. Raises Overloaded, Unavailable."""
        if self._closing:
            raise Unavailable("this gate is stopping")
        if len(self._clients) >= self._limits.max_clients:
            raise Overloaded(
                f"this gate has {len(self._clients)} registered clients, as many as it takes"
            )
        client_id = self._new_id()
        door = self._ingress.door(client_id=client_id, max_calls=self._limits.max_calls)
        client = self._clients[client_id] = RegisteredClient(client_id, peer, door, self._limits)
        return client

    def remove(self, client: RegisteredClient) -> None:
        """Its stream is over; what still waits for it is dropped."""
        if self._clients.pop(client.client_id, None) is not None:
            client.drop()
            client.door.close()
        if not self._clients:
            self._all_gone.set()

    def of_connection(self, client_id: str, peer: str) -> RegisteredClient:
        """The client ``client_id``, if it is one of this connection. Raises PermissionDenied,
        which does not tell ids of others from ids that do not exist."""
        client = self._clients.get(client_id)
        if client is None or client.peer != peer:
            raise PermissionDenied(
                "client_id was not issued on this connection, or its stream has ended; leave it "
                "empty or call Register first"
            )
        return client

    def get(self, client_id: str) -> RegisteredClient | None:
        """The client to push to."""
        return self._clients.get(client_id)

    def all(self) -> tuple[RegisteredClient, ...]:
        return tuple(self._clients.values())

    async def close(self, timeout_s: float) -> None:
        """Take no more and end every stream, once what is queued is written or time is up."""
        self._closing = True
        for client in self.all():
            client.end()
        if self._clients:
            self._all_gone.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._all_gone.wait()
            except TimeoutError:
                pass  # They do not read. Their connections end with the listener.
