"""One link per member: dialled when needed, again when it broke, never to somebody else."""

from __future__ import annotations

import asyncio
import contextvars
from dataclasses import replace
from typing import Any

import pytest

from goverse.call import Reply
from goverse.config.settings import LimitSettings
from goverse.errors import Executed, LinkBroken, Overloaded
from goverse.ids import MemberId
from goverse.transport.carrier import CarrierClosed
from goverse.transport.hello import Hello, Role, our_hello
from goverse.transport.link import Link, open_link
from goverse.transport.loopback import LoopbackHub
from goverse.transport.pool import CONNECT_ATTEMPT_S, MAX_BACKOFF_S, MIN_BACKOFF_S, LinkPool
from tests.support.accepting import accept_links
from tests.support.eventually import eventually
from tests.support.links import SERVER, Held, Target, call, config, hello
from tests.support.virtual import virtual

FAR = MemberId("far", "1")


class World:
    """A member that listens, and a pool that dials it."""

    def __init__(self, target: Any = None, limits: LimitSettings | None = None) -> None:
        self.hub = LoopbackHub()
        self.target = target or Target()
        self.links: list[Link] = []
        self.pool = LinkPool(
            self.hub.network("near"), lambda: hello(Role.NODE, "near"), config("near", limits)
        )

    async def listen(self, incarnation: str = "1", address: str = SERVER) -> Any:
        accept = accept_links(
            hello(Role.NODE, "far", incarnation),
            lambda theirs, link: self.target,
            config("far"),
            on_link=self.links.append,
        )
        return await self.hub.network("far").listen(address, accept)

    def far(self) -> Any:
        return self.pool.target(FAR, SERVER)


@virtual
async def test_the_first_call_dials_and_the_next_ones_share() -> None:
    world = World()
    await world.listen()
    assert world.pool.connected() == ()
    target = world.far()
    replies = await asyncio.gather(*(target.invoke(call(b"%d" % n)) for n in range(20)))
    assert replies[7] == Reply(b"7")
    assert world.far() is target
    assert len(world.links) == 1
    assert world.pool.connected() == (FAR,)
    await world.pool.close(5)
    assert await world.links[0].wait_closed() == "the peer closed it"


@virtual
async def test_without_a_listener_a_call_waits_and_was_not_sent() -> None:
    world = World()
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(LinkBroken, match="connection refused") as caught:
        await world.far().invoke(call(timeout_s=5))
    assert caught.value.executed is Executed.NO
    assert loop.time() - began == pytest.approx(5, abs=0.01)
    began = loop.time()
    with pytest.raises(LinkBroken):
        await world.far().invoke(call(timeout_s=500))
    assert loop.time() - began == pytest.approx(30, abs=0.01)
    await eventually(lambda: not world.pool.snapshot().peers[0].dialling)
    assert world.pool.snapshot().peers[0].waiting_calls == 0


@virtual
async def test_a_listener_that_comes_late_gets_the_waiting_calls() -> None:
    world = World()
    tasks = [asyncio.create_task(world.far().invoke(call())) for _ in range(5)]
    await asyncio.wait(tasks, timeout=7)
    await world.listen()
    loop = asyncio.get_running_loop()
    began = loop.time()
    await asyncio.gather(*tasks)
    assert loop.time() - began <= MAX_BACKOFF_S
    assert len(world.links) == 1
    await world.pool.close(5)


@virtual
async def test_waiting_calls_are_limited() -> None:
    world = World(limits=replace(LimitSettings(), max_inflight_calls=3))
    tasks = [asyncio.create_task(world.far().invoke(call(timeout_s=2))) for _ in range(3)]
    await eventually(lambda: world.pool.snapshot().peers[0].waiting_calls == 3)
    with pytest.raises(Overloaded):
        await world.far().invoke(call())
    tasks[0].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert world.pool.snapshot().peers[0].waiting_calls == 0


@virtual
async def test_after_a_break_the_next_call_dials_again() -> None:
    world = World(Held())
    await world.listen()
    task = asyncio.create_task(world.far().invoke(call()))
    await eventually(lambda: world.target.calls)
    world.links[0].abort("broken")
    with pytest.raises(LinkBroken) as caught:
        await task
    assert caught.value.sent is True
    assert world.pool.connected() == ()
    world.target.free.set()
    await world.far().invoke(call())
    assert len(world.links) == 2
    await world.pool.close(5)


