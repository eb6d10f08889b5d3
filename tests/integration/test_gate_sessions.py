"""Client, session, ingress and catalog together, over the loopback network."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import msgspec
import pytest

import goverse
import goverse.client
from goverse.aio.runtime import Runtime
from goverse.call import Call, ChainEntry, Reply
from goverse.config.settings import LimitSettings
from goverse.errors import (
    ApplicationError,
    Conflict,
    DeadlineExceeded,
    Executed,
    GoverseError,
    InvalidArgument,
    NotFound,
    NotImplementedYet,
    ObjectFailed,
    PermissionDenied,
    Unavailable,
)
from goverse.ids import NO_EPOCH, MemberId
from goverse.transport.carrier import CarrierClosed
from goverse.transport.hello import Hello, Role, our_hello
from goverse.transport.link import Link, LinkConfig, open_link
from goverse.transport.loopback import LoopbackHub
from goverse.transport.wire import PROTOCOL, HelloFrame, encode
from goverse_gate.session import SessionsSnapshot
from tests.support.eventually import eventually
from tests.support.hosted import Counter, Hosted, hosted

GATE = "g1:49000"


@pytest.fixture
async def hub() -> AsyncIterator[LoopbackHub]:
    hub = LoopbackHub()
    yield hub
    await eventually(lambda: hub.connections() == 0)


@pytest.fixture
async def gate(hub: LoopbackHub) -> AsyncIterator[Hosted]:
    async with hosted(hub.network("g1"), GATE) as gate:
        yield gate
        await eventually(lambda: gate.sessions.snapshot().sessions == 0)
        assert gate.ingress.snapshot().doors == 0
        assert gate.ingress.snapshot().calls == 0


@pytest.fixture
async def client(hub: LoopbackHub, gate: Hosted) -> AsyncIterator[goverse.client.Client]:
    async with goverse.client.connect(GATE, network=hub.network("client")) as client:
        yield client


async def test_a_call_by_class_and_by_name(client: goverse.client.Client) -> None:
    assert await client.get(Counter, "a").add(5) == 5
    assert await client.get(Counter, "a").add() == 6
    assert await client.get("Counter", "a").add(amount=4) == 10


async def test_typed_errors_arrive(client: goverse.client.Client) -> None:
    with pytest.raises(ApplicationError) as refused:
        await client.get(Counter, "a").refuse("no_money")
    assert (refused.value.code, refused.value.details) == ("no_money", {"value": 0})
    with pytest.raises(ObjectFailed) as failed:
        await client.get(Counter, "a").fail()
    assert "inside" not in str(failed.value)
    with pytest.raises(NotFound):
        await client.get("Nothing", "a").add()
    with pytest.raises(InvalidArgument):
        await client.get("Counter", "a").add(amount="five")
    with pytest.raises(InvalidArgument):
        await client.get("Counter", "a").add(quantity=5)


async def test_create_and_delete(client: goverse.client.Client) -> None:
    counter = await client.create(Counter, "a")
    assert await counter.add(2) == 2
    with pytest.raises(Conflict):
        await client.create("Counter", "a")
    await client.delete(Counter, "a")
    await client.delete("Counter", "a")
    assert await client.get(Counter, "a").add() == 1


async def test_options_shorten_the_deadline(client: goverse.client.Client) -> None:
    with pytest.raises(TimeoutError) as caught:
        await goverse.options(client.get(Counter, "a"), timeout_s=0.05).wait()
    assert isinstance(caught.value, DeadlineExceeded)
    assert caught.value.executed is Executed.UNKNOWN


async def test_a_method_sees_the_client_id_that_the_gate_issued(
    client: goverse.client.Client,
) -> None:
    assert len(client.client_id) == 48  # the tag of its gate, and 128 random bits
    assert await client.get(Counter, "a").client() == client.client_id


async def test_many_calls_at_once(client: goverse.client.Client) -> None:
    counter = client.get(Counter, "a")
    results = await asyncio.gather(*(counter.add() for _ in range(500)))
    assert sorted(results) == list(range(1, 501))


class _Silent:
    async def invoke(self, call: Call) -> Reply:
        raise NotImplementedYet("no")


async def raw_link(hub: LoopbackHub, role: Role = Role.CLIENT) -> Link:
    """A peer that says what it likes."""
    carrier = await hub.network("raw").connect(GATE, timeout_s=1)

    def serve(theirs: Hello, link: Link) -> _Silent:
        return _Silent()

    name = "" if role is Role.CLIENT else "n1"
    config = LinkConfig(LimitSettings(), Runtime(), "raw")
    return await open_link(carrier, our_hello(role, MemberId(name, "x")), serve, config)


def a_call(**fields: object) -> Call:
    deadline = asyncio.get_running_loop().time() + 10
    call = Call("Counter", "a", "client", b"", deadline)
    for name, value in fields.items():
        setattr(call, name, value)
    return call


async def test_L30_a_session_cannot_act_as_another_one(hub: LoopbackHub, gate: Hosted) -> None:
    victim, thief = await raw_link(hub), await raw_link(hub)
    assert victim.peer.client_id != thief.peer.client_id
    # What a client says of itself is taken off where it arrives: it is who its link is.
    seen = await thief.invoke(a_call(client_id=victim.peer.client_id))
    assert msgspec.msgpack.decode(seen.payload) == thief.peer.client_id
    for link in (victim, thief):
        await link.close(1)


async def test_L31_sessions_go_through_the_same_door(hub: LoopbackHub, gate: Hosted) -> None:
    link = await raw_link(hub)
    for fields, expected in [
        ({"type": "no type"}, InvalidArgument),
        ({"id": ""}, InvalidArgument),
        ({"method": "a b"}, InvalidArgument),
        ({"call_id": "~r1"}, InvalidArgument),
    ]:
        with pytest.raises(expected):
            await link.invoke(a_call(**fields))
    statuses = [key[1] for key in gate.metrics.operation_seconds.children()]
    assert statuses == ["invalid_argument"]
    await link.close(1)


async def test_a_client_cannot_pretend_to_be_inside_a_chain(hub: LoopbackHub, gate: Hosted) -> None:
    link = await raw_link(hub)
    chain = (ChainEntry("Counter", "a", NO_EPOCH, 1),)
    assert (await link.invoke(a_call(chain=chain, principal="root"))).payload
    await link.close(1)


@pytest.mark.parametrize("role", [Role.NODE, Role.GATE])
async def test_members_are_turned_away(hub: LoopbackHub, gate: Hosted, role: Role) -> None:
    with pytest.raises(PermissionDenied, match="serves clients"):
        await raw_link(hub, role)


async def test_sessions_have_a_limit(hub: LoopbackHub) -> None:
    limits = LimitSettings(max_sessions=2)
    async with hosted(hub.network("g1"), GATE, limits) as gate:
        first, second = await raw_link(hub), await raw_link(hub)
        with pytest.raises(GoverseError, match="2 sessions"):
            await raw_link(hub)
        await first.close(1)
        await eventually(lambda: gate.sessions.snapshot().sessions == 1)
        third = await raw_link(hub)
        for link in (second, third):
            await link.close(1)


async def test_bytes_that_are_no_frames_end_that_link_alone(hub: LoopbackHub, gate: Hosted) -> None:
    good = await raw_link(hub)
    source = random.Random(1)
    greeting = HelloFrame(PROTOCOL, (), "client", "", "x", "", "")
    for number in range(60):
        carrier = await hub.network("odd").connect(GATE, timeout_s=1)
        if number % 2:
            await carrier.send(encode([greeting]))
            await carrier.receive()
        await carrier.send(source.randbytes(source.randint(0, 60)))
        with pytest.raises(CarrierClosed):
            while True:
                await carrier.receive()
        carrier.abort("done")
    await eventually(lambda: gate.sessions.snapshot() == SessionsSnapshot(1, 0))
    assert (await good.invoke(a_call())).payload
    assert good.snapshot().at_rest
    await good.close(1)


async def test_a_client_that_vanishes_leaves_nothing(hub: LoopbackHub, gate: Hosted) -> None:
    link = await raw_link(hub)
    waiting = asyncio.create_task(link.invoke(a_call(method="wait")))
    await eventually(lambda: gate.ingress.snapshot().calls == 1)
    hub.kill("raw")
    with pytest.raises(GoverseError):
        await waiting
    await eventually(lambda: gate.ingress.snapshot().calls == 0)
    await eventually(lambda: gate.sessions.snapshot().sessions == 0)
    await link.wait_closed()


async def test_L19_a_gate_stops_while_clients_are_connected(hub: LoopbackHub) -> None:
    async with hosted(hub.network("g1"), GATE) as gate:
        idle = await raw_link(hub)
        busy = await raw_link(hub)
        waiting = asyncio.create_task(busy.invoke(a_call(method="wait")))
        await eventually(lambda: gate.ingress.snapshot().calls == 1)
        await asyncio.wait_for(gate.sessions.close(0.1), 5)
        with pytest.raises(GoverseError) as caught:
            await waiting
        assert caught.value.executed is Executed.UNKNOWN
        assert gate.sessions.snapshot().sessions == 0
        with pytest.raises(Unavailable, match="stopping"):
            await raw_link(hub)
        for link in (idle, busy):
            await link.wait_closed()
