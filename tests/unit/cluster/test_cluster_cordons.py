"""Nodes that an operator cordons or drains: what is remembered, by whom, and for how long."""

from __future__ import annotations

import pytest

from goverse.cluster import LeaveMode, cordon_node, uncordon_node
from goverse.cluster.records import CordonValue, encode
from goverse.errors import InvalidArgument, NotFound, Unavailable
from goverse.sharding import Cordon
from tests.support.members import TTL_S, Process, World, in_world


async def cordon(by: Process, name: str, what: Cordon | None) -> None:
    """By the coordinator's client of that process, as its admin service does."""
    keys = by.world.keys
    if what is None:
        await by.world.loop.run_in(by.process, uncordon_node(by.coordinator, keys, name))
    else:
        await by.world.loop.run_in(by.process, cordon_node(by.coordinator, keys, name, what))


async def three(world: World) -> tuple[Process, Process, Process]:
    """Three nodes of which the first leads."""
    nodes = await world.node("n1"), await world.node("n2"), await world.node("n3")
    await world.until(lambda: world.settled() and all(node.host.shards for node in nodes))
    return nodes


@in_world(shards=64)
async def test_a_drained_node_hands_over_and_goes_on_running_empty(world: World) -> None:
    n1, n2, n3 = await three(world)
    await cordon(n1, "n2", Cordon.DRAINING)
    await world.until(lambda: world.settled() and not n2.host.shards)
    assert n2.member.valid() and n2.name in world.items("nodes")
    assert len(n1.host.shards) + len(n3.host.shards) == 64
    # Nothing comes back by itself, whatever else happens.
    n3.kill()
    await world.until(lambda: len(n1.host.shards) == 64)
    await world.passes(3.0)
    assert n2.host.shards == []
    await cordon(n1, "n2", None)
    await world.until(lambda: world.settled() and len(n2.host.shards) > 10)


@in_world(shards=64)
async def test_a_cordoned_node_keeps_its_shards_while_others_come_and_go(world: World) -> None:
    n1, n2, n3 = await three(world)
    mine = n2.host.shards
    await cordon(n1, "n2", Cordon.CORDONED)
    n3.kill()
    await world.until(world.settled)
    await world.node("n4")
    await world.until(lambda: world.settled() and len(n1.host.shards) < 64 - len(mine))
    await world.passes(3.0)
    assert n2.host.shards == mine
    assert "cordoned" in {hold.value for hold in n1.node.leadership.snapshot().held}
    told = [line for shard in mine for line in n1.node.leadership.why(shard)]
    assert told and all("node uncordon" in line for line in told)


@pytest.mark.parametrize("what", Cordon)
@in_world(shards=64)
async def test_a_cordon_outlives_the_leader_and_a_crash_of_its_node(
    world: World, what: Cordon
) -> None:
    n1, n2, n3 = await three(world)
    assert n1.node.leadership.leading
    await cordon(n3, "n2", what)
    await world.until(world.settled)
    n1.kill()
    await world.until(lambda: world.settled() and world.leader is not n1)
    kept = n2.host.shards
    await world.passes(3.0)
    assert (n2.host.shards == kept) and bool(kept) == (what is Cordon.CORDONED)

    n2.kill()
    await world.until(lambda: len(n3.host.shards) == 64)
    again = await world.node("n2")
    await world.passes(5.0)
    assert again.host.shards == [], "it comes back under its id, and is cordoned as it was"
    await cordon(n3, "n2", None)
    await world.until(lambda: world.settled() and bool(again.host.shards))


@in_world(shards=64)
async def test_a_cordoned_node_that_restarts_in_order_comes_back_to_its_shards(
    world: World,
) -> None:
    n1, n2, _ = await three(world)
    mine = n2.host.shards
    await cordon(n1, "n2", Cordon.CORDONED)
    assert await n2.drain(LeaveMode.RESTART)
    await n2.stop()
    again = await world.node("n2")
    await world.until(world.settled)
    assert again.host.shards == mine
    # With the other mode it hands over, as any node, and comes back empty.
    assert await again.drain(LeaveMode.PERMANENT)
    await again.stop()
    last = await world.node("n2")
    await world.passes(5.0)
    assert last.host.shards == [] and world.settled()


@in_world(shards=64)
async def test_failover_finds_a_home_where_only_cordoned_nodes_are_left(world: World) -> None:
    n1, n2, n3 = await three(world)
    await cordon(n1, "n2", Cordon.CORDONED)
    await cordon(n1, "n3", Cordon.DRAINING)
    await world.until(lambda: world.settled() and not n3.host.shards)
    n1.kill()
    took = await world.until(lambda: len(n2.host.shards) == 64)
    assert took < TTL_S + 2.0
    n2.kill()
    took = await world.until(lambda: len(n3.host.shards) == 64)
    assert took < TTL_S + 2.0
    # As soon as a node takes shards, the one that drains is emptied.
    await world.node("n4")
    await world.until(lambda: world.settled() and not n3.host.shards)