def test_the_backoff_brings_a_link_back_within_two_seconds() -> None:
    """However long the outage was: no attempt and no pause is longer than that."""
    assert (MIN_BACKOFF_S, MAX_BACKOFF_S) == (0.1, 1.0)

    @virtual
    async def body() -> None:
        world = World()
        await world.listen()
        target = world.far()
        await target.invoke(call())
        loop = asyncio.get_running_loop()
        for outage_s in (0.5, 4.0, 10.3, 31.7):
            world.hub.set_policy(lambda source, target: None)
            end = loop.time() + outage_s
            while loop.time() < end:  # somebody always wants something
                try:
                    await target.invoke(call(timeout_s=end - loop.time()))
                except (LinkBroken, TimeoutError):
                    pass
            world.hub.set_policy(None)
            began = loop.time()
            while True:
                try:
                    await target.invoke(call(timeout_s=5))
                    break
                except LinkBroken:
                    pass
            assert loop.time() - began <= CONNECT_ATTEMPT_S + MAX_BACKOFF_S
        await world.pool.close(5)

    body()


@virtual
async def test_only_the_incarnation_that_was_meant_is_talked_to() -> None:
    world = World()
    await world.listen(incarnation="2")
    with pytest.raises(LinkBroken, match=r"far@2 answers at .*, not far@1") as caught:
        await world.far().invoke(call(timeout_s=3))
    assert caught.value.sent is False
    assert world.target.calls == []
    assert await world.pool.target(MemberId("far", "2"), SERVER).invoke(call(b"x")) == Reply(b"x")
    await world.pool.close(5)


@virtual
async def test_a_process_that_is_nobody_dials_nobody() -> None:
    """Neither before it joined nor when it lost its lease while it was connecting."""
    world = World()
    await world.listen()
    who: list[Hello | None] = [None]
    pool = LinkPool(world.hub.network("near"), lambda: who[0], config("near"))
    with pytest.raises(LinkBroken, match="has not joined") as caught:
        await pool.target(FAR, SERVER).invoke(call(timeout_s=1))
    assert caught.value.sent is False
    await eventually(lambda: not pool.snapshot().peers[0].dialling, timeout_s=60)
    who[0] = hello(Role.NODE, "near")
    world.hub.set_policy(lambda source, target: 0.2)
    pool.dial(FAR, SERVER)
    await eventually(lambda: world.hub.connections() == 2)
    who[0] = None
    await eventually(lambda: "has not joined" in pool.snapshot().peers[0].last_error)
    assert world.links == []
    await pool.close(5)
    await eventually(lambda: world.hub.connections() == 0)


@virtual
async def test_a_dropped_member_is_not_waited_for_and_not_believed() -> None:
    """Its key is gone: what still arrives on its link is ignored."""
    world = World(Held())
    await world.listen()
    target = world.far()
    task = asyncio.create_task(target.invoke(call()))
    await eventually(lambda: world.target.calls)
    world.hub.set_policy(lambda source, target: 0.5)
    world.target.free.set()  # the reply is on its way
    await eventually(lambda: world.links[0].snapshot().served_calls == 0)
    world.pool.drop(FAR, "its key is gone")
    with pytest.raises(LinkBroken, match="its key is gone") as caught:
        await task
    assert caught.value.sent is True
    with pytest.raises(LinkBroken) as caught:
        await target.invoke(call())
    assert caught.value.sent is False
    assert world.pool.snapshot().peers == ()
    world.pool.drop(FAR, "twice")


@virtual
async def test_dropping_a_member_frees_those_who_wait_for_it() -> None:
    world = World()
    task = asyncio.create_task(world.far().invoke(call()))
    await eventually(lambda: world.pool.snapshot().peers)
    world.pool.drop(FAR, "its key is gone")
    with pytest.raises(LinkBroken) as caught:
        await task
    assert caught.value.sent is False


@virtual
async def test_a_member_that_said_goodbye_is_not_called_on_that_link() -> None:
    world = World()
    listener = await world.listen()
    target = world.far()
    await target.invoke(call())
    world.links[0].goodbye()
    await eventually(lambda: world.pool.connected() == ())
    await listener.close()
    with pytest.raises(LinkBroken) as caught:
        await target.invoke(call(timeout_s=1))
    assert caught.value.sent is False
    await world.pool.close(5)


