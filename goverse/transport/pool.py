"""The links of one process to the members of its cluster: one each, dialled when first needed.

::

            dial()/invoke()               hello of that very member
    no link ───────────────> dialling ─────────────────────────────> linked
       ^                      │  ^ backoff                              │
       └──────────────────────┘  └── refused, unreachable               │
       ^   nobody waits any more                                        │
       └──────────────────────── the link ended ────────────────────────┘
    drop(): the member's key is gone. Its links are aborted and its target refuses for ever.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

from goverse.aio.backoff import Backoff
from goverse.aio.limits import Limit
from goverse.aio.tasks import Tasks
from goverse.call import Call, CallTarget, Forwarded, Forwarder, Receiver, Reply
from goverse.errors import FailedPrecondition, GoverseError, LinkBroken, Overloaded
from goverse.ids import MemberId
from goverse.transport.carrier import CarrierClosed, Network
from goverse.transport.hello import Hello
from goverse.transport.link import Link, LinkConfig, LinkSnapshot, open_link

log = logging.getLogger(__name__)

MIN_BACKOFF_S = 0.1
MAX_BACKOFF_S = 1.0

CONNECT_ATTEMPT_S = 1.5
"""One attempt. A connection that is asked for in the middle of an outage asks again after 1, 3, 7,
15... seconds, and so would come back long after the network: better to give up and begin anew.
With the backoff, a link is back within 2 s after any outage."""

Serve = Callable[[Hello, Link], CallTarget]


class _NoCalls:
    async def invoke(self, call: Call) -> Reply:
        raise FailedPrecondition("this link takes no calls in this direction")


def refuse_calls(theirs: Hello, link: Link) -> CallTarget:
    """For links that only carry the dialler's calls."""
    return _NoCalls()


@dataclass(frozen=True)
class PeerSnapshot:
    """One member as the pool knows it."""

    member: MemberId
    address: str
    dialling: bool
    waiting_calls: int
    last_error: str
    links: tuple[LinkSnapshot, ...]


@dataclass(frozen=True)
class PoolSnapshot:
    peers: tuple[PeerSnapshot, ...]


