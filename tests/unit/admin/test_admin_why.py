"""An operator sees a queue, and learns why a shard stays where it is."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

import goverse
from goverse.admin.api import ClusterStatus, Shard, Warning
from goverse.cluster.leadership import LeadershipSnapshot
from goverse.cluster.stuck import Step, StuckShard
from goverse.testing.cluster import TEST_SETTINGS, Cluster
from goverse_node.admin.assembly import MAX_STUCK, _leading
from goverse_node.admin.operations import NodeAdmin
from tests.support.virtual import virtual
from tests.unit.admin.test_admin_node import World, objects


class Slow(goverse.Object):
    @goverse.method
    async def work(self) -> None:
        await asyncio.Event().wait()


def admin(world: Cluster, name: str) -> NodeAdmin:
    node = world.member(name).node
    assert node is not None
    return node.admin


@virtual
async def test_L37_a_queue_is_seen_and_what_keeps_a_shard_from_moving() -> None:
    settings = replace(TEST_SETTINGS, node=replace(TEST_SETTINGS.node, drain_timeout_s=1.0))
    async with Cluster(Slow, nodes=2, settings=settings) as world:
        client = await world.client()
        calls = [asyncio.create_task(client.get(Slow, "a").work()) for _ in range(4)]
        shard = (await admin(world, "n1").locate_object("Slow", "a")).shard
        owner = world.owners()[shard]
        other = {"n1": "n2", "n2": "n1"}[owner]

        async def queue() -> list[tuple[str, int, int]]:
            page = await admin(world, owner).list_objects(local_only=True)
            return [(found.id, found.running, found.queued) for found in page.objects]

        async with asyncio.timeout(5):
            while await queue() != [("a", 1, 3)]:
                await world.wait_until(lambda: True)
                await asyncio.wait(calls, timeout=0.01)

        async def why(name: str) -> tuple[str, ...]:
            return (await admin(world, name).get_shard(shard, local_only=True)).why

        assert await why(owner) == await why(other) == ()
        await world.pin(shard, other)
        said: dict[str, tuple[str, ...]] = {}
        async with asyncio.timeout(60):
            while not any("has been on its way" in text for text in said.get("leader", ())):
                await asyncio.wait(calls, timeout=0.5)
                said["owner"] = (*await why(owner), *said.get("owner", ()))
                leader = "n1" if (node := world.member("n1").node) and _leads(node) else "n2"
                said["leader"] = await why(leader)
        owner_said = "\n".join(said["owner"])
        assert "waits 1 s for its turns" in owner_said
        assert (
            "longer than node.drain_timeout of 1 s: its move was called off 1 times" in owner_said
        )
        assert "Slow/a runs 1 turns, and 3 wait" in owner_said
        assert "draining: 1 turns have not ended, 3 calls wait" in owner_said
        warnings = (await admin(world, leader).get_status(local_only=True)).warnings
        (stuck,) = [warning for warning in warnings if warning.code == "shard_stuck"]
        assert f"shard {shard} is stuck (handing_over)" in stuck.message
        assert f"{owner} holds on to it. What to do" in stuck.message
        assert f"on its way to {other}" in "\n".join(said["leader"])
        for task in calls:
            task.cancel()
        await world.wait_until(lambda: world.owners().get(shard) == other, 60)
        assert [text for text in await why(owner) if "called off" in text] == []


def _leads(node: object) -> bool:
    return bool(node.member.leadership.leading)  # type: ignore[attr-defined]


async def test_L37_status_says_what_the_culprit_of_a_stuck_shard_says() -> None:
    world = World(
        {"n1": objects("a"), "n2": objects(), "n3": objects()},
        leader="n2",
        targets={5: "n1", 6: "n1"},
        claims={5: "n3"},
    )
    for name, node in world.nodes.items():
        node._parts = replace(node._parts, why=lambda shard, said=name: [f"{said} drains {shard}"])
    stuck = [Warning(code="shard_stuck", message=f"shard {n}", shards=(n,)) for n in (5, 6)]
    shunned = Warning(code="node_claims_nothing", message="n1 claims nothing")
    world.plan = ClusterStatus(warnings=(shunned, *stuck))
    for asked in ("n1", "n2", "n3"):
        found = await world.nodes[asked].get_status()
        assert [warning.message for warning in found.warnings[-3:]] == [
            "n1 claims nothing",
            "shard 5. n3 says: n3 drains 5",  # it holds the claim
            "shard 6. n1 says: n1 drains 6",  # nobody does: it is to claim it
        ]
    # The leader is asked for what it knows alone: it asks nobody then.
    world.asked.clear()
    assert (await world.nodes["n2"].get_status(local_only=True)).warnings[-1].message == "shard 6"
    assert world.asked == []
    world.silent.append("n3")
    found = await world.nodes["n1"].get_status()
    assert found.warnings[-2].message == "shard 5. n3 says: n3 does not answer, and may know more"


@pytest.mark.parametrize(
    ("step", "advice"),
    [
        (Step.HANDING_OVER, "goverse-cli shard get 5; it goes when that ends, or when n1 stops"),
        (Step.CLAIMING, "see the log and the readiness of n2"),
        (Step.NO_TAKER, "start n2, or another node that takes it"),
    ],
)
def test_L37_each_step_has_its_advice(step: Step, advice: str) -> None:
    def snapshot(stuck: list[StuckShard]) -> Any:
        found = LeadershipSnapshot(None, True, True, 1, 0, {}, tuple(stuck), (), ("n2",))
        return SimpleNamespace(leadership=SimpleNamespace(snapshot=lambda: found))

    told = _leading(snapshot([StuckShard(5, "n1", "n2", 12.0, step)])).warnings
    assert told[0].code == "node_claims_nothing" and told[0].message.startswith("n2 ")
    assert told[1].code == "shard_stuck" and told[1].shards == (5,)
    assert f"is stuck ({step.value}): it has been on its way to n2 for 12 s" in told[1].message
    assert advice in told[1].message
    many = [StuckShard(n, "n1", "n2", 12.0 + n, step) for n in range(2000)]
    told = _leading(snapshot(many)).warnings
    assert len(told) == MAX_STUCK + 2 and told[1].shards == (1999,)
    assert told[-1].message.startswith(f"{2000 - MAX_STUCK} more shards are stuck, at n")


async def test_L37_whoever_is_asked_asks_the_leader_and_the_owner() -> None:
    world = World(
        {"n1": objects("a"), "n2": objects(), "n3": objects()},
        leader="n2",
        targets={5: "n1"},
        claims={5: "n3"},
    )
    for name, node in world.nodes.items():
        said = f"{name} says so"
        node._parts = replace(node._parts, why=lambda shard, said=said: [said])
    found = await world.nodes["n1"].get_shard(5)
    assert found.why == ("n1 says so", "n2 says so", "n3 says so")
    assert (await world.nodes["n1"].get_shard(5, local_only=True)).why == ("n1 says so",)
    world.silent.append("n3")
    found = await world.nodes["n1"].get_shard(5)
    assert found.why[-1] == "n3 does not answer, and may know more"


@pytest.mark.parametrize("local_only", [False, True])
async def test_a_shard_in_its_place_needs_no_reason(local_only: bool) -> None:
    world = World({"n1": objects("a")}, leader="n1", targets={5: "n1"}, claims={5: "n1"})
    found = await world.nodes["n1"].get_shard(5, local_only=local_only)
    assert isinstance(found, Shard) and found.why == ()