@in_world(shards=64)
async def test_a_node_that_stops_hands_over_to_cordoned_ones_if_there_are_no_others(
    world: World,
) -> None:
    n1, n2, n3 = await three(world)
    await cordon(n1, "n2", Cordon.CORDONED)
    n3.kill()
    await world.until(lambda: world.settled() and not world.items("restarts"))
    assert await n1.drain(LeaveMode.PERMANENT)
    assert len(n2.host.shards) == 64
    await n1.stop()


@in_world(shards=64)
async def test_two_operators_drain_the_last_two_nodes_and_nothing_is_lost(world: World) -> None:
    n1, n2 = await world.node("n1"), await world.node("n2")
    await world.until(lambda: world.settled() and bool(n2.host.shards))
    await cordon(n1, "n1", Cordon.DRAINING)
    await cordon(n2, "n2", Cordon.DRAINING)
    await world.passes(10.0)
    assert world.all_open()
    said = world.leader.node.leadership.snapshot().held
    assert {hold.value for hold in said} == {"no_node"}


@in_world()
async def test_what_cannot_be_cordoned_is_refused_and_changes_nothing(world: World) -> None:
    n1 = await world.node("n1")
    for name, error in (("n7", NotFound), ("../leader", InvalidArgument)):
        with pytest.raises(error) as caught:
            await cordon(n1, name, Cordon.CORDONED)
        assert name in caught.value.message
        with pytest.raises(error):
            await cordon(n1, name, None)
    assert world.items("cordons") == {}
    # Of a node that is away it can be taken back, and once more if it is there.
    world.put(world.keys.cordon("n7"), encode(CordonValue(Cordon.DRAINING)))
    await cordon(n1, "n7", None)
    await cordon(n1, "n1", None)
    assert world.items("cordons") == {}
    n1.coordinator.lose = lambda operations: True
    with pytest.raises(Unavailable):
        await cordon(n1, "n1", Cordon.CORDONED)


@in_world()
async def test_a_cordon_that_cannot_be_read_is_none(world: World) -> None:
    n1, n2 = await world.node("n1"), await world.node("n2")
    await world.until(world.settled)
    world.put(world.keys.cordon("n1"), b'{"cordon": "barricaded"}')
    await world.passes(1.0)
    assert n1.member.view.state.cordons == {}
    assert n1.host.shards and n2.host.shards


@in_world()
async def test_a_view_that_is_listed_anew_has_the_same_cordons(world: World) -> None:
    n1 = await world.node("n1")
    await cordon(n1, "n1", Cordon.CORDONED)
    late = await world.gate("g1")
    assert late.member.view.state.cordons == {"n1": Cordon.CORDONED}


@pytest.mark.parametrize("seed", range(10))
@in_world(shards=32)
async def test_L13_no_two_owners_and_no_shard_without_one_whatever_operators_do(
    world: World, seed: int
) -> None:
    """Nodes are cordoned, drained and taken back at random, while others die, stop and come; in the
    end the cordons stand as they are, and every shard is served all the same."""
    names = ["n1", "n2", "n3", "n4"]
    operator = await world.gate("operator")
    for name in names:
        await world.node(name)
    for _ in range(20):
        await world.passes(world.random.uniform(0.0, 2.0))
        process = world.random.choice(world.live)
        what = world.random.choice(
            # So often that at times no node is left that takes shards.
            [*("cordon", "drain") * 4, "uncordon", "kill", "kill", "stop", "restart"]
        )
        if what == "kill":
            process.kill()
            if not world.live or world.random.random() < 0.4:  # others stay away
                world.spawn(process.name)
        elif what in ("stop", "restart"):
            mode = LeaveMode.RESTART if what == "restart" else LeaveMode.PERMANENT
            world.loop.spawn(process.process, _leave(process, mode))
            world.spawn(process.name)
        else:
            said = {"cordon": Cordon.CORDONED, "drain": Cordon.DRAINING, "uncordon": None}
            try:
                await cordon(operator, process.name, said[what])
            except NotFound:
                pass  # it is on its way out, or in
    await world.until(world.settled, 60)
    standing = operator.member.view.state.cordons
    # Who drains is empty, unless nobody else could take what it has.
    if any(process.name not in standing for process in world.live if process.member.valid()):
        await world.until(
            lambda: all(
                not process.host.shards
                for process in world.live
                if standing.get(process.name) is Cordon.DRAINING
            ),
            60,
        )
    assert world.all_open()


async def _leave(process: Process, mode: LeaveMode) -> None:
    await process.node.drain(mode, timeout_s=3.0)
    await process.member.stop()
    process.kill()