class LinkPool:
    """Links between members. Client sessions are no business of a pool.

    Links that others opened (`adopt`) are used as well: once both sides know that the other is
    the incarnation that the coordinator names, it does not matter who dialled.

    :param hello: who we are, as dialler; asked anew for each link, as a member that lost its lease
        comes back as another incarnation. None while it is nobody: nothing is dialled then.
    :param serve: the target of the calls that arrive on dialled links.
    """

    def __init__(
        self,
        network: Network,
        hello: Callable[[], Hello | None],
        config: LinkConfig,
        serve: Serve = refuse_calls,
    ) -> None:
        self._network = network
        self._hello = hello
        self._config = config
        self._serve = serve
        self._peers: dict[MemberId, Peer] = {}
        self._tasks = Tasks(f"{config.name}:pool")
        # Links outlive the call that needed them first: their tasks must not see its context.
        self._context = contextvars.copy_context()
        self._closed = False

    def target(self, member: MemberId, address: str) -> Forwarder:
        """Where calls for ``member`` go; the same object until the member is dropped.

        Its ``invoke`` dials if there is no link, and raises `LinkBroken` (not sent) when there
        is none by the call's deadline or after the connection timeout, whichever is first.
        """
        return self._peer(member, address)

    async def greeting(self, member: MemberId, address: str, deadline: float) -> Hello:
        """What ``member`` said of itself, once there is a link. Raises as `target`'s calls do."""
        peer = self._peer(member, address)
        link = peer.link() or await peer.wait_link(deadline)
        return link.peer

    def dial(self, member: MemberId, address: str) -> None:
        """Have a link ready before the first call; tried for one connection timeout."""
        self._peer(member, address).dial()

    def adopt(self, link: Link) -> None:
        """Take in a link that a member opened."""
        if not link.peer.is_member:
            raise ValueError(f"{link.peer} is no member")
        if self._closed:
            link.abort("this process is closing its links")
            return
        self._peer(link.peer.member, "").add(link)

    def drop(self, member: MemberId, reason: str) -> None:
        """The member's key is gone: end its links; what still arrives on them is ignored."""
        peer = self._peers.pop(member, None)
        if peer is not None:
            peer.drop(reason)

    def abort_all(self, reason: str) -> None:
        """End every link now: this process lost its lease. New ones are dialled when needed."""
        for peer in tuple(self._peers.values()):
            for link in tuple(peer.links):
                link.abort(reason)

    def connected(self) -> tuple[MemberId, ...]:
        """Members to which a link stands that takes calls."""
        return tuple(peer.member for peer in self._peers.values() if peer.link() is not None)

    def hellos(self) -> tuple[Hello, ...]:
        """What each member said of itself to which a link stands that takes calls."""
        links = (peer.link() for peer in self._peers.values())
        return tuple(link.peer for link in links if link is not None)

    def calls_in_flight(self) -> int:
        """Calls sent to members and not yet answered."""
        links = [link for peer in self._peers.values() for link in peer.links]
        return sum(link.snapshot().waiting_calls for link in links)

    async def close(self, timeout_s: float) -> None:
        """Close all links in order, all at the same time."""
        self._closed = True
        links = [link for peer in self._peers.values() for link in peer.links]
        for peer in self._peers.values():
            peer.stop_dialling("this process is closing its links")
        await self._tasks.close()
        await asyncio.gather(*(link.close(timeout_s) for link in links))

    def snapshot(self) -> PoolSnapshot:
        return PoolSnapshot(tuple(peer.snapshot() for peer in self._peers.values()))

    def limits(self) -> Iterator[Limit]:
        for peer in self._peers.values():
            yield from peer.limits()

    def _peer(self, member: MemberId, address: str) -> Peer:
        peer = self._peers.get(member)
        if peer is None:
            peer = self._peers[member] = Peer(self, member)
        if address:
            peer.address = address
        return peer

    # -- for Peer -----------------------------------------------------------------------------

    @property
    def config(self) -> LinkConfig:
        return self._config

    def start_dialling(self, peer: Peer) -> asyncio.Task[None]:
        if self._closed:
            raise LinkBroken("this process is closing its links", sent=False)
        # A copy each: whatever the task sets stays its own.
        context = self._context.copy()
        return context.run(self._tasks.spawn, f"dial {peer.member}", peer.keep_dialling())

    async def open(self, member: MemberId, address: str) -> Link:
        """One attempt. Raises `CarrierClosed` or a `GoverseError`."""
        self._who_we_are()
        timeout_s = min(CONNECT_ATTEMPT_S, self._config.limits.connection_timeout_s)
        carrier = await self._network.connect(address, timeout_s=timeout_s)

        def serve(theirs: Hello, link: Link) -> CallTarget:
            if theirs.member != member:  # an old address, or a newer incarnation at the same one
                raise LinkBroken(f"{theirs} answers at {address}, not {member}", sent=False)
            return self._serve(theirs, link)

        try:
            hello = self._who_we_are()  # again: connecting took time
        except LinkBroken as error:
            carrier.abort(str(error))
            raise
        return await open_link(carrier, hello, serve, self._config)

    def _who_we_are(self) -> Hello:
        hello = self._hello()
        if hello is None:
            raise LinkBroken("this process has not joined the cluster yet", sent=False)
        return hello

    def forget(self, peer: Peer) -> None:
        """A peer without links, waiters or an address to dial was only ever adopted."""
        if self._peers.get(peer.member) is peer and not peer.address:
            del self._peers[peer.member]


