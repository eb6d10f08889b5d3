"""One client of this gate and its connection: what connections of all kinds have in common."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from goverse.transport.pushes import Outcome
from goverse_gate.buffer import Batch, Buffer, Item
from goverse_gate.ingress import Door


class Transport(enum.Enum):
    """How a client is connected."""

    SESSION = "session"
    EVENTS = "events"
    WEBSOCKET = "websocket"
    GRPC = "grpc"


@dataclass(frozen=True)
class ClientSnapshot:
    """``transport`` is empty while the client is away."""

    client_id: str
    transport: str
    waiting: int
    waiting_bytes: int
    kept: int
    lost: int


class Registry(Protocol):
    """What a connection asks of the registry of clients."""

    def __contains__(self, client_id: str) -> bool: ...

    def count(self, outcome: Outcome, clients: int = 1) -> Outcome: ...

    def detached(self, attachment: Attachment) -> None: ...


class Client:
    """One client of this gate: its id, its way in, and what waits for it."""

    __slots__ = ("attachment", "away", "buffer", "door", "id", "lost", "peer", "token")

    def __init__(self, id: str, token: str, door: Door, buffer: Buffer) -> None:
        self.id = id
        self.token = token
        """The secret by which its other connections prove who they are; empty: it has none."""
        self.door = door
        self.buffer = buffer
        self.peer = ""
        """The connection that its id belongs to, where others of that connection may name it."""
        self.attachment: Attachment | None = None
        self.away: asyncio.TimerHandle | None = None
        self.lost = 0

    def snapshot(self) -> ClientSnapshot:
        attachment, buffer = self.attachment, self.buffer
        return ClientSnapshot(
            client_id=self.id,
            transport=attachment.transport.value if attachment is not None else "",
            waiting=len(buffer.waiting),
            waiting_bytes=sum(item.message.size for item in buffer.waiting),
            kept=len(buffer.kept),
            lost=self.lost,
        )


class Wake:
    """Waits until its attachment has something to send, or has ended."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def __call__(self) -> None:
        self._event.set()

    async def wait(self, timeout_s: float | None) -> bool:
        """False if nothing came in time; None waits for ever."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True


class Attachment:
    """One connection of a client, from its `Clients.connect` or `resume` to `detach`.

    Its connection takes batches, sends them, and settles each: `confirm` or `put_back`.

    :param wake: called when there is something to take, or when it has ended.
    """

    def __init__(
        self, registry: Registry, client: Client, transport: Transport, wake: Callable[[], None]
    ) -> None:
        self.client = client
        self.transport = transport
        self.resumed = False
        self.ended = ""
        """Why the connection must end once there is nothing to take; empty as long as it need
        not."""
        self._flushes = False
        self.wake = wake
        self._registry = registry

    @property
    def client_id(self) -> str:
        return self.client.id

    def take(self, max_bytes: int) -> Batch:
        """What to send next; empty if there is nothing."""
        if self.ended and not self._flushes:
            return Batch()
        return self.client.buffer.take(max_bytes)

    def confirm(self, items: Sequence[Item]) -> None:
        """The connection took them: they are delivered."""
        self._registry.count(Outcome.DELIVERED, settled(items))
        self.client.buffer.done(items)

    def settle(self, items: Sequence[Item], outcomes: Mapping[Outcome, int]) -> None:
        """What became of them was told: ``outcomes`` says it for all of them."""
        settled(items)
        for outcome, count in outcomes.items():
            self._registry.count(outcome, count)
        self.client.buffer.drop(items)

    def put_back(self, batch: Batch) -> None:
        """They were not sent: the next connection of this client may send them."""
        if self.client.id in self._registry:
            self.client.buffer.put_back(batch)
        else:
            self._registry.count(Outcome.DISCONNECTED, settled(batch.items))
            self.client.buffer.drop(batch.items)

    def detach(self) -> None:
        """The connection is over. May be called twice."""
        self._registry.detached(self)

    def end(self, reason: str, *, flush: bool = False) -> None:
        """Have the connection end, with ``flush`` after what waits is sent."""
        if not self.ended:
            self.ended = reason
            self._flushes = flush
            self.wake()


def settled(items: Sequence[Item]) -> int:
    """How many of ``items`` had no outcome yet: what is sent again counts once."""
    fresh = 0
    for item in items:
        fresh += not item.counted
        item.counted = True
    return fresh
