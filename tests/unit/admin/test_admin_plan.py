"""An operator sees what the leader plans, and lets it begin."""

from __future__ import annotations

from dataclasses import replace

import pytest

import goverse
from goverse.admin.api import MAX_MOVES, ShardPlan
from goverse.cluster.leadership import Proposal
from goverse.errors import DeadlineExceeded, FailedPrecondition, Unavailable
from goverse.sharding import PlanInput, PlanNode, Strategy, plan
from goverse.sharding.loads import NodeLoad
from goverse.testing.cluster import TEST_SETTINGS, Cluster
from goverse_node.admin import operations
from goverse_node.admin.operations import NodeAdmin
from goverse_node.admin.plans import shard_plan
from tests.support.virtual import elapse, virtual
from tests.unit.admin.test_admin_node import World, objects


class Counter(goverse.Object):
    value: int = 0

    @goverse.method
    async def add(self) -> int:
        self.value += 1
        return self.value


def state(shards: int = 8, **over: object) -> PlanInput:
    home = ("n1",) * shards
    found = PlanInput((PlanNode("n1"), PlanNode("n2")), home, home, strategy=Strategy.COUNT)
    return replace(found, **over)  # type: ignore[arg-type]


def told(given: PlanInput, **loads: NodeLoad) -> ShardPlan:
    return shard_plan(Proposal(given, plan(given), loads), stable=given.stable)


def test_L37_every_wanted_move_is_told_with_what_holds_it() -> None:
    found = told(state(max_moves=2, cooling=(0,), pins={7: "n1"}))
    assert (found.strategy, found.balanced, found.wanted) == ("count", False, 4)
    assert found.decisions == ("balance", "cooldown", "pinned", "batch_limit")
    assert [(m.shard, m.held) for m in found.moves] == [
        (1, ""),
        (2, ""),
        (0, "cooldown"),
        (3, "batch_limit"),
    ]
    assert {(m.source, m.target, m.reason) for m in found.moves} == {("n1", "n2", "balance")}
    n1, n2 = found.nodes
    assert (n1.shards, n1.shards_after, n1.level, n1.level_after) == (8, 4, 2.0, 1.0)
    assert (n2.shards, n2.shards_after, n2.level, n2.level_after) == (0, 4, 0.0, 1.0)
    assert {held.reason: held.shards for held in found.held} == {
        "pinned": 1,
        "cooldown": 1,
        "batch_limit": 1,
    }


def test_loads_are_told_as_multiples() -> None:
    loads = (4.0, 1.0, 1.0, 2.0)
    by_load = state(4, strategy=Strategy.LOAD, loads=loads)
    found = told(by_load, n1=NodeLoad(cpu=0.75, memory=0.5))
    assert [(m.shard, m.load) for m in found.moves] == [(0, 2.0)]
    assert [(n.level, n.level_after, n.cpu, n.memory) for n in found.nodes] == [
        (2.0, 1.0, 0.75, 0.5),
        (0.0, 1.0, 0.0, 0.0),
    ]


def test_a_plan_of_any_size_is_a_bounded_answer() -> None:
    found = told(state(65_536, max_moves=10))
    assert found.wanted > 30_000 and len(found.moves) == MAX_MOVES


def test_without_a_node_there_is_an_answer_too() -> None:
    found = told(state(nodes=()))
    assert (found.decisions, found.nodes, found.balanced) == (("no_node",), (), False)


async def test_whoever_is_asked_asks_the_leader(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World({"n1": objects(), "n2": objects()}, leader="n2")
    for name, node in world.nodes.items():
        said = ShardPlan(strategy=name)
        node._parts = replace(node._parts, plan=lambda asked, said=said: said)
    found = await world.nodes["n1"].plan_shards()
    assert (found.strategy, found.leader) == ("n2", "n2")
    with pytest.raises(FailedPrecondition, match="up to the leader, n2; ask it at"):
        await world.nodes["n1"].plan_shards(local_only=True)
    with pytest.raises(FailedPrecondition, match="up to the leader, n2; ask it at"):
        await world.nodes["n1"].rebalance_shards()
    assert (await world.nodes["n2"].rebalance_shards()).leader == "n2"
    world.silent.append("n2")
    monkeypatch.setattr(operations, "PEER_TIMEOUT_S", 0.01)
    with pytest.raises((DeadlineExceeded, Unavailable)):
        await world.nodes["n1"].plan_shards()
    with pytest.raises(Unavailable, match="no node leads"):
        await World({"n1": objects()}).nodes["n1"].plan_shards()


def admin(world: Cluster, name: str) -> NodeAdmin:
    node = world.member(name).node
    assert node is not None
    return node.admin


@virtual
async def test_loads_are_measured_asked_for_and_acted_on() -> None:
    """A whole cluster: the calls of a few objects make their shards hot, and those part."""
    cluster = replace(
        TEST_SETTINGS.cluster,
        strategy="load",
        load_interval_s=2.0,
        rebalance_cooldown_s=4.0,
        stability_duration_s=0.5,
    )
    async with Cluster(Counter, nodes=2, settings=replace(TEST_SETTINGS, cluster=cluster)) as world:
        client = await world.client()
        view = admin(world, "n1")._view.state
        layout = view.layout
        assert layout is not None
        mine = [s for s, node in world.owners().items() if node == "n1"][:4]
        hot = [f"shard#{shard}/x" for shard in mine]

        def homes() -> list[str]:
            return [world.owners().get(shard, "") for shard in mine]

        async def busy() -> None:
            for id in hot:
                await client.get(Counter, id).add()

        for _ in range(120):
            for _ in range(10):
                await busy()
            await elapse(0.5)
            if "n2" in homes():
                break
        # Both machines are half busy, whoever has how many of them.
        assert set(homes()) == {"n1", "n2"}
        leader = (
            "n1" if (node := world.member("n1").node) and node.member.leadership.leading else ("n2")
        )
        found = await admin(world, leader).plan_shards()
        assert found.strategy == "load"
        assert all(0.45 < share.cpu <= 0.55 for share in found.nodes)
        # Calls were made all the time, and none was lost: every object has counted all of them.
        counted = {await client.get(Counter, id).add() for id in hot}
        assert len(counted) <= 2
