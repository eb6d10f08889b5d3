"""The client's session: one link at a time to one of several gates, made again when it ends."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from goverse.aio.backoff import Backoff
from goverse.aio.events import set_before
from goverse.aio.limits import Limit, fullest
from goverse.aio.runtime import Runtime
from goverse.aio.tasks import Tasks
from goverse.call import Call, CallTarget, Reply
from goverse.client.inbox import Inbox
from goverse.config.settings import LimitSettings
from goverse.errors import (
    DeadlineExceeded,
    Executed,
    FailedPrecondition,
    GoverseError,
    LinkBroken,
    Overloaded,
    Unavailable,
)
from goverse.ids import MemberId, new_token
from goverse.transport.carrier import CarrierClosed, Network
from goverse.transport.hello import Hello, Role, our_hello
from goverse.transport.link import Link, LinkConfig, open_link

log = logging.getLogger(__name__)

MAX_ATTEMPT_S = 5.0
"""How long one address may take to answer before the next one is tried."""

STEADY_S = 1.0
"""A link that lived this long was a success; one that ends sooner is not replaced at once."""


@dataclass(frozen=True)
class SessionSnapshot:
    """``gate`` is the address of the gate in use, or empty while there is none."""

    gate: str
    client_id: str
    waiting: int
    links: int
    attempts: int
    last_failure: str
    limits: tuple[Limit, ...]


class Session:
    """A `CallTarget` for the program's calls.

    ::

        connecting --a gate greeted us--> connected --link ended, or goodbye--> connecting
            +---------------------------------+-- close() --> closed

    Calls made while connecting wait within their deadline. A call that was never sent goes to
    the next link; so does one that has a call id. Any other that was sent on a link that broke
    fails with ``executed`` unknown.
    """

    def __init__(
        self, network: Network, addresses: Sequence[str], limits: LimitSettings, runtime: Runtime
    ) -> None:
        attempt_s = min(limits.connection_timeout_s, MAX_ATTEMPT_S)
        self._network = network
        self._addresses = list(addresses)
        runtime.random.shuffle(self._addresses)  # so that many clients spread over the gates
        self._attempt_s = attempt_s
        self._max_waiting = limits.max_session_calls
        self._random = runtime.random
        self._config = LinkConfig(
            limits=replace(limits, connection_timeout_s=attempt_s), runtime=runtime, name="client"
        )
        self._hello = our_hello(Role.CLIENT, MemberId("", new_token(runtime.random)))
        self._tasks = Tasks("client")
        self.inbox = Inbox(limits)
        """Takes what gates push."""
        self._on_reconnect: list[Callable[[str], Awaitable[None] | None]] = []
        self._link: Link | None = None
        self._links: dict[Link, None] = {}  # retired ones too, until they have ended
        self._up = asyncio.Event()
        self._down = asyncio.Event()
        self._waiting = 0
        self._attempts = 0
        self._failures: dict[str, str] = {}
        self._closed = False

    @property
    def client_id(self) -> str:
        """What the gate calls this client; another one after each reconnect. May be empty."""
        return self._link.peer.client_id if self._link is not None else ""

    def snapshot(self) -> SessionSnapshot:
        return SessionSnapshot(
            gate=self._link.peer_address if self._link is not None else "",
            client_id=self.client_id,
            waiting=self._waiting,
            links=len(self._links),
            attempts=self._attempts,
            last_failure=self._explain(),
            limits=fullest(self.limits()),
        )

    def limits(self) -> Iterator[Limit]:
        yield Limit("client.waiting_calls", self._waiting, self._max_waiting)
        yield from self.inbox.limits()
        for link in self._links:
            yield from link.limits()

    def on_reconnect(self, handler: Callable[[str], Awaitable[None] | None]) -> None:
        """Have ``handler(client_id)`` called after each reconnect, with the new id."""
        self._on_reconnect.append(handler)

    async def open(self, wait_s: float) -> None:
        """Connect. Tries every address once, then again until ``wait_s`` have passed.

        Raises `Unavailable`, saying what each address answered.
        """
        deadline = asyncio.get_running_loop().time() + wait_s
        backoff = Backoff(self._random)
        while (link := await self._dial_round()) is None:
            delay_s = backoff.next_s()
            if asyncio.get_running_loop().time() + delay_s > deadline:
                raise Unavailable(
                    f"no gate could be reached: {self._explain()}. Is one running there "
                    "(goverse-cli dev, goverse-gate serve)? Clients connect to a gate's "
                    "`listen` address, by default port 49000"
                )
            await asyncio.sleep(delay_s)
        self._use(link)
        self._tasks.spawn("reconnect", self._reconnect())

    async def invoke(self, call: Call) -> Reply:
        sent = False
        try:
            while True:
                link = self._link
                if link is None or not link.takes_calls:
                    if link is not None:
                        self._retire(link)
                    await self._wait_link(call)
                    continue
                try:
                    return await link.invoke(call)
                except LinkBroken as broken:
                    sent = sent or broken.sent
                    self._broken(call, link, broken)
        except GoverseError as final:
            # Of one attempt or another; that it was skipped is an outcome.
            if sent and final.executed is Executed.NO and "status" not in final.details:
                final.executed = Executed.UNKNOWN
            raise

    def _broken(self, call: Call, link: Link, broken: LinkBroken) -> None:
        """Raises Unavailable unless ``call`` may go to the next link."""
        self._retire(link)
        if broken.sent and not call.call_id:
            raise Unavailable(
                f"the connection to the gate broke before {call} was answered",
                executed=Executed.UNKNOWN,
            ) from broken

    async def close(self, timeout_s: float) -> None:
        """Let calls in flight end within ``timeout_s``, then end every link."""
        self._closed = True
        self._link = None
        self._up.set()  # whoever waits for a link finds that there will be none
        await self._tasks.close()
        links = list(self._links)
        await asyncio.gather(*(link.close(timeout_s) for link in links), return_exceptions=True)
        for link in links:
            link.abort("the client is closed")
            await link.wait_closed()
        self._links.clear()
        await self.inbox.close()

    async def _wait_link(self, call: Call) -> None:
        if self._closed:
            raise Unavailable("this client is closed")
        if self._waiting >= self._max_waiting:
            raise Overloaded(f"{self._waiting} calls wait for a connection to a gate already")
        self._waiting += 1
        try:
            connected = await set_before(self._up, call.deadline)
        finally:
            self._waiting -= 1
        if not connected:
            raise DeadlineExceeded(
                f"no gate could be reached before the deadline of {call}: {self._explain()}"
            )

    async def _reconnect(self) -> None:
        """Replace the link whenever it ends; runs until the session is closed."""
        now = asyncio.get_running_loop().time
        backoff = Backoff(self._random)
        since = now()
        while True:
            await self._down.wait()
            if now() - since >= STEADY_S:
                backoff.reset()
            else:
                await asyncio.sleep(backoff.next_s())
            link = await self._dial_round()
            while link is None:
                await asyncio.sleep(backoff.next_s())
                link = await self._dial_round()
            self._use(link)
            since = now()
            if self._on_reconnect and self.client_id:
                self._tasks.spawn("reconnected", self._tell_reconnected(self.client_id))

    async def _tell_reconnected(self, client_id: str) -> None:
        for handler in tuple(self._on_reconnect):
            try:
                result = handler(client_id)
                if inspect.isawaitable(result):
                    await result
            except Exception:
                log.exception("a handler of reconnects failed")

    async def _dial_round(self) -> Link | None:
        """Try every address once, in turn."""
        for _ in range(len(self._addresses)):
            address = self._addresses[0]
            try:
                link = await self._dial(address)
            except (CarrierClosed, GoverseError) as error:
                self._failures[address] = str(error) or type(error).__name__
                log.debug("no session at %s: %s", address, error)
                # The next attempt, in this round or after this link, is made elsewhere.
                self._addresses.append(self._addresses.pop(0))
                continue
            self._failures.clear()
            self._addresses.append(self._addresses.pop(0))
            return link
        return None

    async def _dial(self, address: str) -> Link:
        self._attempts += 1
        carrier = await self._network.connect(address, timeout_s=self._attempt_s)
        return await open_link(carrier, self._hello, self._serve, self._config)

    def _serve(self, peer: Hello, link: Link) -> CallTarget:
        if peer.role is not Role.GATE:
            raise FailedPrecondition(
                f"this is a {peer.role.value}, and clients connect to a gate (by default port "
                "49000)"
            )
        self._links[link] = None
        link.add_close_callback(self._ended)
        # At once, and not with the next call: what is pushed meanwhile goes to the next gate.
        link.add_goodbye_callback(self._retire)
        return self.inbox

    def _use(self, link: Link) -> None:
        if not link.takes_calls:  # it ended between its greeting and now
            self._down.set()
            return
        self._link = link
        self._down.clear()
        self._up.set()

    def _retire(self, link: Link) -> None:
        """Send nothing more on ``link``; its calls in flight go on."""
        if self._link is link:
            self._link = None
            self._up.clear()
            self._down.set()

    def _ended(self, link: Link) -> None:
        self._retire(link)
        if not self._closed:
            self._tasks.spawn("link end", self._forget(link))

    async def _forget(self, link: Link) -> None:
        await link.wait_closed()
        self._links.pop(link, None)

    def _explain(self) -> str:
        return "; ".join(f"{address}: {why}" for address, why in self._failures.items())
