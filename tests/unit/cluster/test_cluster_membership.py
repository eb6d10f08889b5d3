from __future__ import annotations

import json
import logging

import pytest

from goverse.cluster import Kind, LeaveMode, MemberState
from goverse.cluster.records import Layout, MemberValue, encode
from tests.support.members import TTL_S, World, in_world


@in_world()
async def test_a_member_is_registered_under_its_lease(world: World) -> None:
    n1 = await world.node("n1")
    item = world.items("nodes")["n1"]
    registration = n1.member.membership.registration
    assert registration is not None
    assert item.lease == registration.lease.id
    assert item.create_revision == registration.create_revision
    value = json.loads(item.value)
    assert value["incarnation"] == registration.member.incarnation
    assert value["address"] == "n1:1"
    assert n1.member.valid()
    layout = world.store.get(world.keys.layout)
    assert layout is not None and json.loads(layout.value)["num_shards"] == 16


def test_L28_a_process_with_another_shard_count_follows_the_cluster_and_warns_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)

    @in_world(shards=16)
    async def story(world: World) -> None:
        await world.node("n1")
        n2 = await world.node("n2", initial_num_shards=64)
        assert n2.member.view.num_shards == 16
        assert n2.member.view.shard_of("shard#17/x") == 1
        n2.cut()
        await world.until(lambda: not n2.member.valid())
        n2.mend()
        await world.until(n2.member.valid)
        said = [r for r in caplog.records if "initial_num_shards" in r.getMessage()]
        assert [(r.levelname, "16 shards" in r.getMessage()) for r in said] == [("WARNING", True)]

    story()


@in_world()
async def test_a_second_process_with_a_live_id_waits_for_the_old_key(world: World) -> None:
    first = await world.node("n1")
    await world.until(world.all_open)
    lease = world.items("nodes")["n1"].lease
    second = world.spawn("n1")
    await world.passes(3 * TTL_S)
    assert world.items("nodes")["n1"].lease == lease
    assert first.member.valid() and not second.member.valid()

    first.kill()
    took = await world.until(second.member.valid)
    assert took < TTL_S + 1
    assert second.member.membership.member != first.member.membership.member
    await world.until(world.all_open)


@in_world()
async def test_a_registration_whose_answer_was_lost_is_found(world: World) -> None:
    world.spawn("n0")
    n1 = world.spawn("n1")
    n1.coordinator.lose = lambda operations: "nodes/n1" in operations[0].key
    await world.until(n1.member.valid)
    assert n1.coordinator.lost == 1
    assert n1.coordinator.grants == 1


@in_world()
async def test_L22_a_lost_keep_alive_costs_nothing(world: World) -> None:
    n1 = await world.node("n1")
    member = n1.member.membership.member
    for _ in range(5):
        n1.cut()
        await world.passes(TTL_S / 4)  # at least one keep-alive
        n1.mend()
        await world.passes(TTL_S)
    assert n1.member.membership.member == member
    assert n1.host.discarded == []


@in_world()
async def test_L22_later_losses_do_not_wait_longer(world: World) -> None:
    n1 = await world.node("n1")
    for _ in range(6):
        n1.cut()
        await world.until(lambda: not n1.member.valid())
        await world.passes(4 * TTL_S)
        n1.mend()
        assert await world.until(n1.member.valid) < 2.5
    assert n1.member.membership.snapshot().losses == 6


@in_world()
async def test_silence_ends_the_lease_before_the_coordinator_does(world: World) -> None:
    n1 = await world.node("n1")
    await world.until(world.all_open)
    n1.cut()
    took = await world.until(lambda: not n1.member.valid())
    # Renewed at most TTL/5 before the cut, and the margin is TTL/5.
    assert TTL_S * 0.55 < took < TTL_S * 0.85
    assert "n1" in world.items("nodes")
    await world.until(lambda: bool(n1.host.discarded))
    assert n1.host.discarded == ["no answer from the coordinator in time"]


