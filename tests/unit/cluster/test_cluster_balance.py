"""The leader balances a cluster: by number, by load, and within its limits."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import pytest

from goverse.cluster import pin_shard
from goverse.cluster.records import MemberRecord
from goverse.errors import Unavailable
from goverse.sharding import Hold
from goverse.sharding.loads import NodeLoad, ShardLoad
from tests.support.members import Process, World, in_world


@dataclass
class Measured:
    """Says what every node has to do: of a shard so many calls a second, ten filling a node."""

    world: World
    calls: dict[int, float] = field(default_factory=dict)
    noise: float = 0.0
    silent: str = ""
    asked: int = 0

    async def load_of(self, node: MemberRecord) -> NodeLoad | None:
        self.asked += 1
        if node.member.name == self.silent:
            raise Unavailable("no answer")
        process = next(p for p in self.world.live if p.name == node.member.name)
        rnd = self.world.random
        calls = {
            shard: self.calls.get(shard, 0.01) * rnd.uniform(1 - self.noise, 1 + self.noise)
            for shard in process.host.shards
        }
        hottest = {shard: ShardLoad(rate) for shard, rate in calls.items()}
        cpu = min(1.0, sum(calls.values()) / 10 / node.weight)
        return NodeLoad(cpu=cpu, memory_bytes=1 << 30, hottest=hottest)

    def levels(self) -> dict[str, float]:
        """What the shards of each node come to, for one unit of its weight."""
        return {
            p.name: sum(self.calls.get(shard, 0.01) for shard in p.host.shards) / weight(p)
            for p in self.world.live
        }


def weight(process: Process) -> float:
    return process.member.view.state.nodes[process.name].weight


def held_by(world: World) -> dict[str, int]:
    return {p.name: len(p.host.shards) for p in world.live}


def near(world: World, shares: dict[str, float], tolerance: float = 0.1) -> bool:
    found = held_by(world)
    return world.settled() and all(
        abs(found[name] - share) <= max(tolerance * share, 1) for name, share in shares.items()
    )


def moves(world: World) -> Counter[str]:
    """Of all leaders together."""
    found: Counter[str] = Counter()
    for process in world.processes:
        for (reason,), count in process.metrics.shard_moves.children().items():
            found[reason] += int(count)
    return found


def decided(world: World) -> Counter[str]:
    found: Counter[str] = Counter()
    for process in world.processes:
        for (decision,), count in process.metrics.plan_decisions.children().items():
            found[decision] += int(count)
    return found


@in_world(shards=128, strategy="count", rebalance_cooldown_s=0.0)
async def test_L37_by_number_up_and_down_and_at_rest(world: World) -> None:
    n1, _ = await world.node("n1"), await world.node("n2")
    await world.until(lambda: near(world, {"n1": 64, "n2": 64}))
    before = moves(world)
    await world.node("n3")
    await world.until(lambda: near(world, {"n1": 42.7, "n2": 42.7, "n3": 42.7}))
    assert moves(world)["balance"] - before["balance"] <= 43 * 1.2
    n4 = await world.node("n4", weight=3.0)
    await world.until(lambda: near(world, {"n1": 21.3, "n4": 64}))
    n4.kill()
    await world.until(lambda: near(world, {"n1": 42.7, "n2": 42.7, "n3": 42.7}))
    rested = moves(world)
    plans = n1.node.leadership.snapshot().plans
    await world.passes(60.0)
    assert moves(world) == rested and n1.node.leadership.snapshot().plans - plans < 5
    found = decided(world)
    assert {"first", "balance", "failover", "balanced", "not_stable"} <= set(found)


@in_world(shards=128, strategy="count")
async def test_weights_one_two_four(world: World) -> None:
    for name, own in (("n1", 1.0), ("n2", 2.0), ("n3", 4.0)):
        await world.node(name, weight=own)
    await world.until(lambda: near(world, {"n1": 18.3, "n2": 36.6, "n3": 73.1}))


BY_LOAD = {"strategy": "load", "load_interval_s": 1.0, "rebalance_cooldown_s": 4.0}


@in_world(shards=64, **BY_LOAD)
async def test_five_hot_shards_are_spread_and_stay(world: World) -> None:
    world.loads = measured = Measured(world, noise=0.02)
    for name in ("n1", "n2", "n3", "n4", "n5"):
        await world.node(name)
    await world.until(world.settled)
    n1 = world.live[0]
    hot = n1.host.shards[:5]
    measured.calls = dict.fromkeys(hot, 4.0)
    await world.until(
        lambda: world.settled() and all(len(set(p.host.shards) & set(hot)) == 1 for p in world.live)
    )
    await world.passes(20.0)  # the means have arrived
    rested = moves(world)
    for level in measured.levels().values():
        assert abs(level - (20.0 + 59 * 0.01) / 5) < 0.1 * 4
    await world.passes(200.0)
    assert moves(world) == rested, "it swings"
    assert rested["balance"] < 40


@in_world(shards=64, **BY_LOAD)
async def test_whoever_leads_next_moves_nothing_before_it_knows_the_loads(world: World) -> None:
    """By number it would undo what was done by load: the node of the hot shard has few others."""
    world.loads = measured = Measured(world)
    for name in ("n1", "n2", "n3"):
        await world.node(name)
    await world.until(world.settled)
    old = world.leader
    hot = next(p for p in world.live if p is not old).host.shards[0]
    measured.calls = {hot: 3.0}
    await world.until(lambda: any(p.host.shards == [hot] for p in world.live))
    await world.passes(20.0)
    before = moves(world)["balance"]
    old.kill()
    await world.until(
        lambda: world.all_open() and any(p.node.leadership.leading for p in world.live)
    )
    await world.passes(60.0)
    # What the dead node had goes to the node that has room; the hot shard stays alone.
    assert any(p.host.shards == [hot] for p in world.live)
    assert moves(world)["balance"] - before <= len(old.host.shards)
    assert decided(world)["loads_unknown"] > 0


@in_world(shards=64, **BY_LOAD)
async def test_an_idle_cluster_is_levelled_by_number(world: World) -> None:
    world.loads = Measured(world)
    for name in ("n1", "n2"):
        await world.node(name)
    await world.until(world.settled)
    await world.passes(3.0)
    await world.node("n3")
    await world.until(lambda: near(world, {"n1": 21.3, "n2": 21.3, "n3": 21.3}, 0.15))


@in_world(shards=32, **BY_LOAD)
async def test_L17_a_hot_shard_that_is_pinned_stays_and_others_go(world: World) -> None:
    world.loads = measured = Measured(world)
    n1, _ = await world.node("n1"), await world.node("n2")
    await world.until(world.settled)
    hot = n1.host.shards[0]
    await pin_shard(n1.coordinator, world.keys, hot, "n1")
    measured.calls = {hot: 5.0}
    await world.until(lambda: n1.host.shards == [hot])
    await world.passes(30.0)
    assert n1.host.shards == [hot]
    assert world.leader.node.leadership.snapshot().held == {Hold.PINNED: 1}


@in_world(shards=32, **BY_LOAD)
async def test_a_node_that_does_not_answer_delays_nobody(world: World) -> None:
    world.loads = measured = Measured(world, silent="n3")
    n1, n2, n3 = [await world.node(name) for name in ("n1", "n2", "n3")]
    await world.until(world.settled)
    measured.calls = dict.fromkeys(n1.host.shards[:4], 2.0)
    await world.until(lambda: len(set(measured.calls) & set(n2.host.shards)) >= 1)
    # Nothing is known of it: it counts as no better and no worse than the others.
    await world.passes(30.0)
    assert len(n3.host.shards) > 3


@in_world(shards=64, strategy="count", rebalance_cooldown_s=20.0, rebalance_batch_size=8)
async def test_what_has_moved_is_left_alone_for_a_while(world: World) -> None:
    await world.node("n1")
    await world.until(world.settled)
    n2 = await world.node("n2")
    await world.until(lambda: near(world, {"n1": 32, "n2": 32}))
    began = world.loop.time()
    # Two more nodes: what n2 has came a moment ago.
    await world.node("n3", weight=4.0)
    leader = world.leader.node.leadership
    await world.until(lambda: Hold.COOLDOWN in leader.snapshot().held)
    kept = len(n2.host.shards)
    await world.passes(5.0)
    assert len(n2.host.shards) == kept
    shard = n2.host.shards[0]
    said = [line for s in n2.host.shards for line in leader.why(s)]
    assert any("rebalance_cooldown" in line for line in said), shard
    # Nothing happens that would wake the leader: it looks again by itself.
    await world.until(lambda: near(world, {"n1": 10.7, "n2": 10.7, "n3": 42.7}))
    assert world.loop.time() - began >= 18.0
    assert decided(world)["cooldown"] > 0 and decided(world)["batch_limit"] > 0


@in_world(shards=64, strategy="count", rebalance_per_s=2.0)
async def test_only_so_many_moves_begin_each_second(world: World) -> None:
    await world.node("n1")
    await world.until(world.settled)
    n2 = await world.node("n2")
    took = await world.until(lambda: near(world, {"n1": 32, "n2": 32}))
    # Two at once, then two a second; within half the threshold it ends.
    assert 12.0 < took < 18.0
    assert len(n2.host.shards) >= 29
    assert decided(world)["rate_limit"] > 0


@in_world(shards=64, strategy="count", stability_duration_s=30.0)
async def test_an_operator_need_not_wait_for_stability(world: World) -> None:
    n1 = await world.node("n1")
    await world.until(world.settled)
    n2 = await world.node("n2")
    leader = n1.node.leadership
    await world.until(lambda: Hold.NOT_STABLE in leader.snapshot().held)
    assert leader.proposal().plan.changes == ()
    assert len(leader.proposal().plan.waiting) > 25
    asked = leader.rebalance()
    assert len(asked.plan.changes) > 25
    assert await world.until(lambda: near(world, {"n1": 32, "n2": 32})) < 5.0
    assert n2.host.shards


@pytest.mark.parametrize("seed", range(4))
@in_world(shards=32, **BY_LOAD)
async def test_every_shard_has_its_node_whatever_the_loads_do(world: World, *, seed: int) -> None:
    """Nodes come and go, and loads jump about: in the end everything is open, and rests."""
    chance = random.Random(seed)
    world.loads = measured = Measured(world, noise=0.3)
    for name in ("n1", "n2", "n3"):
        world.spawn(name)
    for turn in range(8):
        await world.passes(chance.uniform(0.5, 4.0))
        measured.calls = {s: chance.expovariate(1.0) for s in range(32) if chance.random() < 0.3}
        kind = chance.choice(("kill", "join", "nothing"))
        if kind == "kill" and len(world.live) > 1:
            chance.choice(world.live).kill()
        elif kind == "join":
            world.spawn(f"n{turn + 4}")
    if not world.live:
        world.spawn("last")
    measured.noise = 0.01
    await world.until(world.all_open)
    await world.passes(60.0)
    assert world.settled()
    rested = moves(world)
    await world.passes(60.0)
    assert moves(world) == rested
