"""A gate for clients to talk to, with nothing behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from goverse.aio.runtime import Runtime
from goverse.call import Call, CallTarget, Reply
from goverse.config.settings import LimitSettings
from goverse.errors import GoverseError
from goverse.ids import MemberId
from goverse.transport.carrier import Carrier, Listener, Network
from goverse.transport.hello import Hello, Role, our_hello
from goverse.transport.link import Link, LinkConfig, open_link


class Answers:
    """A `CallTarget` that remembers what came and answers by ``answer``."""

    def __init__(self, answer: Callable[[Call], Reply] | None = None) -> None:
        self.calls: list[Call] = []
        self.answer = answer or (lambda call: Reply(call.payload, call.codec))
        self.hold: asyncio.Event | None = None
        self.running = 0

    async def invoke(self, call: Call) -> Reply:
        self.calls.append(call)
        self.running += 1
        try:
            if self.hold is not None:
                await self.hold.wait()
            return self.answer(call)
        finally:
            self.running -= 1


class FakeGate:
    """Listens from `start` to `stop`; ``refuse`` turns clients away."""

    def __init__(
        self, network: Network, address: str, target: CallTarget, role: Role = Role.GATE
    ) -> None:
        self.address = address
        self.target = target
        self.links: list[Link] = []
        self.refuse: GoverseError | None = None
        self._network = network
        self._role = role
        self._listener: Listener | None = None
        self._config = LinkConfig(LimitSettings(), Runtime(), "gate")

    async def start(self) -> None:
        self._listener = await self._network.listen(self.address, self._accept)

    async def stop(self) -> None:
        for link in self.links:
            link.abort("the gate has gone")
            await link.wait_closed()
        self.links.clear()
        if self._listener is not None:
            await self._listener.close()
            self._listener = None

    async def _accept(self, carrier: Carrier) -> None:
        client_id = f"client-{len(self.links)}"

        def greet(theirs: Hello) -> Hello:
            if self.refuse is not None:
                raise self.refuse
            return our_hello(self._role, MemberId("g1", "x"), client_id=client_id)

        def serve(theirs: Hello, link: Link) -> CallTarget:
            self.links.append(link)
            return self.target

        mine = our_hello(self._role, MemberId("g1", "x"))
        try:
            link = await open_link(carrier, mine, serve, self._config, on_hello=greet)
        except GoverseError:
            return
        await link.wait_closed()
