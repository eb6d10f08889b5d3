"""Batched sessions: the links of our own client, each with an id that it cannot choose."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from goverse.aio.limits import Limit
from goverse.call import CallTarget
from goverse.errors import GoverseError, Overloaded, PermissionDenied, Unavailable
from goverse.ids import MemberId, new_token
from goverse.transport.carrier import Carrier
from goverse.transport.hello import Hello, Role, our_hello, turn_away
from goverse.transport.link import Link, LinkConfig, open_link
from goverse_gate.ingress import Ingress

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
        ingress: Ingress,
        gate: Callable[[], MemberId],
        config: LinkConfig,
        random: random.Random,
    ) -> None:
        self._ingress = ingress
        self._gate = gate
        self._config = config
        self._random = random
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
            link = await self._open(carrier, new_token(self._random))
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
            door = self._ingress.door(
                client_id=client_id, max_calls=self._config.limits.max_session_calls
            )
            self._links[client_id] = link

            def ended(link: Link) -> None:
                del self._links[client_id]
                door.close()

            link.add_close_callback(ended)
            return door

        hello = our_hello(Role.GATE, self._gate(), client_id=client_id)
        return await open_link(carrier, hello, serve, self._config, on_hello=greet)

    def _refusal(self) -> GoverseError | None:
        if self._closing:
            return Unavailable("this gate is stopping")
        limit = self._config.limits.max_sessions
        if len(self._links) + self._opening > limit:  # the one that asks is among the opening
            return Overloaded(f"this gate has {limit} sessions, as many as it takes")
        return None
