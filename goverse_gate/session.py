"""Batched sessions: the links of our own client, each with an id that it cannot choose."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from goverse.aio.limits import Limit
from goverse.aio.tasks import Tasks
from goverse.call import CallTarget, Codec
from goverse.errors import (
    DeadlineExceeded,
    GoverseError,
    LinkBroken,
    Overloaded,
    PermissionDenied,
    Unavailable,
)
from goverse.ids import MemberId
from goverse.transport.carrier import Carrier
from goverse.transport.hello import Hello, Role, our_hello, turn_away
from goverse.transport.link import Link, LinkConfig, open_link
from goverse.transport.pushes import Deliveries, Delivery, Outcome, Tally, delivery_call, tally_of
from goverse_gate.attachment import Attachment, Transport
from goverse_gate.buffer import Batch, Message
from goverse_gate.clients import Clients

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SessionsSnapshot:
    """``opening`` are connections that have not greeted yet."""

    sessions: int
    opening: int


class Sessions:
    """Accepts clients and keeps their links until they or the gate end.

    ::

        opening --client's hello--> open (a door in the ingress) --either side ends--> gone
           +-- limit reached, not a client, gate closing: turned away
    """

    def __init__(
        self,
        clients: Clients,
        gate: Callable[[], MemberId],
        config: LinkConfig,
    ) -> None:
        self._clients = clients
        self._gate = gate
        self._config = config
        self._tasks = Tasks("session pushes")
        self._opening = 0
        self._links: dict[str, Link] = {}
        self._closing = False

    def snapshot(self) -> SessionsSnapshot:
        return SessionsSnapshot(sessions=len(self._links), opening=self._opening)

    def limits(self) -> Iterator[Limit]:
        sessions = len(self._links) + self._opening
        yield Limit("gate.sessions", sessions, self._config.limits.max_sessions, standing=True)
        for link in self._links.values():
            yield from link.limits()

    async def accept(self, carrier: Carrier) -> None:
        """Serve one client; returns when its link has ended."""
        self._opening += 1
        try:
            refusal = self._refusal()
            if refusal is not None:
                await turn_away(carrier, refusal)
                return
            link = await self._open(carrier, self._clients.new_id())
        except GoverseError as error:
            log.debug("no session for %s: %s", carrier.peer, error)
            return
        finally:
            self._opening -= 1
        try:
            await link.wait_closed()
        except asyncio.CancelledError:
            link.abort("the gate stops listening")
            raise

    async def close(self, timeout_s: float) -> None:
        """Take no more clients, let calls in flight end within ``timeout_s``, end every link."""
        self._closing = True
        links = list(self._links.values())
        await asyncio.gather(*(link.close(timeout_s) for link in links), return_exceptions=True)
        # Whoever was being greeted when the closing began.
        for link in list(self._links.values()):
            link.abort("the gate has stopped")
        await self._tasks.close()

    async def _open(self, carrier: Carrier, client_id: str) -> Link:
        def greet(client: Hello) -> Hello:
            if client.role is not Role.CLIENT:
                raise PermissionDenied(
                    f"this address serves clients, not a {client.role.value}; members reach each "
                    "other at the addresses in the member list"
                )
            refusal = self._refusal()  # again: the greeting took time
            if refusal is not None:
                raise refusal
            return our_hello(Role.GATE, self._gate(), client_id=client_id)

        def serve(client: Hello, link: Link) -> CallTarget:
            sender = _Sender(link, self._tasks, self._config)
            attachment = self._clients.connect(Transport.SESSION, sender.wake, client_id=client_id)
            sender.attachment = attachment
            self._links[client_id] = link

            def ended(link: Link) -> None:
                del self._links[client_id]
                attachment.detach()

            link.add_close_callback(ended)
            return attachment.client.door

        hello = our_hello(Role.GATE, self._gate(), client_id=client_id)
        return await open_link(carrier, hello, serve, self._config, on_hello=greet)

    def _refusal(self) -> GoverseError | None:
        if self._closing:
            return Unavailable("this gate is stopping")
        limit = self._config.limits.max_sessions
        if len(self._links) + self._opening > limit:  # the one that asks is among the opening
            return Overloaded(f"this gate has {limit} sessions, as many as it takes")
        return None


class _Sender:
    """Takes what waits for one session to it, one call at a time; no task while nothing waits.

    The session's reply is the confirmation: only then a message counts as delivered.
    """

    def __init__(self, link: Link, tasks: Tasks, config: LinkConfig) -> None:
        self.attachment: Attachment
        self._link = link
        self._tasks = tasks
        self._limits = config.limits
        self._running = False

    def wake(self) -> None:
        if not self._running and not self.attachment.ended:
            self._running = True
            self._tasks.spawn(f"to {self.attachment.client_id}", self._send_all())

    async def _send_all(self) -> None:
        try:
            while batch := self.attachment.take(self._limits.max_batch_bytes):
                await self._send(batch)
        finally:
            self._running = False

    async def _send(self, batch: Batch) -> None:
        items = [_delivery(item.message) for item in batch.items]
        timeout_s = self._limits.default_call_timeout_s
        deadline = asyncio.get_running_loop().time() + timeout_s
        lost = Outcome.UNKNOWN  # also if this task is cancelled
        told: dict[Outcome, int] = {}
        try:
            call = delivery_call(Deliveries(tuple(items), batch.lost), deadline)
            told = _told(tally_of(await self._link.invoke(call)))
        except LinkBroken as broken:
            lost = Outcome.UNKNOWN if broken.sent else Outcome.DISCONNECTED
        except DeadlineExceeded:
            pass
        except GoverseError as error:
            log.debug("%s took no pushes: %s", self._link.peer, error)
            lost = Outcome.REFUSED
        finally:
            if sum(told.values()) != len(items):
                told = {lost: len(items)}
            self.attachment.settle(batch.items, told)


def _told(tally: Tally) -> dict[Outcome, int]:
    """What a client says became of its messages, as far as that is for a client to say."""
    may_say = (Outcome.DELIVERED, Outcome.BUFFER_FULL, Outcome.NO_HANDLER)
    return {outcome: tally[outcome.value] for outcome in may_say if outcome.value in tally}


def _delivery(message: Message) -> Delivery:
    if message.is_protobuf:
        return Delivery(message.type, Codec.ANY, message.as_any())
    return Delivery(message.type, Codec.JSON, message.json)