class Peer:
    """One member: its links, and the calls that wait for one. A `Forwarder`."""

    def __init__(self, pool: LinkPool, member: MemberId) -> None:
        self.member = member
        self.address = ""
        self.links: list[Link] = []
        self._pool = pool
        self._waiting: dict[int, asyncio.Future[Link]] = {}
        self._next_waiter = 0
        self._dialling: asyncio.Task[None] | None = None
        self._dial_until = 0.0
        self._last_error = ""
        self._dropped = ""

    # A plain function, as `Link.invoke`: the coroutine of a link that stands is handed on.
    def invoke(self, call: Call) -> Coroutine[Any, Any, Reply]:
        link = self.link()
        return link.invoke(call) if link is not None else self._invoke_later(call)

    def forward(self, call: Call, receiver: Receiver) -> Forwarded | None:
        # Whoever waits for a link has been given it, and is called before anybody who comes now.
        link = self.link() if not self._waiting else None
        return link.forward(call, receiver) if link is not None else None

    async def _invoke_later(self, call: Call) -> Reply:
        link = await self.wait_link(call.deadline)
        return await link.invoke(call)

    def link(self) -> Link | None:
        for link in self.links:
            if link.takes_calls:
                return link
        return None

    async def wait_link(self, deadline: float) -> Link:
        """A link that takes calls. Raises LinkBroken, Overloaded."""
        if self._dropped:
            raise LinkBroken(f"{self.member}: {self._dropped}", sent=False)
        limits = self._pool.config.limits
        if len(self._waiting) >= limits.max_inflight_calls:
            raise Overloaded(f"{len(self._waiting)} calls wait for a link to {self.member}")
        loop = asyncio.get_running_loop()
        until = min(deadline, loop.time() + limits.connection_timeout_s)
        self.dial()
        self._next_waiter = waiter = self._next_waiter + 1
        future: asyncio.Future[Link] = loop.create_future()
        self._waiting[waiter] = future
        try:
            async with asyncio.timeout_at(until):
                return await future
        except TimeoutError:
            why = self._last_error or "no connection in time"
            raise LinkBroken(f"no link to {self.member}: {why}", sent=False) from None
        finally:
            del self._waiting[waiter]

    def dial(self) -> None:
        if self._dropped or self.link() is not None:
            return
        now = asyncio.get_running_loop().time()
        self._dial_until = now + self._pool.config.limits.connection_timeout_s
        if self._dialling is None:
            self._dialling = self._pool.start_dialling(self)

    async def keep_dialling(self) -> None:
        source = self._pool.config.runtime.random
        backoff = Backoff(source, min_s=MIN_BACKOFF_S, max_s=MAX_BACKOFF_S)
        loop = asyncio.get_running_loop()
        try:
            while self.link() is None and loop.time() < self._dial_until:
                try:
                    self.add(await self._pool.open(self.member, self.address))
                except (CarrierClosed, GoverseError) as error:
                    self._last_error = str(error)
                    log.info("no link to %s at %s: %s", self.member, self.address, error)
                    await asyncio.sleep(backoff.next_s())
        finally:
            self._dialling = None

    def add(self, link: Link) -> None:
        if self._dropped:
            link.abort(self._dropped)
            return
        self._last_error = ""
        self.links.append(link)
        link.add_close_callback(self._ended)
        if link.takes_calls:
            for future in self._waiting.values():
                if not future.done():
                    future.set_result(link)

    def _ended(self, link: Link) -> None:
        self.links.remove(link)
        self._last_error = self._last_error or link.snapshot().state
        if not self.links and not self._waiting:
            self._pool.forget(self)

    def drop(self, reason: str) -> None:
        self._dropped = reason
        for link in tuple(self.links):
            link.abort(reason)
        self.stop_dialling(reason)

    def stop_dialling(self, reason: str) -> None:
        if self._dialling is not None:
            self._dialling.cancel()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(LinkBroken(f"{self.member}: {reason}", sent=False))

    def limits(self) -> Iterator[Limit]:
        most = self._pool.config.limits.max_inflight_calls
        yield Limit("pool.waiting_calls", len(self._waiting), most)
        for link in self.links:
            yield from link.limits()

    def snapshot(self) -> PeerSnapshot:
        return PeerSnapshot(
            self.member,
            self.address,
            self._dialling is not None,
            len(self._waiting),
            self._last_error,
            tuple(link.snapshot() for link in self.links),
        )