@in_world()
async def test_an_own_key_that_is_gone_ends_the_lease(world: World) -> None:
    n1 = await world.node("n1")
    await world.until(world.all_open)
    old = n1.member.membership.member
    world.delete(world.keys.member(Kind.NODE, "n1"))
    await world.until(lambda: bool(n1.host.discarded))
    assert n1.host.discarded == ["its key in the coordinator is gone"]
    await world.until(lambda: n1.member.membership.member not in (None, old))
    await world.until(world.all_open)


@in_world()
async def test_a_lease_that_the_coordinator_ended_early_is_lost(world: World) -> None:
    n1 = await world.node("n1")
    registration = n1.member.membership.registration
    assert registration is not None
    world.store.revoke(registration.lease.id)
    await world.until(lambda: bool(n1.host.discarded))
    await world.until(n1.member.valid)


@in_world()
async def test_a_keep_alive_that_is_answered_with_zero_is_enough(world: World) -> None:
    n1 = await world.node("n1")
    registration = n1.member.membership.registration
    assert registration is not None
    await world.loop.run_in(n1.process, n1.member.view.close())  # it will not see its key go
    world.store.revoke(registration.lease.id)
    await world.until(lambda: bool(n1.host.discarded))
    assert n1.host.discarded == ["the coordinator says that it is over"]


@in_world()
async def test_a_key_that_appears_while_joining_is_not_overwritten(world: World) -> None:
    other = world.store.grant(60.0)
    key = world.keys.member(Kind.NODE, "n1")
    n1 = world.spawn("n1")

    def be_faster(operations: object) -> None:
        if world.store.get(key) is None and n1.coordinator.grants == 1:
            value = MemberValue("somebody", "elsewhere:1")
            world.put(key, encode(value), other)

    await world.until(lambda: n1.member.view.loaded)
    n1.coordinator.before = be_faster
    await world.passes(2 * TTL_S)
    assert world.items("nodes")["n1"].lease == other
    assert not n1.member.valid()
    world.store.revoke(other)
    await world.until(n1.member.valid)


@in_world()
async def test_everything_is_discarded_before_another_lease_is_asked_for(world: World) -> None:
    n1 = await world.node("n1")
    grants = []
    n1.member.membership.on_lost(lambda reason: grants.append(n1.coordinator.grants))
    n1.member.membership.on_lost(lambda reason: grants.append(n1.member.valid()))
    world.delete(world.keys.member(Kind.NODE, "n1"))
    await world.until(lambda: n1.coordinator.grants == 2)
    assert grants == [1, False]


@in_world()
async def test_a_stopped_process_learns_its_loss_from_its_first_instruction(world: World) -> None:
    n1 = await world.node("n1")
    await world.until(world.all_open)
    old = n1.member.membership.member
    seen: list[bool] = []
    n1.pause()
    await world.passes(3 * TTL_S)
    # The first thing that runs in it after SIGCONT, before any timer of its own.
    world.loop.spawn(n1.process, _ask(n1.member.valid, seen))
    n1.resume()
    await world.until(lambda: bool(seen))
    assert seen == [False]
    await world.until(n1.member.valid)
    assert n1.member.membership.member != old
    assert len(n1.host.discarded) == 1
    await world.until(world.all_open)


async def _ask(valid: object, seen: list[bool]) -> None:
    assert callable(valid)
    seen.append(valid())


