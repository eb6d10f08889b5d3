from __future__ import annotations

import logging

import pytest

from goverse.cluster import Keys, Kind, pin_shard, unpin_shard
from goverse.cluster.records import LeaderValue, PinValue, TargetValue, encode
from goverse.coordination import Compare, CoordinatorUnavailable, Put
from goverse.errors import Executed, FailedPrecondition, InvalidArgument, NotFound, Unavailable
from goverse.sharding import Hold
from goverse.testing.loop import sim_runtime
from tests.support.members import TTL_S, Process, World, in_world


@in_world()
async def test_one_node_leads_and_another_after_it(world: World) -> None:
    nodes = [await world.node(name) for name in ("n1", "n2", "n3")]
    await world.until(world.settled)
    assert [p.node.leadership.leading for p in nodes].count(True) == 1
    first = world.leader
    first.kill()
    await world.until(lambda: any(p.node.leadership.leading for p in world.live))
    await world.until(world.settled)
    assert world.leader is not first


@in_world()
async def test_the_first_plan_waits_until_the_nodes_are_stable(world: World) -> None:
    await world.node("n1")
    await world.passes(0.3)
    await world.node("n2")
    await world.passes(0.4)
    assert world.items("shards") == {}
    await world.until(world.settled)
    # Nobody had more at first than it has now.
    assert all(p.host.opened == list(dict(p.host.opened).items()) for p in world.live)


def test_a_cluster_that_becomes_stable_between_two_readings_of_the_clock_is_planned() -> None:
    for stability_ms in range(150, 400, 3):

        @in_world()
        async def story(world: World, stability_s: float = stability_ms / 1000) -> None:
            standing = world.loop.time

            def passing() -> float:
                world.loop._now += 0.004
                return standing()

            world.loop.time = passing  # type: ignore[method-assign]
            await world.node("n1", stability_duration_s=stability_s)
            await world.until(lambda: bool(world.items("shards")))

        story()


@in_world()
async def test_L15_gates_that_come_and_go_postpone_nothing(world: World) -> None:
    n1, n2 = await world.node("n1"), await world.node("n2")
    await world.until(world.settled)

    async def flap() -> None:
        for number in range(1000):
            gate = world.spawn(f"g{number % 3}", Kind.GATE)
            await world.passes(0.15)
            gate.kill()

    flapping = world.loop.spawn("", flap())
    leader_changes = n1.member.view.nodes_changed_at
    await world.passes(2.0)
    assert n1.member.view.nodes_changed_at == leader_changes

    n2.kill()
    assert await world.until(world.all_open) < TTL_S + 2
    # A move for balance, which needs stability, still comes half a second after the node.
    n3 = await world.node("n3")
    assert await world.until(lambda: bool(n3.host.shards)) < 1.5
    flapping.cancel()


@in_world(shards=64)
async def test_L16_the_leader_moves_its_own_shards_too(world: World) -> None:
    n1 = await world.node("n1", rebalance_batch_size=4)
    await world.until(world.settled)
    assert n1.node.leadership.leading
    n2 = await world.node("n2")
    # In small steps, with the leader planning between them: it keeps letting go meanwhile.
    await world.until(lambda: len(n2.host.shards) >= 8, 5)
    assert n1.node.leadership.leading and len(n1.host.shards) <= 56
    await world.until(lambda: world.settled() and 20 < len(n2.host.shards) < 44)


@in_world()
async def test_L17_a_pinned_shard_on_a_dead_node_recovers_and_returns(world: World) -> None:
    n1, n2 = await world.node("n1"), await world.node("n2")
    await world.until(world.settled)
    shard = n1.host.shards[0]
    await pin_shard(n1.coordinator, world.keys, shard, "n2")
    await world.until(lambda: shard in n2.host.shards)
    await world.until(lambda: world.leader.node.leadership.snapshot().moving == 0)
    assert world.leader.node.leadership.snapshot().held == {Hold.PINNED: 1}

    n2.kill()
    assert await world.until(lambda: shard in n1.host.shards) < TTL_S + 2
    facts = n1.node.leadership.snapshot()
    assert facts.lost_pins == (shard,)

    back = await world.node("n2")
    await world.until(lambda: shard in back.host.shards)
    await world.until(world.settled)
    assert n1.node.leadership.snapshot().lost_pins == ()

    assert await unpin_shard(n1.coordinator, world.keys, shard)
    assert not await unpin_shard(n1.coordinator, world.keys, shard)
    await world.until(lambda: shard in n1.host.shards and world.settled())


def test_L17_a_lost_pin_is_warned_about_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)

    @in_world()
    async def story(world: World) -> None:
        n1, n2 = await world.node("n1"), await world.node("n2")
        await world.until(world.settled)
        await pin_shard(n1.coordinator, world.keys, 3, "n2")
        await world.until(lambda: 3 in n2.host.shards)
        n2.kill()
        await world.until(world.all_open)
        await world.node("n3")
        await world.until(world.settled)

    story()
    said = [r.getMessage() for r in caplog.records if "pinned" in r.getMessage()]
    assert len(said) == 1 and "3 to n2" in said[0]


