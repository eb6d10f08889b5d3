"""What operators see of reliable calls: each number is driven by what it counts."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx
import pytest

import goverse
from goverse.errors import ApplicationError, Conflict, GoverseError
from goverse.observability.metrics import Metrics
from goverse.storage.values import CallStatus
from goverse.testing import STORE, Cluster
from goverse.testing.cluster import TEST_SETTINGS
from goverse_gate.http_app import HttpApp, HttpLimits
from goverse_gate.http_front import Doors
from tests.support.virtual import elapse

pytestmark = pytest.mark.virtual_time


class Till(goverse.Object, durability="acknowledged"):
    amount: int = 0
    added: list[int] = []

    @goverse.method
    async def add(self, amount: int) -> int:
        self.amount += amount
        self.added.append(amount)
        return self.amount

    @goverse.method(read_only=True)
    async def all_added(self) -> list[int]:
        return self.added

    @goverse.method
    async def refuse(self) -> None:
        raise goverse.ApplicationError("no_money", "none at all")

    @goverse.method
    async def slow(self, seconds: float) -> int:
        self.amount += 1
        await elapse(seconds)
        return self.amount

    @goverse.method
    async def order(self, id: str, amount: int, expires_after_s: float) -> str:
        other = goverse.get(Till, id)
        return goverse.issue(other.add(amount), expires_after_s=expires_after_s)


@asynccontextmanager
async def running(nodes: int = 1, seed: int = 0, **limits: Any) -> AsyncGenerator[Cluster, None]:
    settings = dataclasses.replace(
        TEST_SETTINGS, limits=dataclasses.replace(TEST_SETTINGS.limits, **limits)
    )
    async with Cluster(Till, nodes=nodes, settings=settings, seed=seed) as cluster:
        yield cluster


@asynccontextmanager
async def http(cluster: Cluster) -> AsyncGenerator[httpx.AsyncClient, None]:
    gate = cluster.member("g1").gate
    assert gate is not None
    app = HttpApp(Doors(gate.ingress.door(client_id="", max_calls=100)), HttpLimits())
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gate") as client:
        yield client


def owner_metrics(cluster: Cluster, id: str = "a") -> Metrics:
    return cluster.member(cluster.owner_of(id)).metrics


def has_another_owner(cluster: Cluster, former: str) -> bool:
    return cluster.owner_of("a") not in ("", former)


def observed(histogram: Any, *labels: str) -> int:
    child = histogram.children().get(labels)
    return sum(child.counts) if child is not None else 0


async def test_accepts_repetitions_outcomes_and_executions_are_counted() -> None:
    async with running() as cluster:
        till = (await cluster.client()).get(Till, "a")
        for _ in range(3):
            assert await goverse.options(till, call_id="c1").add(5) == 5
        with pytest.raises(Conflict):
            await goverse.options(till, call_id="c1").add(6)
        with pytest.raises(ApplicationError):
            await goverse.options(till, call_id="c2").refuse()
        metrics = owner_metrics(cluster)
        assert metrics.reliable_accepted.children() == {("Till",): 2}
        assert metrics.reliable_repeated.children() == {("Till",): 2}
        assert observed(metrics.reliable_seconds, "Till", "success") == 1
        assert observed(metrics.reliable_seconds, "Till", "failed") == 1
        assert observed(metrics.turn_seconds, "Till", "add", "ok") == 1
        assert observed(metrics.turn_seconds, "Till", "refuse", "application_error") == 1
        text = metrics.exposition(metrics.sample()).decode()
        assert 'goverse_reliable_repeated_calls_total{type="Till"} 2.0' in text


async def test_the_time_from_accept_to_commit_is_that_of_the_turn_and_its_commit() -> None:
    async with running() as cluster:
        till = (await cluster.client()).get(Till, "a")
        assert await goverse.options(till, call_id="c1").slow(3.0) == 1
        [took] = owner_metrics(cluster).reliable_seconds.children().values()
        assert 3.0 <= took.sum < 4.0


async def test_operations_of_the_store_are_timed_and_batches_measured() -> None:
    async with running() as cluster:
        client = await cluster.client()
        calls = (
            goverse.options(client.get(Till, f"t{n}"), call_id=f"c{n}").add(1) for n in range(20)
        )
        await asyncio.gather(*calls)
        metrics = owner_metrics(cluster)
        for operation in ("accept", "commit", "raise_fence", "load", "pending_calls"):
            assert observed(metrics.store_seconds, operation, "ok"), operation
        accepts = metrics.store_batch_items.children()["accept",]
        assert accepts.sum == 20 > sum(accepts.counts), "not one batch has two calls"
        assert not metrics.fence_rejections.children()


async def test_a_store_that_is_away_is_counted_as_its_errors() -> None:
    async with running() as cluster:
        till = (await cluster.client()).get(Till, "a")
        await till.add(1)
        cluster.cut(cluster.owner_of("a"), STORE)
        with pytest.raises(GoverseError):
            await goverse.options(till, call_id="c1", timeout_s=20.0).add(5)
        metrics = owner_metrics(cluster)
        bad = sum(
            sum(child.counts)
            for (operation, status), child in metrics.store_seconds.children().items()
            if operation == "accept" and status in ("unavailable", "unknown")
        )
        assert bad
        cluster.heal()
        assert await goverse.options(till, call_id="c1").add(5) == 6


async def test_L35_pending_calls_and_the_age_of_the_oldest_come_and_go() -> None:
    async with running(nodes=2) as cluster:
        till = (await cluster.client()).get(Till, "a")
        first = asyncio.ensure_future(
            goverse.options(till, call_id="c1", timeout_s=120.0).slow(8.0)
        )
        await elapse(1.0)
        second = asyncio.ensure_future(goverse.options(till, call_id="c2", timeout_s=120.0).add(1))
        await elapse(4.0)
        owner = cluster.owner_of("a")
        sample = cluster.member(owner).metrics.sample()
        assert sample["goverse_reliable_pending_calls"] == {("Till",): 2}
        assert 5 <= sample["goverse_reliable_oldest_pending_seconds"]["Till",] < 6

        # The age is that of the call, and not that of what its next owner knows of it.
        cluster.kill(owner)
        await cluster.wait_until(lambda: cluster.owner_of("a") != owner)
        await cluster.wait_until(
            lambda: (
                owner_metrics(cluster).sample().get("goverse_reliable_pending_calls")
                == {("Till",): 2}
            )
        )
        sample = owner_metrics(cluster).sample()
        assert sample["goverse_reliable_oldest_pending_seconds"]["Till",] > 6

        assert (await first, await second) == (1, 2)
        sample = owner_metrics(cluster).sample()
        assert not sample["goverse_reliable_pending_calls"]
        assert not sample["goverse_reliable_oldest_pending_seconds"]


async def test_L20_a_call_that_ends_processes_is_parked_and_seen_everywhere() -> None:
    async with running(nodes=3, max_call_attempts=1) as cluster, http(cluster) as client:

        async def post(call_id: str, method: str, **arguments: Any) -> httpx.Response:
            headers = {"Goverse-Call-Id": call_id, "Goverse-Timeout": "1s"}
            return await client.post(
                f"/v1/objects/Till/a/{method}", json=arguments, headers=headers
            )

        await post("poison", "slow", seconds=10_000.0)
        await post("behind", "add", amount=5)
        for _ in range(2):
            owner = cluster.owner_of("a")
            await cluster.wait_until(
                lambda: owner_metrics(cluster).sample()["goverse_activations"].get(("Till",))
            )
            cluster.kill(owner)
            await cluster.wait_until(partial(has_another_owner, cluster, owner))
        await cluster.wait_until(lambda: owner_metrics(cluster).reliable_parked.children())
        assert owner_metrics(cluster).reliable_parked.children() == {("Till",): 1}
        found = (await client.get("/v1/calls/poison")).json()
        assert found["status"] == "parked" and "1 attempts" in found["reason"]
        # Those behind it go on, and what it did is nowhere.
        await cluster.wait_until(
            lambda: cluster.store.tables.get_calls(["behind"])["behind"].result
        )
        assert (await client.get("/v1/calls/behind")).json()["result"] == 5
        [live] = await cluster.store.connect().live_calls()
        assert (live.type, live.pending, live.parked) == ("Till", 0, 1)
        assert not owner_metrics(cluster).sample()["goverse_reliable_pending_calls"]


async def test_a_call_that_nobody_could_run_in_time_is_skipped_and_says_so() -> None:
    async with running() as cluster, http(cluster) as client:
        objects = await cluster.client()
        slow = asyncio.ensure_future(
            goverse.options(objects.get(Till, "a"), call_id="slow", timeout_s=60.0).slow(8.0)
        )
        await elapse(0.5)
        issuer = objects.get(Till, "issuer")
        late = await issuer.order("a", 100, 5.0)
        in_time = await issuer.order("a", 7, 40.0)
        assert await slow == 1
        await cluster.wait_until(lambda: cluster.store.tables.get_calls([in_time])[in_time].result)
        for _ in range(2):
            found = (await client.get(f"/v1/calls/{late}")).json()
            assert (found["status"], found["reason"]) == ("skipped", "expired")
            found = (await client.get(f"/v1/calls/{in_time}")).json()
            assert (found["status"], found["result"]) == ("success", 8)
            await elapse(60.0)  # what took effect is not expired later
        metrics = owner_metrics(cluster)
        assert observed(metrics.reliable_seconds, "Till", "skipped") == 1
        assert observed(metrics.turn_seconds, "Till", "add", "ok") == 1


@pytest.mark.parametrize("seed", range(5))
async def test_an_expired_call_has_no_effect_and_one_with_effect_never_expires(seed: int) -> None:
    print(f"seed {seed}")
    chance = random.Random(seed)
    async with running(nodes=3, seed=seed) as cluster:
        client = await cluster.client()
        issuer = client.get(Till, "issuer")
        calls: dict[str, int] = {}
        for number in range(1, 41):
            if number % 8 == 0:
                # Holds the queue up, and is cut off where its owner dies.
                slow = goverse.options(client.get(Till, "a"), call_id=f"s{number}", timeout_s=0.2)
                with contextlib.suppress(GoverseError):
                    await slow.slow(chance.uniform(2.0, 4.0))
            calls[await issuer.order("a", number, chance.uniform(0.05, 6.0))] = number
            await elapse(chance.uniform(0.0, 0.3))
            if number in (15, 30):
                victim = cluster.owner_of("a")
                if victim != cluster.owner_of("issuer"):
                    cluster.kill(victim)

        def over() -> bool:
            rows = cluster.store.tables.get_calls(list(calls))
            return len(rows) == len(calls) and all(row.status.finished for row in rows.values())

        await cluster.wait_until(over, timeout_s=120.0)
        rows = cluster.store.tables.get_calls(list(calls))
        ran = [calls[id] for id in calls if rows[id].status is CallStatus.SUCCESS]
        skipped = [row for row in rows.values() if row.status is CallStatus.SKIPPED]
        assert ran and skipped, "too mild: nothing expired, or everything"
        assert all(row.reason == "expired" for row in skipped)
        assert len(ran) + len(skipped) == len(calls)
        assert await client.get(Till, "a").all_added() == ran
