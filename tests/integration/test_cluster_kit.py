"""The test kit's cluster, as an application's tests use it: in real and in virtual time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

import goverse
from goverse.testing import COORDINATOR, Cluster, SimLoop, run_virtual
from tests.support.virtual import elapse


class Counter(goverse.Object):
    """Counts."""

    value: int = 0

    @goverse.method
    async def add(self, amount: int = 1) -> int:
        self.value += amount
        return self.value


def virtually(test: Callable[[SimLoop, Cluster], Awaitable[None]], *, nodes: int) -> None:
    async def main(loop: SimLoop) -> None:
        async with Cluster(Counter, nodes=nodes, seed=1) as cluster:
            await test(loop, cluster)

    run_virtual(main, seed=1, max_time_s=300)


async def test_a_cluster_in_real_time_stops_and_starts_nodes() -> None:
    async with Cluster(Counter, nodes=2) as cluster:
        client = await cluster.client()
        assert await client.get(Counter, "a").add(5) == 5
        await cluster.stop("n1")
        await cluster.wait_all_claimed()
        assert set(cluster.owners().values()) == {"n2"}
        assert await client.get(Counter, "b").add(2) == 2
        await cluster.start_node("n1")
        with pytest.raises(ValueError, match="runs already"):
            await cluster.start_node("n1")
        with pytest.raises(RuntimeError, match="virtual time"):
            cluster.kill("n1")
        snapshot = cluster.snapshot()
        assert [member.name for member in snapshot.members] == ["n1", "n2", "g1"]
        assert snapshot.faults.clean


def test_a_killed_node_is_replaced_within_its_lease_and_two_seconds() -> None:
    async def test(loop: SimLoop, cluster: Cluster) -> None:
        client = await cluster.client()
        for number in range(20):
            await client.get(Counter, f"c{number}").add()
        before = loop.elapsed_s
        cluster.kill("n1")
        await cluster.wait_all_claimed()
        assert loop.elapsed_s - before < 5
        assert "n1" not in cluster.owners().values()
        for number in range(20):
            assert await client.get(Counter, f"c{number}").add() in (1, 2)

    virtually(test, nodes=3)


def test_a_paused_node_drops_its_objects_and_joins_again() -> None:
    async def test(loop: SimLoop, cluster: Cluster) -> None:
        client = await cluster.client()
        owned = cluster.owners()
        cluster.pause("n1")
        assert cluster.member("n1").snapshot().paused
        await elapse(9)
        assert set(cluster.owners().values()) == {"n2"}
        cluster.resume("n1")
        await cluster.wait_until(lambda: cluster.owners() == owned)
        assert await client.get(Counter, "a").add() == 1
        node = cluster.member("n1").node
        assert node is not None and node.snapshot().member.membership.losses == 1

    virtually(test, nodes=2)


def test_cut_and_slow_cables() -> None:
    async def test(loop: SimLoop, cluster: Cluster) -> None:
        counter = (await cluster.client()).get(Counter, "a")
        await counter.add()
        cluster.slow("client", "g1", 0.5)
        before = loop.elapsed_s
        await counter.add()
        assert 1.0 <= loop.elapsed_s - before < 1.1
        cluster.heal()
        cluster.cut("n1", COORDINATOR)
        await elapse(4)
        with pytest.raises(goverse.DeadlineExceeded):
            await goverse.options(counter, timeout_s=5).add()
        cluster.heal()
        await cluster.wait_all_claimed()
        assert await counter.add() == 1

    virtually(test, nodes=1)


def test_pins_move_shards() -> None:
    async def test(loop: SimLoop, cluster: Cluster) -> None:
        for node in ("n1", "n2"):
            await cluster.pin(3, node)
            await cluster.wait_until(lambda node=node: cluster.owners().get(3) == node)
        await cluster.pin(3, None)

    virtually(test, nodes=2)