async def dialled_by_far(world: World, near_target: Any) -> Link:
    """A link that the other member opened to us."""

    def adopt(link: Link) -> None:
        world.pool.adopt(link)

    accept = accept_links(
        hello(Role.NODE, "near"), lambda theirs, link: near_target, config("near"), on_link=adopt
    )
    await world.hub.network("near").listen("near:1", accept)
    carrier = await world.hub.network("far").connect("near:1", timeout_s=5)
    return await open_link(
        carrier, hello(Role.NODE, "far"), lambda theirs, link: world.target, config("far")
    )


@virtual
async def test_a_link_that_the_member_opened_is_used() -> None:
    world = World()
    theirs = await dialled_by_far(world, Target())
    await eventually(lambda: world.pool.connected() == (FAR,))
    assert await world.far().invoke(call(b"x")) == Reply(b"x")
    assert world.links == []
    world.pool.drop(FAR, "its key is gone")
    assert "its key is gone" in await theirs.wait_closed()


@virtual
async def test_a_member_that_only_dialled_us_is_forgotten_with_its_link() -> None:
    world = World()
    theirs = await dialled_by_far(world, Target())
    await eventually(lambda: world.pool.connected() == (FAR,))
    theirs.abort("bye")
    await eventually(lambda: world.pool.snapshot().peers == ())


@virtual
async def test_an_adopted_link_serves_those_who_wait() -> None:
    world = World()
    task = asyncio.create_task(world.far().invoke(call(b"x")))
    await eventually(lambda: world.pool.snapshot().peers)
    await dialled_by_far(world, Target())
    assert (await task).payload == b"x"
    await world.pool.close(5)
    await eventually(lambda: world.hub.connections() == 0)


@virtual
async def test_clients_are_not_adopted() -> None:
    world = World()
    await world.listen()
    carrier = await world.hub.network("c").connect(SERVER, timeout_s=5)
    await open_link(
        carrier, hello(Role.CLIENT, "", "r"), lambda theirs, link: Target(), config("c")
    )
    await eventually(lambda: world.links)
    with pytest.raises(ValueError, match="no member"):
        world.pool.adopt(world.links[0])
    world.links[0].abort("done")


@virtual
async def test_dial_has_a_link_ready() -> None:
    world = World()
    await world.listen()
    world.pool.dial(FAR, SERVER)
    await eventually(lambda: world.pool.connected() == (FAR,))
    world.pool.dial(FAR, SERVER)
    assert len(world.links) == 1
    await world.pool.close(5)


@virtual
async def test_a_lost_lease_ends_every_link() -> None:
    world = World()
    await world.listen()
    await world.far().invoke(call())
    world.pool.abort_all("the lease is lost")
    assert world.pool.connected() == ()
    await world.far().invoke(call())
    assert len(world.links) == 2
    await world.pool.close(5)


@virtual
async def test_a_closed_pool_takes_no_calls_and_leaves_nothing() -> None:
    world = World()
    waiting = asyncio.create_task(world.far().invoke(call()))
    await eventually(lambda: world.pool.snapshot().peers)
    await world.pool.close(5)
    with pytest.raises(LinkBroken) as caught:
        await waiting
    assert caught.value.sent is False
    with pytest.raises(LinkBroken):
        await world.pool.target(MemberId("other", "1"), "x:1").invoke(call())
    theirs = await dialled_by_far(world, Target())
    assert "closing" in await theirs.wait_closed()
    assert world.hub.connections() == 0


request: contextvars.ContextVar[str] = contextvars.ContextVar("request", default="none")


@virtual
async def test_links_do_not_see_the_context_of_the_call_that_dialled() -> None:
    """Or every later call on the link would seem to be part of that one."""
    seen: list[str] = []

    def serve(theirs: Hello, link: Link) -> Target:
        seen.append(request.get())
        return Target(lambda call: answer())

    async def answer() -> Reply:
        seen.append(request.get())
        return Reply(b"")

    world = World()
    world.pool = LinkPool(
        world.hub.network("near"),
        lambda: our_hello(Role.NODE, MemberId("near", "1")),
        config("near"),
        serve,
    )
    await world.listen()
    request.set("of one call")
    await world.far().invoke(call())
    await world.links[0].invoke(call())
    assert seen == ["none", "none"]
    await world.pool.close(5)


@virtual
async def test_a_network_that_refuses_is_reported() -> None:
    world = World()
    with pytest.raises(CarrierClosed, match="refused"):
        await world.hub.network("near").connect("nowhere:1", timeout_s=1)
    world.pool.dial(FAR, SERVER)
    await eventually(lambda: "refused" in world.pool.snapshot().peers[0].last_error)
    world.pool.drop(FAR, "done")
