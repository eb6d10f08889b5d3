"""What a node and the leader tell of shards as metrics, in a cluster in virtual time."""

from __future__ import annotations

import pytest

from goverse.coordination import CoordinatorUnavailable, Put
from goverse.observability.families import Buckets, Labels
from goverse.sharding.levelling import imbalance
from tests.support.members import Process, World, in_world

OF_THE_LEADER = (
    "goverse_cluster_shards",
    "goverse_imbalance",
    "goverse_stuck_shards",
    "goverse_stuck_shard_age_seconds",
    "goverse_shunned_nodes",
    "goverse_pins_unserved",
)


def told(process: Process, name: str) -> dict[Labels, float]:
    process.member.watch(process.metrics)
    return dict(process.metrics.sample()[name])


def state(process: Process, name: str) -> dict[str, float]:
    return {labels[0]: value for labels, value in told(process, name).items()}


def count(buckets: Buckets | None) -> int:
    return sum(buckets.counts) if buckets is not None else 0


def steps(process: Process) -> dict[str, int]:
    children = process.metrics.shard_step_seconds.children()
    return {labels[0]: count(buckets) for labels, buckets in children.items()}


@in_world(shards=64)
async def test_L35_every_step_of_a_move_is_counted_where_it_is_done(world: World) -> None:
    n1 = await world.node("n1")
    await world.until(world.settled)
    assert steps(n1) == {"claim": 64, "open": 64}
    n1.host.close_s = 0.04
    n2 = await world.node("n2")
    await world.until(lambda: len(n2.host.shards) > 20 and world.settled())
    leadership = n1.node.leadership
    await world.until(lambda: leadership.snapshot().moving == 0)
    moved = len(n2.host.shards)
    assert steps(n1) == {"claim": 64, "open": 64, "hand_over": moved, "release": moved}
    assert steps(n2) == {"claim": moved, "open": moved}
    hand_over = n1.metrics.shard_step_seconds.children()["hand_over",]
    assert hand_over.sum / moved == pytest.approx(0.04, rel=0.1)
    # The leader saw all 64 arrive at first, and then those that moved.
    whole = n1.metrics.migration_seconds.children()[()]
    assert count(whole) == 64 + moved
    assert whole.sum >= hand_over.sum
    assert count(n2.metrics.migration_seconds.children().get(())) == 0


@in_world(shards=64)
async def test_L35_only_the_leader_speaks_for_the_cluster_and_only_while_it_leads(
    world: World,
) -> None:
    n1 = await world.node("n1")
    await world.until(world.settled)
    n2 = await world.node("n2")
    await world.until(lambda: len(n2.host.shards) > 20 and world.settled())
    await world.until(lambda: n1.node.leadership.snapshot().moving == 0)
    assert state(n1, "goverse_cluster_shards") == {
        "owned": 64,
        "migrating": 0,
        "unclaimed": 0,
        "unassigned": 0,
        "pinned": 0,
        "moving": 0,
    }
    larger = max(len(n1.host.shards), len(n2.host.shards))
    assert state(n1, "goverse_imbalance") == {"count": pytest.approx(larger / 32 - 1)}
    assert state(n1, "goverse_shards")["open"] == len(n1.host.shards)
    for name in OF_THE_LEADER:
        assert told(n1, name) and not told(n2, name), name
    n1.cut()
    await world.until(lambda: not n1.member.valid())
    for name in OF_THE_LEADER:
        assert not told(n1, name), name


@in_world(shards=64, rebalance_batch_size=4)
async def test_L35_what_is_stuck_is_a_state_with_an_age_and_goes_away(world: World) -> None:
    n1 = await world.node("n1")
    await world.until(world.settled)
    n1.host.busy = dict.fromkeys(range(64), True)
    n2 = await world.node("n2")
    stuck = "goverse_stuck_shards"
    assert state(n1, stuck) == {"handing_over": 0, "claiming": 0, "no_taker": 0}
    assert told(n1, "goverse_stuck_shard_age_seconds") == {(): 0.0}
    await world.until(lambda: state(n1, stuck)["handing_over"] == 4)
    assert 10 <= told(n1, "goverse_stuck_shard_age_seconds")[()] < 11
    assert state(n1, "goverse_held_shards")["batch_limit"] > 0
    assert state(n1, "goverse_cluster_shards")["migrating"] >= 4
    assert n1.metrics.moves_called_off.children()[()] >= 4
    n1.host.busy.clear()
    await world.until(lambda: len(n2.host.shards) > 20 and world.settled(), 120)
    await world.until(lambda: state(n1, stuck)["handing_over"] == 0)
    assert told(n1, "goverse_stuck_shard_age_seconds") == {(): 0.0}


@in_world(shards=64, rebalance_batch_size=4)
async def test_L35_a_node_that_claims_nothing_is_seen_and_its_shards_are_unserved(
    world: World,
) -> None:
    n1 = await world.node("n1")
    await world.until(world.settled)
    n2 = world.spawn("n2")
    await world.until(lambda: n2.member.view.loaded)

    def refuse(operations: object) -> None:
        assert isinstance(operations, (list, tuple))
        if isinstance(operations[0], Put) and "/claims/" in operations[0].key:
            raise CoordinatorUnavailable("it hangs")

    n2.coordinator.before = refuse
    await world.until(lambda: told(n2, "goverse_unserved_shard_age_seconds")[()] > 9)
    assert state(n1, "goverse_cluster_shards")["unclaimed"] == 4
    (why,) = n2.node.ownership.why(n2.node.ownership._queue._claims.copy().popitem()[0])
    assert why == "its target is to claim it, one of 4: it hangs"
    await world.until(lambda: told(n1, "goverse_shunned_nodes") == {(): 1.0})
    await world.until(lambda: state(n1, "goverse_cluster_shards")["owned"] == 64)
    assert told(n2, "goverse_unserved_shard_age_seconds") == {(): 0.0}
    assert state(n1, "goverse_held_shards")["not_claiming"] > 20


def test_imbalance_is_that_of_the_node_farthest_from_its_share() -> None:
    ones = (1.0,) * 8
    even = ["a"] * 4 + ["b"] * 4
    assert imbalance(even, ones, {"a": 1, "b": 1}) == 0
    assert imbalance(even, ones, {"a": 3, "b": 1}) == pytest.approx(1.0)
    assert imbalance(even, (2.0,) * 4 + (1.0,) * 4, {"a": 1, "b": 1}) == pytest.approx(1 / 3)
    # Whoever takes none is left out; what stays with a node counts.
    assert imbalance([*even, None, "gone"], (1.0,) * 10, {"a": 1, "b": 1}) == 0
    assert imbalance(even, ones, {"a": 1, "b": 1}, {"a": 4.0, "b": 0.0}) == pytest.approx(1 / 3)
    assert imbalance([], (), {}) == imbalance([None], (1.0,), {"a": 1}) == 0
