"""Durable objects on a whole cluster in virtual time: nodes die, the store is cut off, the
coordinator forgets."""

from __future__ import annotations

import asyncio
import random

import pytest

import goverse
from goverse.cluster.records import ClaimValue, decode
from goverse.errors import Executed, GoverseError
from goverse.ids import NO_EPOCH, Epoch
from goverse.testing import Cluster, run_virtual
from goverse.testing.faults import STORE
from goverse.testing.loop import SimLoop
from tests.support.virtual import elapse


class Counter(goverse.Object, durability="acknowledged"):
    value: int = 0

    @goverse.method
    async def add(self, amount: int = 1) -> int:
        self.value += amount
        return self.value

    @goverse.method(read_only=True)
    async def get(self) -> int:
        return self.value


@pytest.mark.virtual_time
async def test_L11_a_killed_node_takes_nothing_that_was_answered_with_it() -> None:
    async with Cluster(Counter, nodes=2) as cluster:
        client = await cluster.client()
        for number in range(20):
            assert await client.get(Counter, f"c{number}").add(number) == number
        cluster.kill("n1")
        for number in range(20):
            assert await client.get(Counter, f"c{number}").get() == number


@pytest.mark.virtual_time
async def test_state_travels_with_a_planned_move() -> None:
    async with Cluster(Counter, nodes=2) as cluster:
        client = await cluster.client()
        assert await client.get(Counter, "a").add(5) == 5
        for node in ("n1", "n2", "n1"):
            for shard in range(cluster.settings.cluster.initial_num_shards):
                await cluster.pin(shard, node)
            await cluster.wait_until(lambda node=node: set(cluster.owners().values()) == {node})
            assert await client.get(Counter, "a").add(1) > 5
        assert await client.get(Counter, "a").get() == 8


@pytest.mark.virtual_time
async def test_the_store_is_ahead_of_a_coordinator_that_lost_its_history() -> None:
    async with Cluster(Counter, nodes=1) as cluster:
        client = await cluster.client()
        assert await client.get(Counter, "a").add(5) == 5
        operator = cluster.store.connect()
        slots = range(65_536)
        await operator.raise_fence(slots, Epoch(7, 10**15), "of another history", 1)
        # What it has open is refused from now on, and the object comes back under a generation
        # above the one that the store knows.
        with pytest.raises(GoverseError) as refused:
            await client.get(Counter, "a").add(1)
        assert refused.value.executed is Executed.UNKNOWN
        cluster.kill("n1")
        await cluster.start_node("n1")

        def generations() -> list[int]:
            return [decode(item, ClaimValue).generation for item in cluster.claims().values()]

        await cluster.wait_until(lambda: generations() and min(generations()) == 8)
        await cluster.wait_all_claimed()
        assert await client.get(Counter, "a").add(1) == 6


@pytest.mark.virtual_time
async def test_a_second_cluster_on_the_same_store_writes_nothing_until_it_is_adopted() -> None:
    async with Cluster(Counter, nodes=0) as cluster:
        tables = cluster.store.tables
        claim = tables.claim_cluster

        def beaten(cluster_id: str) -> None:
            """The other cluster comes after this node has started, right before its first write."""
            tables.cluster_id = "first"
            claim(cluster_id)

        tables.claim_cluster = beaten  # type: ignore[method-assign]
        await cluster.start_node("n1")
        client = await cluster.client()
        with pytest.raises(GoverseError) as refused:
            await goverse.options(client.get(Counter, "a"), timeout_s=10.0).add(1)
        assert refused.value.executed is not Executed.YES
        assert tables.highest_epoch() == NO_EPOCH
        tables.claim_cluster = claim  # type: ignore[method-assign]
        tables.adopt("")
        assert await goverse.options(client.get(Counter, "a"), timeout_s=60.0).add(1) == 1
        assert tables.cluster_id not in ("", "first")


@pytest.mark.parametrize("seed", range(12))
def test_L02_L07_L11_under_faults_sums_are_what_was_answered(seed: int) -> None:
    run_virtual(lambda loop: _faults(loop, seed), seed=seed)


async def _faults(loop: SimLoop, seed: int) -> None:
    chance = random.Random(seed)
    async with Cluster(Counter, nodes=3, seed=seed, latency_s=(0.0002, 0.002)) as cluster:
        client = await cluster.client()
        answered: dict[str, int] = {f"c{number}": 0 for number in range(8)}
        unknown = dict.fromkeys(answered, 0)
        ended = False

        async def caller(number: int) -> None:
            while not ended:
                id = f"c{chance.randrange(8)}"
                try:
                    async with asyncio.timeout(20):
                        await client.get(Counter, id).add(1)
                    answered[id] += 1
                except GoverseError as error:
                    unknown[id] += error.executed is not Executed.NO
                except TimeoutError:
                    unknown[id] += 1
                await elapse(chance.uniform(0.0, 0.05))

        callers = [asyncio.ensure_future(caller(number)) for number in range(6)]
        for _ in range(6):
            await elapse(chance.uniform(0.5, 2.0))
            node = chance.choice(["n1", "n2", "n3"])
            fault = chance.choice(["kill", "pause", "cut store", "lose", "store away"])
            if fault == "kill":
                cluster.kill(node)
                await cluster.start_node(node)
            elif fault == "pause":
                cluster.pause(node)
                await elapse(chance.uniform(1.0, 8.0))
                cluster.resume(node)
            elif fault == "cut store":
                cluster.cut(node, STORE)
                await elapse(chance.uniform(0.5, 5.0))
                cluster.heal()
            elif fault == "lose":
                cluster.faults.lose(node, STORE, 0.3)
                cluster.faults.lose(STORE, node, 0.3)
                await elapse(3.0)
                cluster.heal()
            else:
                cluster.faults.close_port(STORE)
                await elapse(2.0)
                cluster.heal()
        ended = True
        await asyncio.gather(*callers)
        await cluster.wait_all_claimed(60)
        for id, count in answered.items():
            async with asyncio.timeout(60):
                total = await client.get(Counter, id).get()
            assert count <= total <= count + unknown[id], f"seed {seed}: {id}"
        assert sum(answered.values()) > 100, f"seed {seed}"