@in_world()
async def test_a_stop_gives_up_claims_first_and_the_key_last(world: World) -> None:
    n1 = await world.node("n1")
    n2 = await world.node("n2")
    await world.until(world.settled)
    order: list[str] = []
    watch = world.store.connect(n2.runtime).watch(world.keys.prefix)
    await anext(watch)
    assert await n1.drain()
    assert n1.host.open == {}
    assert "n1" in world.items("nodes")
    await n1.stop()
    await world.until(lambda: "n1" not in world.items("nodes"))
    world.put(world.keys.prefix + "end", b"")
    async for changes in watch:
        if world.keys.prefix + "end" in changes.items:
            break
        order += [key for key, item in changes.items.items() if item is None]
    await watch.aclose()
    gone = [key for key in order if "/claims/" in key or "/nodes/" in key]
    assert gone[-1].endswith("nodes/n1") and len(gone) > 1
    assert len(n2.host.shards) == 16
    assert not n1.member.valid()


@in_world()
async def test_a_restarting_node_finds_its_shards_again(world: World) -> None:
    n1, n2 = await world.node("n1"), await world.node("n2")
    await world.until(world.settled)
    before = world.targets()
    held = n2.host.shards
    assert await n2.drain(LeaveMode.RESTART)
    await n2.stop()
    assert list(world.items("restarts")) == ["n2"]
    await world.passes(world.settings.restart_grace_s - 2)
    assert world.targets() == before
    assert len(n1.host.shards) == 16 - len(held)

    n3 = await world.node("n2")
    await world.until(world.settled)
    assert n3.host.shards == held
    assert world.items("restarts") == {}


@in_world()
async def test_a_node_that_does_not_return_in_time_loses_its_shards(world: World) -> None:
    n1, n2 = await world.node("n1"), await world.node("n2")
    await world.until(world.settled)
    await n2.drain(LeaveMode.RESTART)
    await n2.stop()
    took = await world.until(lambda: len(n1.host.shards) == 16)
    assert world.settings.restart_grace_s - 2 < took < world.settings.restart_grace_s + 1


@in_world()
async def test_the_state_of_a_member_is_seen_and_outlives_a_loss(world: World) -> None:
    n1, n2 = await world.node("n1"), await world.node("n2")
    await world.until(world.settled)
    state = n2.member.membership.set_state(MemberState.DRAINING)
    await world.loop.run_in(n2.process, state)
    await world.until(lambda: len(n1.host.shards) == 16)
    world.delete(world.keys.member(Kind.NODE, "n2"))
    await world.until(lambda: n2.member.membership.snapshot().joins == 2)
    await world.passes(3)
    assert len(n1.host.shards) == 16


@in_world()
async def test_lost_history_raises_the_generation_and_keeps_cluster_and_shards(
    world: World,
) -> None:
    n1, n2 = await world.node("n1"), await world.node("n2", initial_num_shards=64)
    await world.until(world.settled)
    before = n1.member.view.layout
    assert before is not None
    world.store.lose_history(10)
    await world.until(lambda: len(n1.host.discarded) + len(n2.host.discarded) == 2)
    # The world's check demands higher epochs than before, although revisions start low.
    await world.until(world.settled)
    after = n1.member.view.layout
    assert after is not None
    assert (after.cluster_id, after.num_shards) == (before.cluster_id, before.num_shards)
    assert after.generation == before.generation + 1


@in_world()
async def test_another_number_of_shards_makes_every_member_join_again(world: World) -> None:
    n1 = await world.node("n1")
    await world.until(world.settled)
    layout = n1.member.view.layout
    assert layout is not None
    changed = Layout(layout.cluster_id, layout.generation, 32)
    world.put(world.keys.layout, encode(changed))
    await world.until(lambda: len(n1.host.discarded) == 1)
    await world.until(lambda: len(n1.host.shards) == 32)


@in_world()
async def test_a_layout_that_cannot_be_read_is_waited_for(world: World) -> None:
    world.put(world.keys.layout, b'{"cluster_id": "x", "generation": 1, "num_shards": 17}')
    n1 = world.spawn("n1")
    await world.passes(5)
    assert not n1.member.valid()
    world.put(world.keys.layout, b'{"cluster_id": "x", "generation": 1, "num_shards": 16}')
    await world.until(n1.member.valid)
