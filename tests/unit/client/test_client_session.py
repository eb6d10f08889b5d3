"""The client's session: waiting, reconnecting, several gates, the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from goverse.aio.runtime import Runtime
from goverse.call import Call, Reply
from goverse.client.session import Session
from goverse.config.settings import LimitSettings
from goverse.errors import (
    ApplicationError,
    DeadlineExceeded,
    Executed,
    Overloaded,
    Unavailable,
)
from goverse.transport.hello import Role
from goverse.transport.loopback import LoopbackHub
from tests.support.eventually import eventually
from tests.support.fake_gate import Answers, FakeGate

G1, G2 = "g1:49000", "g2:49000"


def a_call(timeout_s: float = 10.0, payload: bytes = b"x") -> Call:
    deadline = asyncio.get_running_loop().time() + timeout_s
    return Call("Counter", "a", "add", payload, deadline)


@dataclass
class World:
    hub: LoopbackHub
    target: Answers
    g1: FakeGate
    g2: FakeGate

    def session(self, *addresses: str, limits: LimitSettings | None = None) -> Session:
        network = self.hub.network("client")
        return Session(network, addresses, limits or LimitSettings(), Runtime())


@pytest.fixture
async def world() -> AsyncIterator[World]:
    hub = LoopbackHub()
    target = Answers()
    world = World(
        hub,
        target,
        FakeGate(hub.network("g1"), G1, target),
        FakeGate(hub.network("g2"), G2, target),
    )
    await world.g1.start()
    yield world
    await world.g1.stop()
    await world.g2.stop()
    assert hub.connections() == 0
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    await eventually(lambda: all(task.done() for task in left))


async def test_a_call_is_answered(world: World) -> None:
    session = world.session(G1)
    await session.open(0)
    assert await session.invoke(a_call()) == Reply(b"x")
    assert session.client_id == "client-0"
    assert session.snapshot().gate == G1
    await session.close(1)
    at_rest = session.snapshot()
    assert (at_rest.links, at_rest.waiting, at_rest.gate) == (0, 0, "")


async def test_errors_arrive_with_their_type(world: World) -> None:
    def refuse(call: Call) -> Reply:
        raise ApplicationError("no_money", "not enough", {"missing": 5})

    world.target.answer = refuse
    session = world.session(G1)
    await session.open(0)
    with pytest.raises(ApplicationError) as caught:
        await session.invoke(a_call())
    assert (caught.value.code, caught.value.details) == ("no_money", {"missing": 5})
    await session.close(1)


async def test_where_nobody_listens_the_error_says_what_to_do(world: World) -> None:
    session = world.session("nowhere:49000", "elsewhere:49000")
    with pytest.raises(Unavailable) as caught:
        await session.open(0)
    for part in ("nowhere:49000", "elsewhere:49000", "goverse-cli dev", "49000"):
        assert part in caught.value.message
    assert caught.value.executed is Executed.NO
    await session.close(1)


async def test_opening_may_wait_for_a_gate_to_start(world: World) -> None:
    session = world.session(G2)
    opening = asyncio.create_task(session.open(10))
    await eventually(lambda: session.snapshot().attempts > 1)
    await world.g2.start()
    await opening
    assert await session.invoke(a_call()) == Reply(b"x")
    await session.close(1)


async def test_a_node_is_not_taken_for_a_gate(world: World) -> None:
    node = FakeGate(world.hub.network("n1"), "n1:48000", world.target, Role.NODE)
    await node.start()
    session = world.session("n1:48000")
    with pytest.raises(Unavailable, match="this is a node"):
        await session.open(0)
    await session.close(1)
    await node.stop()


async def test_any_gate_that_answers_is_used(world: World) -> None:
    session = world.session("nowhere:49000", G1, G2)
    await session.open(0)
    assert session.snapshot().gate == G1
    await session.close(1)


async def test_a_call_that_was_sent_on_a_broken_link_is_unknown(world: World) -> None:
    world.target.hold = asyncio.Event()
    session = world.session(G1)
    await session.open(0)
    running = asyncio.create_task(session.invoke(a_call()))
    await eventually(lambda: world.target.running == 1)
    world.hub.kill("g1")
    with pytest.raises(Unavailable) as caught:
        await running
    assert caught.value.executed is Executed.UNKNOWN
    assert len(world.target.calls) == 1
    await session.close(1)


async def test_calls_wait_while_reconnecting_and_go_to_another_gate(world: World) -> None:
    session = world.session(G1, G2)
    await session.open(0)
    world.hub.kill("g1")
    await eventually(lambda: session.snapshot().gate == "")
    waiting = [asyncio.create_task(session.invoke(a_call())) for _ in range(3)]
    await eventually(lambda: session.snapshot().waiting == 3)
    await world.g2.start()
    assert await asyncio.gather(*waiting) == [Reply(b"x")] * 3
    assert session.snapshot().gate == G2
    assert session.snapshot().waiting == 0
    await session.close(1)


async def test_a_call_waits_no_longer_than_its_deadline(world: World) -> None:
    session = world.session(G1)
    await session.open(0)
    world.hub.kill("g1")
    await eventually(lambda: session.snapshot().gate == "")
    with pytest.raises(DeadlineExceeded) as caught:
        await session.invoke(a_call(0.05))
    assert caught.value.executed is Executed.NO
    assert session.snapshot().waiting == 0
    await session.close(1)


async def test_only_so_many_calls_wait(world: World) -> None:
    session = world.session(G1, limits=LimitSettings(max_session_calls=1))
    await session.open(0)
    world.hub.kill("g1")
    await eventually(lambda: session.snapshot().gate == "")
    waiting = asyncio.create_task(session.invoke(a_call()))
    await eventually(lambda: session.snapshot().waiting == 1)
    with pytest.raises(Overloaded):
        await session.invoke(a_call())
    waiting.cancel()
    await asyncio.wait([waiting])
    assert session.snapshot().waiting == 0
    await session.close(1)


async def test_L19_a_goodbye_moves_new_calls_and_lets_old_ones_end(world: World) -> None:
    await world.g2.start()
    session = world.session(G1, G2)
    await session.open(0)
    gate = world.g1 if session.snapshot().gate == G1 else world.g2
    other = world.g2 if gate is world.g1 else world.g1
    world.target.hold = asyncio.Event()
    running = asyncio.create_task(session.invoke(a_call(payload=b"old")))
    await eventually(lambda: world.target.running == 1)
    closing = asyncio.create_task(gate.links[0].close(10))
    await eventually(lambda: gate.links[0].snapshot().state == "closing")
    new = asyncio.create_task(session.invoke(a_call(payload=b"new")))
    await eventually(lambda: len(other.links) == 1 and world.target.running == 2)
    world.target.hold.set()
    assert await running == Reply(b"old")
    assert await new == Reply(b"new")
    await closing
    await eventually(lambda: session.snapshot().links == 1)
    assert session.snapshot().gate == other.address
    await session.close(1)


async def test_L19_a_goodbye_moves_a_client_that_makes_no_calls(world: World) -> None:
    """What is pushed to it meanwhile goes to a gate that stays; its call in flight goes on."""
    await world.g2.start()
    session = world.session(G1, G2)
    told: list[str] = []
    session.on_reconnect(told.append)
    await session.open(0)
    gate = world.g1 if session.snapshot().gate == G1 else world.g2
    other = world.g2 if gate is world.g1 else world.g1
    world.target.hold = asyncio.Event()
    running = asyncio.create_task(session.invoke(a_call()))
    await eventually(lambda: world.target.running == 1)
    closing = asyncio.create_task(gate.links[0].close(10))
    await eventually(lambda: session.snapshot().gate == other.address and told)
    assert not closing.done() and not running.done()
    world.target.hold.set()
    assert await running == Reply(b"x")
    await closing
    assert told == [session.client_id]
    await session.close(1)


async def test_L29_a_client_whose_only_gate_drains_holds_no_more_calls_than_it_may(
    world: World,
) -> None:
    session = world.session(G1, limits=LimitSettings(max_session_calls=2))
    await session.open(0)
    world.g1.refuse = Unavailable("this gate is stopping")
    await world.g1.links[0].close(10)
    await eventually(lambda: session.snapshot().gate == "")
    waiting = [asyncio.create_task(session.invoke(a_call())) for _ in range(2)]
    await eventually(lambda: session.snapshot().waiting == 2)
    for _ in range(20):
        with pytest.raises(Overloaded) as refused:
            await session.invoke(a_call())
        assert refused.value.executed is Executed.NO
    world.g1.refuse = None  # it is back
    assert await asyncio.gather(*waiting) == [Reply(b"x")] * 2
    await session.close(1)


async def test_cancelling_a_call_cancels_it_at_the_gate(world: World) -> None:
    world.target.hold = asyncio.Event()
    session = world.session(G1)
    await session.open(0)
    running = asyncio.create_task(session.invoke(a_call()))
    await eventually(lambda: world.target.running == 1)
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
    await eventually(lambda: world.target.running == 0)
    await session.close(1)


async def test_a_closed_session_refuses_and_wakes_those_who_wait(world: World) -> None:
    session = world.session(G1)
    await session.open(0)
    world.hub.kill("g1")
    await eventually(lambda: session.snapshot().gate == "")
    waiting = asyncio.create_task(session.invoke(a_call()))
    await eventually(lambda: session.snapshot().waiting == 1)
    await session.close(1)
    for call in (waiting, session.invoke(a_call())):
        with pytest.raises(Unavailable, match="closed"):
            await call


async def test_closing_lets_calls_in_flight_end(world: World) -> None:
    world.target.hold = asyncio.Event()
    session = world.session(G1)
    await session.open(0)
    running = asyncio.create_task(session.invoke(a_call()))
    await eventually(lambda: world.target.running == 1)
    closing = asyncio.create_task(session.close(10))
    await eventually(lambda: session.snapshot().gate == "")
    world.target.hold.set()
    assert await running == Reply(b"x")
    await closing


async def test_a_gate_that_refuses_is_not_asked_in_a_hot_loop(world: World) -> None:
    session = world.session(G1)
    await session.open(0)
    world.g1.refuse = Overloaded("no more sessions")
    world.g1.links[0].abort("gone")
    await eventually(lambda: session.snapshot().attempts > 1)
    before = session.snapshot().attempts
    with pytest.raises(DeadlineExceeded, match="no more sessions"):
        await session.invoke(a_call(0.3))
    assert session.snapshot().attempts - before < 8
    world.g1.refuse = None
    assert await session.invoke(a_call()) == Reply(b"x")
    await session.close(1)
