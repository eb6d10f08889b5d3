"""A whole cluster in one process, whose nodes operators empty and end while calls go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

import goverse
from goverse.errors import FailedPrecondition
from goverse.testing.cluster import Cluster
from goverse.testing.member import State
from goverse_node.admin.operations import NodeAdmin

WITHIN_S = 30.0


class Counter(goverse.Object):
    value: int = 0

    @goverse.method
    async def add(self) -> int:
        self.value += 1
        return self.value


def admin(cluster: Cluster, name: str) -> NodeAdmin:
    node = cluster.member(name).node
    assert node is not None
    return node.admin


@asynccontextmanager
async def steady(cluster: Cluster) -> AsyncIterator[list[int]]:
    """Callers that count; nothing may fail, and nothing be lost: state moves along."""
    client, over = await cluster.client(), asyncio.Event()
    counts = [0] * 16

    async def caller(number: int) -> None:
        ref = client.get(Counter, f"c{number}")
        while not over.is_set():
            assert await ref.add() == counts[number] + 1
            counts[number] += 1

    tasks = [asyncio.ensure_future(caller(number)) for number in range(16)]
    try:
        yield counts
    finally:
        over.set()
        await asyncio.gather(*tasks)


async def more(cluster: Cluster, counts: list[int]) -> None:
    wanted = min(counts) + 5
    await cluster.wait_until(lambda: min(counts) >= wanted, WITHIN_S)


async def test_L14_a_node_is_drained_under_load_and_ended_and_no_call_fails() -> None:
    async with Cluster(Counter, nodes=3) as cluster, steady(cluster) as counts:
        await more(cluster, counts)
        found = await admin(cluster, "n1").cordon_node("n2", drain=True)
        assert found.state in ("draining", "drained")
        await cluster.wait_until(lambda: "n2" not in cluster.owners().values(), WITHIN_S)
        await more(cluster, counts)
        assert cluster.member("n2").state is State.RUNNING
        with pytest.raises(FailedPrecondition, match="only n2 itself can end"):
            await admin(cluster, "n1").decommission_node("n2")
        await admin(cluster, "n2").decommission_node("n2")
        ready = cluster.member("n2").node
        assert ready is not None and not ready.readiness().ready
        await cluster.wait_until(lambda: not cluster.member("n2").alive, WITHIN_S)
        await more(cluster, counts)


async def test_a_decommissioned_node_is_not_waited_for_whatever_its_mode() -> None:
    """Others may pin shards to it, or find it the last resort, in the moment in which it goes."""
    async with Cluster(Counter, nodes=1) as cluster:
        await cluster.start_node("n2", shutdown_mode="restart")
        await admin(cluster, "n1").cordon_node("n2", drain=True)
        await cluster.wait_until(lambda: set(cluster.owners().values()) == {"n1"}, WITHIN_S)
        restarts: list[str] = []
        prefix = cluster.keys.restart("")
        await admin(cluster, "n2").decommission_node("n2")

        def gone() -> bool:
            restarts.extend(cluster.coordinator.list(prefix).items)
            return not cluster.member("n2").alive

        await cluster.wait_until(gone, WITHIN_S)
        assert restarts == []


async def test_a_drained_node_that_is_uncordoned_takes_its_share_again() -> None:
    async with Cluster(Counter, nodes=2) as cluster, steady(cluster) as counts:
        one = admin(cluster, "n1")
        await cluster.wait_until(lambda: "n2" in cluster.owners().values(), WITHIN_S)
        await one.cordon_node("n2", drain=True)
        await cluster.wait_until(lambda: "n2" not in cluster.owners().values(), WITHIN_S)
        with pytest.raises(FailedPrecondition, match="no other node takes shards"):
            await one.cordon_node("n1", drain=True)
        await one.uncordon_node("n2")
        await cluster.wait_until(lambda: "n2" in cluster.owners().values(), WITHIN_S)
        await more(cluster, counts)
