"""Who is connected to this gate, whatever the transport: the one registry of clients.

::

                        connect()            connection ends
    (a new client) ───────────────> attached ────────────────> gone
                                     ^    │ an event stream broke
                           resume()  │    v
                                     └── away ──grace over, or room needed──> gone

A client's id belongs to its connection. Whoever comes back by its event stream's token within
the grace period is the same client, and gets what was pushed meanwhile.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from goverse.aio.limits import Limit
from goverse.config.settings import LimitSettings
from goverse.errors import Overloaded, PermissionDenied, Unavailable
from goverse.ids import new_client_id, new_token
from goverse.observability.metrics import Metrics
from goverse.transport.pushes import Outcome
from goverse_gate.attachment import Attachment, Client, ClientSnapshot, Transport, settled
from goverse_gate.buffer import Buffer, Message, Pool
from goverse_gate.ingress import Door, Ingress


@dataclass(frozen=True)
class ClientsSnapshot:
    """``clients`` are attached and away ones together."""

    clients: int
    away: int
    by_transport: dict[str, int]
    waiting: int
    bytes: int
    closing: bool


class Clients:
    """Every client of one gate.

    :param gate: the gate's name, which the ids lead to.
    :param resume_grace_s: how long a client may be away.
    """

    def __init__(
        self,
        ingress: Ingress,
        gate: str,
        limits: LimitSettings,
        source: random.Random,
        metrics: Metrics,
        *,
        resume_grace_s: float,
    ) -> None:
        self._ingress = ingress
        self._gate = gate
        self._limits = limits
        self._random = source
        self._metrics = metrics
        self._grace_s = resume_grace_s
        self._pool = Pool(limits.max_inflight_bytes)
        self._clients: dict[str, Client] = {}
        self._by_token: dict[str, Client] = {}
        self._away: OrderedDict[str, Client] = OrderedDict()
        self._counts = dict.fromkeys(Transport, 0)
        self._closing = ""

    def __len__(self) -> int:
        return len(self._clients)

    def limits(self) -> Iterator[Limit]:
        most = self._limits
        yield Limit("gate.clients", len(self._clients), most.max_sessions, standing=True)
        yield Limit("gate.message_bytes", self._pool.bytes, self._pool.max_bytes, standing=True)
        for client in self._clients.values():
            yield from client.buffer.fullness()

    @property
    def closing(self) -> str:
        """Why nobody is taken any more; empty as long as somebody is."""
        return self._closing

    def __contains__(self, client_id: str) -> bool:
        return client_id in self._clients

    def new_id(self) -> str:
        """An id for a client that must know it before it is connected."""
        return new_client_id(self._gate, self._random)

    # -- connections

    def connect(
        self,
        transport: Transport,
        wake: Callable[[], None],
        *,
        client_id: str = "",
        resumable: bool = False,
    ) -> Attachment:
        """A new client. Raises Unavailable when the gate stops, Overloaded when it is full, and
        whatever the ingress refuses it for.

        :param client_id: of `new_id`, if the client was told already.
        :param resumable: it gets a token, may come back with it, and may call over HTTP with it.
        """
        if self._closing:
            raise Unavailable(self._closing)
        if len(self._clients) >= self._limits.max_sessions:
            if not self._away:
                raise Overloaded(f"this gate has {len(self._clients)} clients, as many as it takes")
            self._end(next(iter(self._away.values())))
        id = client_id or self.new_id()
        door = self._ingress.door(client_id=id, max_calls=self._limits.max_session_calls)
        token = new_token(self._random) if resumable else ""
        client = Client(id, token, door, Buffer(self._limits, self._pool, keeps=resumable))
        self._clients[id] = client
        if token:
            self._by_token[token] = client
        return self._attach(client, transport, wake)

    def resume(
        self, token: str, number: int, transport: Transport, wake: Callable[[], None]
    ) -> Attachment | None:
        """A new connection of a client that is known; None if there is none with this token.

        A connection that it still has ends: it is this client's own, and broken or given up.

        :param number: of the last message that it has seen.
        """
        client = self._by_token.get(token)
        if client is None or self._closing:
            return None
        if client.attachment is not None:
            client.attachment.end("the client has connected again")
            client.attachment.detach()
        if client.away is not None:
            client.away.cancel()
            client.away = None
        self._away.pop(client.id, None)
        client.buffer.rewind(number)
        attachment = self._attach(client, transport, wake)
        attachment.resumed = True
        return attachment

    def caller(self, token: str, client_id: str) -> Door:
        """The way in of a client for a call on another connection than its stream.

        Raises PermissionDenied unless the token is of a client that is connected or away, and
        the id, if one is given, is that client's.
        """
        client = self._by_token.get(token) if token else None
        if client is None:
            raise PermissionDenied(
                "Goverse-Client-Token is not the token of an event stream that is open here"
                if token
                else "Goverse-Client-Id needs the Goverse-Client-Token of its event stream"
            )
        if client_id and client_id != client.id:
            raise PermissionDenied("Goverse-Client-Id was not issued with this token")
        return client.door

    def of_connection(self, client_id: str, peer: str) -> Door:
        """The way in of a client for a call on the connection that its id was issued on. Raises
        PermissionDenied, which does not tell ids of others from ids that do not exist."""
        client = self._clients.get(client_id)
        if client is None or not peer or client.peer != peer:
            raise PermissionDenied(
                "client_id was not issued on this connection, or its stream has ended; leave it "
                "empty or call Register first"
            )
        return client.door

    def detached(self, attachment: Attachment) -> None:
        client = attachment.client
        if client.attachment is not attachment:
            return
        attachment.ended = attachment.ended or "the connection ended"
        attachment._flushes = False
        client.attachment = None
        self._counts[attachment.transport] -= 1
        if client.token and not self._closing and client.id in self._clients:
            self._away[client.id] = client
            loop = asyncio.get_running_loop()
            client.away = loop.call_later(self._grace_s, self._end, client)
        else:
            self._end(client)

    def close(self, reason: str) -> None:
        """Take nobody any more, forget who is away, and have every event stream end.

        Sessions end by themselves: they say goodbye first.
        """
        self._closing = reason
        for client in list(self._away.values()):
            self._end(client)
        for client in list(self._clients.values()):
            attachment = client.attachment
            if attachment is not None and attachment.transport is not Transport.SESSION:
                attachment.end(reason, flush=True)

    # -- pushes

    def ids(self) -> tuple[str, ...]:
        return tuple(self._clients)

    def put(self, client_id: str, message: Message) -> Outcome | None:
        """Let a message wait for a client; why it does not, counted."""
        client = self._clients.get(client_id)
        if client is None:
            return self.count(Outcome.UNKNOWN_CLIENT)
        if message.size > self._limits.max_push_bytes:
            return self.count(Outcome.TOO_LARGE)
        if not client.buffer.put(message):
            client.lost += 1
            return self.count(Outcome.BUFFER_FULL)
        if client.attachment is not None:
            client.attachment.wake()
        return None

    def count(self, outcome: Outcome, clients: int = 1) -> Outcome:
        if clients:
            self._metrics.pushes.inc(outcome.value, by=clients)
        return outcome

    # -- inside

    def _attach(self, client: Client, transport: Transport, wake: Callable[[], None]) -> Attachment:
        attachment = client.attachment = Attachment(self, client, transport, wake)
        self._counts[transport] += 1
        return attachment

    def _end(self, client: Client) -> None:
        """Nobody comes back for what waits."""
        if self._clients.pop(client.id, None) is None:
            return
        self._away.pop(client.id, None)
        self._by_token.pop(client.token, None)
        if client.away is not None:
            client.away.cancel()
        client.door.close()
        self.count(Outcome.DISCONNECTED, settled(client.buffer.clear()))

    # -- for people

    def by_transport(self) -> dict[tuple[str, ...], float]:
        """How many clients there are, as a gauge wants it."""
        counts: dict[tuple[str, ...], float] = {("away",): len(self._away)}
        for transport, number in self._counts.items():
            counts[(transport.value,)] = number
        return counts

    def waiting(self) -> dict[tuple[str, ...], float]:
        """What waits, as a gauge wants it."""
        return {
            ("messages",): sum(len(c.buffer.waiting) for c in self._clients.values()),
            ("bytes",): self._pool.bytes,
            ("max_bytes",): self._pool.max_bytes,
        }

    def clients(self) -> tuple[ClientSnapshot, ...]:
        return tuple(client.snapshot() for client in self._clients.values())

    def snapshot(self) -> ClientsSnapshot:
        return ClientsSnapshot(
            clients=len(self._clients),
            away=len(self._away),
            by_transport={transport.value: n for transport, n in self._counts.items()},
            waiting=sum(len(client.buffer.waiting) for client in self._clients.values()),
            bytes=self._pool.bytes,
            closing=bool(self._closing),
        )
