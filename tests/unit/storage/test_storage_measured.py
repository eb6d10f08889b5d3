"""What is measured of a store, driven by a store."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from goverse.aio.runtime import Runtime
from goverse.ids import Epoch
from goverse.observability.metrics import Metrics
from goverse.storage.api import HigherEpoch, StorageUnavailable
from goverse.storage.measured import MeasuredStore
from goverse.storage.memory import MemoryStore
from goverse.storage.metrics import StoreMetrics
from goverse.storage.values import Verdict
from goverse.testing.conformance.store_kit import Owner
from tests.support.eventually import eventually


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def memory() -> MemoryStore:
    return MemoryStore(Runtime())


@pytest.fixture
def store(memory: MemoryStore, metrics: Metrics) -> MeasuredStore:
    return MeasuredStore(memory.connect(), StoreMetrics(metrics))


def ended(metrics: Metrics, operation: str, status: str) -> int:
    child = metrics.store_seconds.children().get((operation, status))
    return sum(child.counts) if child is not None else 0


async def test_L02_what_a_fence_refuses_is_counted_item_by_item(
    memory: MemoryStore, store: MeasuredStore, metrics: Metrics
) -> None:
    old = await Owner(store, 7, Epoch(1, 5), "old").open()
    await old.commit(b"1")
    assert not metrics.fence_rejections.children()
    successor = Owner(memory.connect(), 7, Epoch(1, 6), "new", name=old.name)
    await successor.open()
    batch = [old.commit_of(b"2", version=1), old.commit_of(b"2", id="p")]
    assert [result.verdict for result in await store.commit(batch)] == [Verdict.FENCED] * 2
    with pytest.raises(HigherEpoch):
        await old.open()
    assert metrics.fence_rejections.children() == {("commit",): 2, ("raise_fence",): 1}
    assert ended(metrics, "raise_fence", "fenced") == 1
    assert ended(metrics, "commit", "ok") == 2  # it was carried out, and has an answer


async def test_batches_are_measured_by_their_items(store: MeasuredStore, metrics: Metrics) -> None:
    owner = await Owner(store, 7, Epoch(1, 5), "me").open()
    await owner.accept("a", "b", "c")
    await owner.commit(b"1")
    batches = metrics.store_batch_items.children()
    assert batches["accept",].sum == 3 and batches["commit",].sum == 1
    assert batches["raise_fence",].counts[0] == 1
    assert set(metrics.store_seconds.children()) == {
        ("raise_fence", "ok"),
        ("accept", "ok"),
        ("commit", "ok"),
    }


async def test_errors_and_cancelled_waits_have_a_status_of_their_own(metrics: Metrics) -> None:
    begun: list[int] = []

    class Broken:
        async def load(self, objects: Any) -> Any:
            raise StorageUnavailable("away")

        async def commit(self, batch: Any) -> Any:
            begun.append(1)
            await asyncio.get_running_loop().create_future()

    broken: Any = Broken()
    store = MeasuredStore(broken, StoreMetrics(metrics))
    with pytest.raises(StorageUnavailable):
        await store.load([])
    waiting = asyncio.ensure_future(store.commit([]))
    await eventually(lambda: begun)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ended(metrics, "load", "unavailable") == ended(metrics, "commit", "cancelled") == 1


async def test_other_faults_of_the_caller_are_errors(
    store: MeasuredStore, metrics: Metrics
) -> None:
    owner = await Owner(store, 7, Epoch(1, 5), "me").open()
    commit = owner.commit_of(b"1")
    with pytest.raises(ValueError):
        await store.commit([commit, commit])
    assert ended(metrics, "commit", "error") == 1
