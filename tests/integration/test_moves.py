"""Shards move under load, planned and disturbed: no call fails, is lost or runs twice, and declared
state goes along."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import pytest

import goverse
from goverse.call import Call, Verb
from goverse.client import Client
from goverse.errors import FailedPrecondition, GoverseError, InvalidArgument, PermissionDenied
from goverse.ids import Epoch, MemberId
from goverse.objects.luggage import Packed, Piece
from goverse.testing import COORDINATOR, TEST_SETTINGS, Cluster, Member
from goverse.transport.hello import FEATURES, MOVE_STATE, Hello
from goverse_gate.app import Gate
from goverse_node.app import Node
from goverse_node.moves import NodeMoves
from tests.support.virtual import elapse

pytestmark = pytest.mark.virtual_time

SETTINGS = replace(TEST_SETTINGS, objects=replace(TEST_SETTINGS.objects, idle_timeout_s=300.0))
SHARDS = SETTINGS.cluster.initial_num_shards


class Volatile(goverse.Object):
    value: int = 0

    @goverse.method
    async def add(self, work_s: float = 0.0) -> int:
        self.value += 1
        mine = self.value
        if work_s:
            await elapse(work_s)
        return mine

    @goverse.method
    async def add_through(self, others: list[str], work_s: float = 0.0) -> int:
        """A chain over other objects, each within the turn of the one before."""
        self.value += 1
        mine = self.value
        await elapse(work_s)
        if others:
            await goverse.get(Volatile, others[0]).add_through(others[1:], work_s)
        return mine


class Circle(goverse.Object, reentrancy="allow"):
    value: int = 0

    @goverse.method
    async def round(self, others: list[str], work_s: float = 0.0) -> int:
        """Calls that come back into a turn that waits for them."""
        self.value += 1
        mine = self.value
        await elapse(work_s)
        if others:
            await goverse.get(Circle, others[0]).round(others[1:], work_s)
        return mine


class Durable(goverse.Object, durability="acknowledged"):
    value: int = 0

    @goverse.method
    async def add(self) -> int:
        self.value += 1
        return self.value


@dataclass
class Load:
    """Callers with an object of their own each, which tell what was not as it should be."""

    client: Client
    wrong: list[str] = field(default_factory=list)
    answered: int = 0
    volatile_may_go: bool = False
    """A node has died: volatile objects may begin afresh, and outcomes be unknown."""
    _stopping: bool = False

    @asynccontextmanager
    async def running(self, callers: int = 12) -> AsyncIterator[Load]:
        tasks = [asyncio.create_task(self._call(n)) for n in range(callers)]
        try:
            yield self
        finally:
            self._stopping = True
            await asyncio.gather(*tasks)
        assert self.wrong == []
        assert self.answered > callers

    async def _call(self, number: int) -> None:
        kinds: dict[str, Callable[[], Awaitable[int]]] = {
            "volatile": self.client.get(Volatile, f"v{number}").add,
            "working": lambda: self.client.get(Volatile, f"w{number}").add(work_s=0.05),
            "durable": self.client.get(Durable, f"d{number}").add,
            "chain": lambda: self.client.get(Volatile, f"x{number}").add_through(
                [f"y{number}", f"z{number}"], work_s=0.01
            ),
            "circle": lambda: self.client.get(Circle, f"a{number}").round(
                [f"b{number}", f"c{number}"], work_s=0.01
            ),
        }
        least = dict.fromkeys(kinds, 0)
        most = dict.fromkeys(kinds, 0)
        while not self._stopping:
            for kind, call in kinds.items():
                most[kind] += 1
                try:
                    value = await call()
                except GoverseError as error:
                    if error.executed.value == "no":
                        most[kind] -= 1
                    self._check(self.volatile_may_go, f"{kind} {number}: {error}")
                    continue
                afresh = self.volatile_may_go and kind != "durable"
                good = least[kind] < value <= most[kind] or (afresh and value < most[kind])
                self._check(good, f"{kind} {number}: {value} after {least[kind]}..{most[kind]}")
                least[kind] = most[kind] = value
                self.answered += 1
            await elapse(0.02)

    def _check(self, good: bool, text: str) -> None:
        if not good:
            self.wrong.append(text)


@asynccontextmanager
async def cluster(
    nodes: int = 3, settings: Any = SETTINGS, *, seed: int = 5
) -> AsyncIterator[Cluster]:
    made = Cluster(
        Volatile,
        Circle,
        Durable,
        nodes=nodes,
        settings=settings,
        seed=seed,
        latency_s=(0.0002, 0.002),
    )
    async with made as world:
        yield world
        await world.wait_all_claimed()


def node_of(world: Cluster, name: str) -> Node:
    node = world.member(name).node
    assert node is not None
    return node


def outcomes(*members: Member) -> dict[str, int]:
    """What became of packed objects, over all these members."""
    found: dict[str, int] = {}
    for member in members:
        for (outcome,), count in member.metrics.moved_objects.children().items():
            found[outcome] = found.get(outcome, 0) + int(count)
    return found


async def all_at(world: Cluster, wanted: dict[int, str]) -> None:
    await world.wait_until(lambda: world.owners() == wanted)


def lying_on(world: Cluster, name: str, shard: int) -> bool:
    """Whether state for ``shard`` waits on a node."""
    arrivals = node_of(world, name).catalog._moves.arrivals  # type: ignore[union-attr]
    return any(found == shard for found, _ in arrivals.shards())


@asynccontextmanager
async def held_deliveries(step: str) -> AsyncIterator[asyncio.Event]:
    """Have couriers wait for the event, before or after they have delivered."""
    free, deliver = asyncio.Event(), NodeMoves.deliver

    async def held(self: NodeMoves, *args: Any) -> None:
        if step == "before":
            await free.wait()
        await deliver(self, *args)
        if step == "after":
            await free.wait()

    NodeMoves.deliver = held  # type: ignore[method-assign]
    try:
        yield free
    finally:
        NodeMoves.deliver = deliver  # type: ignore[method-assign]


# -- undisturbed -------------------------------------------------------------------------------


async def test_L14_many_pairs_at_once_under_load_and_no_call_fails() -> None:
    async with cluster(nodes=4) as world:
        async with Load(await world.client()).running():
            for step in range(8):
                wanted = {shard: f"n{(shard + step) % 4 + 1}" for shard in range(SHARDS)}
                for shard, name in wanted.items():
                    await world.pin(shard, name)
                await all_at(world, wanted)
        found = outcomes(*world.members)
        assert set(found) == {"sent", "restored"} and found["sent"] >= found["restored"] > 200
        assert not any(lying_on(world, f"n{n}", s) for n in range(1, 5) for s in range(SHARDS))


async def test_L14_a_rolling_restart_under_load_loses_no_call_and_no_state() -> None:
    async with cluster(nodes=3) as world, Load(await world.client()).running(6):
        for name in ("n1", "n2", "n3"):
            await world.stop(name)
            await world.wait_all_claimed()
            await world.start_node(name)
            await world.wait_until(lambda name=name: name in world.owners().values())


async def test_L13_a_node_that_joins_takes_shards_with_their_state() -> None:
    async with cluster(nodes=1) as world, Load(await world.client()).running(6):
        for name in ("n2", "n3", "n4"):
            await world.start_node(name)
            await world.wait_until(lambda name=name: name in world.owners().values())


async def test_a_turn_of_25_s_calls_the_move_off_and_ends_undisturbed() -> None:
    async with cluster(nodes=2) as world:
        client = await world.client()
        slow, beside = "shard#3/slow", "shard#3/beside"
        home = world.owner_of(slow)
        away = "n2" if home == "n1" else "n1"
        loop = asyncio.get_running_loop()
        started = loop.time()
        turn = asyncio.create_task(client.get(Volatile, slow).add(work_s=25.0))
        await elapse(0.1)
        await world.pin(3, away)
        count, longest = 0, 0.0
        while not turn.done():
            asked = loop.time()
            assert await client.get(Volatile, beside).add() == count + 1
            count, longest = count + 1, max(longest, loop.time() - asked)
            await elapse(0.1)
        assert await turn == 1 and 25.0 <= loop.time() - started < 26.0
        # Held while an attempt lasts, and no longer.
        assert count > 100 and longest < SETTINGS.node.drain_timeout_s + 0.5
        assert 3 in node_of(world, home).snapshot().member.ownership.called_off  # type: ignore[union-attr]
        await world.wait_until(lambda: world.owner_of(slow) == away, 60)
        assert await client.get(Volatile, slow).add() == 2
        assert await client.get(Volatile, beside).add() == count + 1


# -- disturbed ---------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["before", "after"])
async def test_the_source_dies_in_mid_migration_and_then_the_target(step: str) -> None:
    async with cluster(nodes=3) as world:
        await world.pin(3, "n1")
        await world.wait_until(lambda: world.owners().get(3) == "n1")
        client = await world.client()
        assert await client.get(Volatile, "shard#3/v").add() == 1
        async with Load(client).running() as load, held_deliveries(step):
            load.volatile_may_go = True
            await world.pin(3, "n2")
            await world.wait_until(lambda: shard_state(world, "n1", 3) == "leaving")
            if step == "after":
                await world.wait_until(lambda: lying_on(world, "n2", 3))
            world.kill("n1")
            await world.wait_until(lambda: world.owners().get(3) == "n2", 60)
            assert await client.get(Volatile, "shard#3/v").add() == 1
            assert not lying_on(world, "n2", 3)
            assert outcomes(world.member("n2")).get("source_lost", 0) >= (step == "after")
            await world.start_node("n1")
            world.kill("n2")
            await world.wait_until(lambda: world.owners().get(3) in ("n1", "n3"), 60)
            await world.start_node("n2")
            await elapse(1.0)
    # `Cluster.wait_all_claimed` has seen every shard owned again.


def shard_state(world: Cluster, name: str, number: int) -> str:
    shards = node_of(world, name).catalog.snapshot().shards
    return next((shard.state for shard in shards if shard.number == number), "")


async def test_the_target_dies_while_state_is_on_its_way() -> None:
    async with cluster(nodes=3) as world:
        await world.pin(3, "n1")
        await world.wait_until(lambda: world.owners().get(3) == "n1")
        client = await world.client()
        assert await client.get(Volatile, "shard#3/v").add() == 1
        async with held_deliveries("before") as free:
            await world.pin(3, "n2")
            await world.wait_until(lambda: shard_state(world, "n1", 3) == "leaving")
            world.kill("n2")
            free.set()
            value = await client.get(Volatile, "shard#3/v").add()
        assert value == 1
        found = outcomes(world.member("n1"))
        assert sum(found.values()) == found.get("no_link", 0) + found.get("timeout", 0) == 1


async def test_a_move_is_called_off_and_then_the_owner_dies() -> None:
    async with cluster(nodes=2) as world:
        client = await world.client()
        home = world.owner_of("shard#3/v")
        away = "n2" if home == "n1" else "n1"
        assert await client.get(Volatile, "shard#3/v").add() == 1
        turn = asyncio.create_task(client.get(Volatile, "shard#3/slow").add(work_s=60.0))
        await elapse(0.1)
        await world.pin(3, away)
        owner = node_of(world, home)
        await world.wait_until(lambda: 3 in owner.snapshot().member.ownership.called_off)  # type: ignore[union-attr]
        assert await client.get(Volatile, "shard#3/v").add() == 2
        assert not lying_on(world, away, 3)
        world.kill(home)
        await world.wait_until(lambda: world.owner_of("shard#3/v") == away, 60)
        assert await client.get(Volatile, "shard#3/v").add() == 1
        with pytest.raises(GoverseError):
            await turn


async def test_the_coordinator_is_away_in_mid_migration() -> None:
    """For less than the lease: the state waits, and is used when the claim changes hands."""
    async with cluster(nodes=2) as world:
        client = await world.client()
        home = world.owner_of("shard#3/v")
        away = "n2" if home == "n1" else "n1"
        assert await client.get(Volatile, "shard#3/v").add() == 1
        async with Load(client).running(4):
            async with held_deliveries("after") as free:
                await world.pin(3, away)
                await world.wait_until(lambda: lying_on(world, away, 3))
                world.faults.close_port(COORDINATOR)
                free.set()
                await elapse(1.0)
                assert world.owner_of("shard#3/v") == home
                world.faults.open_port(COORDINATOR)
            await world.wait_until(lambda: world.owner_of("shard#3/v") == away)
            assert await client.get(Volatile, "shard#3/v").add() == 2


async def test_the_coordinator_is_away_in_mid_migration_for_longer_than_the_lease() -> None:
    async with cluster(nodes=2) as world:
        client = await world.client()
        home = world.owner_of("shard#3/v")
        away = "n2" if home == "n1" else "n1"
        assert await client.get(Volatile, "shard#3/v").add() == 1
        async with held_deliveries("after") as free:
            await world.pin(3, away)
            await world.wait_until(lambda: lying_on(world, away, 3))
            world.faults.close_port(COORDINATOR)
            free.set()
            await elapse(10.0)
            world.faults.open_port(COORDINATOR)
        await world.wait_all_claimed()
        assert not lying_on(world, away, 3)
        assert await client.get(Volatile, "shard#3/v").add() == 1


@pytest.mark.parametrize("end", ["move", "kill"])
async def test_L04_state_that_was_sent_and_not_used_is_not_used_later(end: str) -> None:
    """n1 sends to n2; n3 gets the shard, serves, and moves on or dies; then it is n2's."""
    async with cluster(nodes=3) as world:
        await world.pin(3, "n1")
        await world.wait_until(lambda: world.owners().get(3) == "n1")
        client = await world.client()
        counter = client.get(Volatile, "shard#3/v")
        for number in range(1, 6):
            assert await counter.add() == number
        async with held_deliveries("after") as free:
            await world.pin(3, "n2")
            await world.wait_until(lambda: lying_on(world, "n2", 3))
            # n2 does not hear of what follows for a while, so that it keeps what it has.
            world.cut("n2", COORDINATOR)
            await world.pin(3, "n3")
            free.set()
            await world.wait_until(lambda: world.owners().get(3) == "n3")
        assert await counter.add() == 1  # nobody could tell n3 anything
        assert await counter.add() == 2
        if end == "kill":
            world.kill("n3")
        await world.pin(3, "n2")
        world.heal()
        await world.wait_until(lambda: world.owners().get(3) == "n2", 60)
        # Of n3's life it may go on, or begin afresh: never from the five of before.
        assert await counter.add() == (3 if end == "move" else 1)


