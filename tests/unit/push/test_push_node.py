"""A node's queues to its gates, with links that answer as they are told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

from goverse.call import Call, Reply
from goverse.config.settings import LimitSettings
from goverse.errors import (
    DeadlineExceeded,
    GoverseError,
    LinkBroken,
    NotImplementedYet,
    Overloaded,
)
from goverse.ids import MemberId, gate_tag
from goverse.observability.metrics import Metrics
from goverse.transport.pushes import Push, pushes_of, reply_of
from goverse_node.pushes import Pushes
from tests.support.eventually import eventually
from tests.support.room import outcomes

G1, G2 = MemberId("g1", "a"), MemberId("g2", "b")


class FakeLink:
    """Takes calls as long as it is up; ``hold`` keeps them, ``error`` is what they end with."""

    def __init__(self, member: MemberId) -> None:
        self.peer = SimpleNamespace(member=member)
        self.takes_calls = True
        self.hold: asyncio.Event | None = None
        self.error: GoverseError | None = None
        self.calls: list[list[str]] = []
        self.running = self.most = 0
        self._on_close: list[Callable[[Any], None]] = []

    def add_close_callback(self, callback: Callable[[Any], None]) -> None:
        self._on_close.append(callback)

    def end(self) -> None:
        self.takes_calls = False
        for callback in self._on_close:
            callback(self)

    async def invoke(self, call: Call) -> Reply:
        pushes = pushes_of(call)
        self.calls.append([push.type for push in pushes])
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if self.hold is not None:
                await self.hold.wait()
            if self.error is not None:
                raise self.error
            return reply_of({"waiting": sum(len(push.clients or ()) for push in pushes)})
        finally:
            self.running -= 1


class World:
    def __init__(self, **limits: int) -> None:
        self.gone: list[Callable[[MemberId], None]] = []
        gates = {gate.name: SimpleNamespace(member=gate) for gate in (G1, G2)}
        view = SimpleNamespace(
            revision=1, state=SimpleNamespace(gates=gates), on_member_gone=self.gone.append
        )
        self.valid = True
        self.metrics = Metrics()
        self.pushes = Pushes(
            cast(Any, view),
            lambda: self.valid,
            LimitSettings(**limits),
            self.metrics,  # type: ignore[arg-type]
        )

    def link(self, member: MemberId = G1) -> FakeLink:
        link = FakeLink(member)
        self.pushes.linked(cast(Any, link))
        return link

    def send(self, *names: str, gate: MemberId = G1) -> None:
        clients = (gate_tag(gate.name) + "0" * 32,)
        self.pushes.send([Push(name, b"{}", b"", clients) for name in names])

    def counted(self) -> dict[str, float]:
        return outcomes(self.metrics)

    async def rest(self) -> None:
        await eventually(lambda: self.pushes.snapshot().at_rest)


async def test_what_gathers_during_a_call_is_the_next_one() -> None:
    world = World()
    link = world.link()
    link.hold = asyncio.Event()
    world.send("a")
    await eventually(lambda: link.running == 1)
    world.send("b", "c")
    world.send("d")
    link.hold.set()
    await world.rest()
    assert (link.calls, link.most) == ([["a"], ["b", "c", "d"]], 1)
    assert world.counted() == {"sent": 4}


async def test_one_call_per_gate_however_many_clients() -> None:
    world = World()
    one, two = world.link(G1), world.link(G2)
    clients = [gate_tag(gate.name) + f"{n:032x}" for n in range(500) for gate in (G1, G2)]
    world.pushes.send([Push("a", b"{}", b"", tuple(clients))])
    await world.rest()
    assert (one.calls, two.calls) == ([["a"]], [["a"]])
    assert world.counted() == {"sent": 1000}


async def test_a_gate_that_hangs_holds_up_no_other() -> None:
    world = World()
    slow, fast = world.link(G1), world.link(G2)
    slow.hold = asyncio.Event()
    world.send("a")
    world.send("b", gate=G2)
    await eventually(lambda: world.counted() == {"sent": 1})
    assert fast.calls == [["b"]]
    slow.hold.set()
    await world.rest()


async def test_L26_a_full_queue_drops_and_counts() -> None:
    world = World(max_inflight_calls=3)
    world.send(*"abcde")
    assert world.counted() == {"buffer_full": 2}
    assert world.pushes.snapshot().queues[0].messages == 3
    bytes_, messages = sorted(world.pushes.limits(), key=lambda limit: limit.name)
    assert (messages.used, messages.most) == (3, 3) and 0 < bytes_.used < bytes_.most
    link = world.link()
    await world.rest()
    assert link.calls == [["a", "b", "c"]]
    assert world.counted() == {"buffer_full": 2, "sent": 3}
    assert not any(limit.used for limit in world.pushes.limits())
    small = World(max_inflight_bytes=bytes_.used)
    small.send(*"abcd")
    assert small.counted() == {"buffer_full": 1}
    await small.pushes.close(0)


async def test_what_was_never_sent_goes_to_the_next_link_in_order() -> None:
    world = World()
    link = world.link()
    link.hold = asyncio.Event()
    link.error = LinkBroken("cut", sent=False)
    world.send("a", "b")
    await eventually(lambda: link.running == 1)
    world.send("c")
    link.end()
    link.hold.set()
    await eventually(lambda: world.pushes.snapshot().queues[0].messages == 3)
    second = world.link()
    await world.rest()
    assert second.calls == [["a", "b", "c"]]
    assert world.counted() == {"sent": 3}


async def test_what_may_have_been_sent_is_not_sent_again() -> None:
    for error, outcome in (
        (LinkBroken("cut", sent=True), "unknown"),
        (DeadlineExceeded("late"), "unknown"),
        (Overloaded("full"), "buffer_full"),
        (NotImplementedYet("old"), "refused"),
    ):
        world = World()
        link = world.link()
        link.error = error
        world.send("a")
        await world.rest()
        assert (link.calls, world.counted()) == ([["a"]], {outcome: 1})


async def test_nothing_leaves_without_a_lease_nor_under_the_next_one() -> None:
    world = World()
    world.send("waits")
    world.pushes.discard("lost")
    link = world.link()
    link.hold = asyncio.Event()
    link.error = LinkBroken("the lease ended", sent=False)
    world.send("under way")
    await eventually(lambda: link.running == 1)
    world.pushes.discard("lost")
    link.hold.set()
    await world.rest()
    assert link.calls == [["under way"]]
    link.error = None
    world.valid = False
    world.send("too late")
    await world.rest()
    assert link.calls == [["under way"]]
    assert world.counted() == {"lease_lost": 3}


async def test_a_gate_that_is_gone_takes_its_queue_with_it() -> None:
    world = World()
    world.send("a", "b")
    for gone in world.gone:
        gone(G1)
    await world.rest()
    assert world.pushes.snapshot().queues == ()
    assert world.counted() == {"no_gate": 2}


async def test_a_stop_lets_what_waits_leave_and_counts_the_rest() -> None:
    world = World()
    link = world.link()
    world.send("a")
    world.send("b", gate=G2)
    await world.pushes.close(0.05)
    assert link.calls == [["a"]]
    assert world.counted() == {"sent": 1, "no_link": 1}
    world.send("c")
    assert world.counted()["buffer_full"] == 1