@in_world()
async def test_a_leader_that_was_stopped_writes_nothing_when_it_continues(world: World) -> None:
    for name in ("n1", "n2", "n3"):
        await world.node(name)
    await world.until(world.settled)
    old = world.leader
    lease = old.node.membership.registration
    assert lease is not None
    old.pause()
    await world.until(lambda: any(p.node.leadership.leading for p in world.live if p is not old))
    new = next(p for p in world.live if p is not old and p.node.leadership.leading)
    await world.until(lambda: new.node.leadership.snapshot().moving == 0)
    before = world.items("shards")
    # What it would write now, had it been stopped in the middle of writing.
    changes = [Put(world.keys.target(0), encode(TargetValue("n9")))]
    old.resume()
    result = await world.loop.run_in(old.process, _write_as(old, lease.lease.id, changes))
    assert not result
    assert world.items("shards") == before
    await world.until(world.settled)


async def _write_as(process: Process, lease: int, puts: list[Put]) -> bool:
    keys = Keys()
    result = await process.coordinator.transact([Compare.has_lease(keys.leader, lease)], puts)
    return result.succeeded


@in_world()
async def test_two_who_both_believe_to_lead_do_not_overwrite_each_other(world: World) -> None:
    n1, n2 = await world.node("n1"), await world.node("n2")
    await world.until(world.settled)
    old = world.leader
    new = n2 if old is n1 else n1
    # The leader's view hangs, while the key passes to the other.
    registration = new.member.membership.registration
    assert registration is not None
    value = LeaderValue(new.name, registration.member.incarnation)
    writes = []

    def take_over(operations: object) -> None:
        assert isinstance(operations, (list, tuple))
        if "/shards/" in operations[0].key and not writes:
            writes.append(operations)
            world.put(world.keys.leader, encode(value), registration.lease.id)

    old.coordinator.before = take_over
    targets = world.items("shards")
    shard = new.host.shards[0]
    await pin_shard(new.coordinator, world.keys, shard, old.name)
    await world.until(lambda: bool(writes))
    await world.until(lambda: new.node.leadership.leading)
    await world.until(lambda: shard in old.host.shards)
    changed = [key for key, item in world.items("shards").items() if item != targets[key]]
    assert changed == [str(shard)]
    assert (writes[0], False) in old.coordinator.results
    assert not old.node.leadership.leading


@in_world(shards=256)
async def test_a_plan_whose_answers_are_lost_is_made_again(world: World) -> None:
    n1 = world.spawn("n1")
    n1.coordinator.lose = lambda operations: (
        "/shards/" in operations[0].key and n1.coordinator.lost < 3
    )
    await world.until(world.settled)
    assert n1.coordinator.lost == 3


@in_world()
async def test_corrupt_values_stop_nobody(world: World) -> None:
    n1 = await world.node("n1")
    await world.until(world.settled)
    world.put(world.keys.target(3), b"\xff\xfe")
    world.put(world.keys.target(4), b'{"node": 7}')
    world.put(world.keys.pin(5), b"[]")
    world.put(world.keys.prefix + "shards/007", b'{"node": "n1"}')
    world.put(world.keys.prefix + "shards/99999999", b'{"node": "n1"}')
    world.put(world.keys.prefix + "nodes/-bad-", b'{"incarnation": "x", "address": "y"}')
    world.put(world.keys.prefix + "nodes/heavy", b'{"incarnation":"x","address":"y","weight":-1}')
    world.put(world.keys.prefix + "somethingelse/7", b"?")
    await world.until(world.settled)
    assert n1.host.discarded == []
    assert list(n1.member.view.state.nodes) == ["n1"]


@in_world()
async def test_a_leader_key_left_by_a_person_is_taken_over(world: World) -> None:
    world.put(world.keys.leader, b"me!")
    await world.node("n1")
    await world.until(world.settled)


@in_world()
async def test_pinning_refuses_what_cannot_be_right(world: World) -> None:
    client = world.store.connect(sim_runtime(world.seed, "operator", loop=world.loop))
    with pytest.raises(FailedPrecondition, match="no cluster"):
        await pin_shard(client, world.keys, 0, "n1")
    n1 = await world.node("n1")
    with pytest.raises(InvalidArgument, match="0 to 15"):
        await pin_shard(client, world.keys, 16, "n1")
    with pytest.raises(InvalidArgument, match="0 to 15"):
        await unpin_shard(client, world.keys, -1)
    with pytest.raises(InvalidArgument, match="member id"):
        await pin_shard(client, world.keys, 1, "n 1")
    with pytest.raises(NotFound, match="the nodes are: n1"):
        await pin_shard(client, world.keys, 1, "n2")
    n1.coordinator.lose = lambda operations: True
    with pytest.raises(Unavailable) as raised:
        await pin_shard(n1.coordinator, world.keys, 1, "n1")
    assert raised.value.executed is Executed.UNKNOWN
    assert isinstance(raised.value.__cause__, CoordinatorUnavailable)
    await client.close()


@in_world(shards=16)
async def test_a_plan_made_just_before_stability_is_made_again(world: World) -> None:
    """Something changes in the last moment before the nodes count as stable: by the time that
    plan is done they are, and no timer is left to say so."""
    n1 = world.spawn("n1")
    await world.until(lambda: "n1" in n1.member.view.state.nodes)
    stable_at = n1.member.view.nodes_changed_at + 0.5
    world.loop.call_at(stable_at - 0.02, world.put, world.keys.pin(3), encode(PinValue("n1")))
    await world.until(world.all_open, 5)