async def test_the_target_changes_back_to_the_source_before_anything_was_sent() -> None:
    async with cluster(nodes=2) as world:
        await world.pin(3, "n1")
        await world.wait_until(lambda: world.owners().get(3) == "n1")
        client = await world.client()
        assert await client.get(Volatile, "shard#3/v").add() == 1
        before = world.claims()[3].create_revision
        async with held_deliveries("before") as free:
            await world.pin(3, "n2")
            await world.wait_until(lambda: shard_state(world, "n1", 3) == "leaving")
            view = node_of(world, "n1").member.view
            await world.pin(3, "n1")
            await world.wait_until(lambda: view.state.targets[3].node == "n1")
            free.set()
            await world.wait_until(
                lambda: 3 in world.claims() and world.claims()[3].create_revision > before
            )
        assert world.owners()[3] == "n1"
        assert await client.get(Volatile, "shard#3/v").add() == 2


async def test_a_view_that_was_listed_anew_does_not_know_and_drops() -> None:
    async with cluster(nodes=2) as world:
        client = await world.client()
        home = world.owner_of("shard#3/v")
        away = "n2" if home == "n1" else "n1"
        assert await client.get(Volatile, "shard#3/v").add() == 1
        async with held_deliveries("after") as free:
            await world.pin(3, away)
            await world.wait_until(lambda: lying_on(world, away, 3))
            world.cut(away, COORDINATOR)
            free.set()
            await world.wait_until(lambda: 3 not in world.owners())
            world.coordinator.compact(world.coordinator.revision)
            world.heal()
            await world.wait_until(lambda: world.owners().get(3) == away)
        value = await client.get(Volatile, "shard#3/v").add()
        found = outcomes(world.member(away))
        assert (value, found.get("unsure", 0)) == (1, 1)


# -- those that cannot or may not --------------------------------------------------------------


async def test_L13_a_node_of_a_version_that_takes_no_state_is_sent_none(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def older(role: Any, member: MemberId, **rest: Any) -> Hello:
        features = tuple(name for name in FEATURES if name != MOVE_STATE)
        return Hello(1, features if member.name == "n2" else FEATURES, role, member, **rest)

    monkeypatch.setattr("goverse_node.app.our_hello", older)
    async with cluster(nodes=2) as world:
        await world.pin(3, "n1")
        await world.wait_until(lambda: world.owners().get(3) == "n1")
        client = await world.client()
        for id in ("a", "b"):
            assert await client.get(Volatile, f"shard#3/{id}").add() == 1
        assert await client.get(Durable, "shard#3/d").add() == 1
        links = [link.name for link in node_of(world, "n2").inbound._links]
        await world.pin(3, "n2")
        await world.wait_until(lambda: world.owners().get(3) == "n2")
        assert await client.get(Volatile, "shard#3/a").add() == 1
        assert await client.get(Durable, "shard#3/d").add() == 2
        assert outcomes(world.member("n1")) == {"too_old": 2}
        (line,) = [r.message for r in caplog.records if "without the state of 2" in r.message]
        assert "n2" in line and "takes no state" in line
        # And no link has broken over it.
        assert set(links) <= {link.name for link in node_of(world, "n2").inbound._links}
        # The older node's state comes to nobody: it knows of no such thing.


async def test_a_link_that_is_cut_holds_the_move_up_for_a_bounded_time() -> None:
    settings = replace(SETTINGS, node=replace(SETTINGS.node, move_timeout_s=1.0))
    async with cluster(nodes=2, settings=settings) as world:
        await world.pin(3, "n1")
        await world.wait_until(lambda: world.owners().get(3) == "n1")
        client = await world.client()
        assert await client.get(Volatile, "shard#3/v").add() == 1
        world.cut("n1", "n2")
        loop = asyncio.get_running_loop()
        started = loop.time()
        await world.pin(3, "n2")
        await world.wait_until(lambda: world.owners().get(3) == "n2")
        assert loop.time() - started < 2.0
        assert await client.get(Volatile, "shard#3/v").add() == 1
        found = outcomes(world.member("n1"))
        assert found in ({"timeout": 1}, {"no_link": 1})


async def test_L29_a_target_that_has_no_room_refuses_and_the_move_goes_on() -> None:
    settings = replace(SETTINGS, limits=replace(SETTINGS.limits, max_moved_bytes=2_000))
    async with cluster(nodes=2, settings=settings) as world:
        for shard in range(SHARDS):
            await world.pin(shard, "n1")
        await world.wait_until(lambda: set(world.owners().values()) == {"n1"})
        client = await world.client()
        for shard in range(SHARDS):
            assert await client.get(Volatile, f"shard#{shard}/v").add() == 1
        for shard in range(SHARDS):
            await world.pin(shard, "n2")
        await world.wait_until(
            lambda: len(world.owners()) == SHARDS and set(world.owners().values()) == {"n2"}
        )
        found = outcomes(world.member("n1"))
        assert found["sent"] > 2 and found["refused"] > 2
        assert found["sent"] + found["refused"] == SHARDS
        values = [await client.get(Volatile, f"shard#{s}/v").add() for s in range(SHARDS)]
        assert sorted(values) == [1] * found["refused"] + [2] * found["sent"]
        limits = {limit.name: limit for limit in node_of(world, "n2").snapshot().limits}
        assert limits["objects.moved_bytes"].used == 0


async def test_only_the_owner_of_the_claim_brings_state() -> None:
    async with cluster(nodes=3) as world:
        await world.pin(3, "n1")
        await world.wait_until(lambda: world.owners().get(3) == "n1")
        loop = asyncio.get_running_loop()
        epoch = Epoch(1, world.claims()[3].create_revision)

        async def send(member: Node | Gate, payload: bytes) -> None:
            target = node_of(world, "n2")
            me = target.member.membership.member
            assert me is not None
            call = Call("", "", "", payload, loop.time() + 1, verb=Verb.MOVE)
            await member.pool.target(me, target.address).invoke(call)

        def piece(shard: int = 3, at: Epoch = epoch) -> bytes:
            return msgspec.msgpack.encode(Piece(shard, at, (Packed("Volatile", "x", 0, b""),)))

        gate = world.member("g1").gate
        assert gate is not None
        with pytest.raises(PermissionDenied):
            await send(gate, piece())
        for node in ("n3", "n2"):
            with pytest.raises(FailedPrecondition, match="does not own shard 3"):
                await send(node_of(world, node), piece())
        for wrong in (piece(99), piece(at=Epoch(1, epoch.revision - 1)), piece(at=Epoch(0, 1))):
            with pytest.raises(FailedPrecondition, match="does not own"):
                await send(node_of(world, "n1"), wrong)
        for nonsense in (b"", b"\xc1", msgspec.msgpack.encode([3, "x", []])):
            with pytest.raises(InvalidArgument):
                await send(node_of(world, "n1"), nonsense)
        # An epoch that the view has not come to yet is waited for, within the deadline.
        with pytest.raises((FailedPrecondition, GoverseError)):
            await send(node_of(world, "n1"), piece(at=Epoch(1, epoch.revision + 10_000)))
        client = await world.client()
        with pytest.raises(GoverseError) as caught:
            call = Call("Volatile", "x", "", piece(), loop.time() + 1, verb=Verb.MOVE)
            await client._session.invoke(call)
        assert caught.value.code == "permission_denied"
        await send(node_of(world, "n1"), piece())
        assert lying_on(world, "n2", 3)


async def test_what_a_node_keeps_goes_with_its_lease() -> None:
    async with cluster(nodes=2) as world:
        await world.pin(3, "n1")
        await world.wait_until(lambda: world.owners().get(3) == "n1")
        client = await world.client()
        assert await client.get(Volatile, "shard#3/v").add() == 1
        async with held_deliveries("after"):
            await world.pin(3, "n2")
            await world.wait_until(lambda: lying_on(world, "n2", 3))
            world.cut("n2", COORDINATOR)
            await world.wait_until(lambda: not lying_on(world, "n2", 3))
            assert outcomes(world.member("n2"))["lease_lost"] == 1
            world.heal()
            await elapse(1.0)
            world.kill("n1")
        await world.wait_until(lambda: world.owners().get(3) == "n2")
        assert await client.get(Volatile, "shard#3/v").add() == 1


async def test_a_receiver_whose_view_is_behind_waits_for_it() -> None:
    async with cluster(nodes=3) as world:
        await world.pin(3, "n1")
        await world.wait_until(lambda: world.owners().get(3) == "n1")
        world.cut("n2", COORDINATOR)
        await world.pin(3, "n3")
        await world.wait_until(lambda: world.owners().get(3) == "n3")
        epoch = Epoch(1, world.claims()[3].create_revision)
        piece = msgspec.msgpack.encode(Piece(3, epoch, (Packed("Volatile", "x", 0, b""),)))
        target, loop = node_of(world, "n2"), asyncio.get_running_loop()
        me = target.member.membership.member
        assert me is not None
        call = Call("", "", "", piece, loop.time() + 2, verb=Verb.MOVE)
        sent = asyncio.ensure_future(
            node_of(world, "n3").pool.target(me, target.address).invoke(call)
        )
        await elapse(0.3)
        assert not sent.done()
        world.heal()
        await sent
        assert lying_on(world, "n2", 3)


async def test_a_node_that_restarts_in_place_takes_no_state_with_it() -> None:
    async with cluster(nodes=1) as world:
        await world.stop("n1")
        await world.start_node("n1", shutdown_mode="restart")
        await world.wait_all_claimed()
        client = await world.client()
        assert await client.get(Volatile, "v").add() == 1
        first = world.member("n1")
        await world.stop("n1")
        assert outcomes(first) == {}
        await world.start_node("n1")
        assert await client.get(Volatile, "v").add() == 1
