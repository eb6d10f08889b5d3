"""The in-memory store: what the conformance suite cannot see from outside."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Callable
from typing import TypeVar

import pytest

from goverse.aio.runtime import Runtime
from goverse.coordination import Changes, CoordinatorUnavailable, Delete, Put, Snapshot
from goverse.coordination.memory import Compacted, MemoryStore
from goverse.coordination.memory.history import MAX_BATCH_REVISIONS, MAX_REVISIONS
from tests.support.eventually import eventually

T = TypeVar("T")


def make_store(start_revision: int | None = 100) -> MemoryStore:
    return MemoryStore(Runtime(random=random.Random(1)), start_revision)


async def test_revisions_begin_at_the_wall_clock_so_that_epochs_never_go_back() -> None:
    runtime = Runtime()
    before = runtime.clock.wall() * 1e6
    store = MemoryStore(runtime)
    assert before <= store.revision <= runtime.clock.wall() * 1e6 + 1


async def test_history_is_bounded() -> None:
    store = make_store()
    for _ in range(MAX_REVISIONS + 5):
        store.transact([], [Put("/a", b"")])
    with pytest.raises(Compacted):
        store.changes("/", 104, store.history)
    assert store.changes("/", 105, store.history).changes[0].revision == 106


async def test_changes_come_in_batches() -> None:
    store = make_store()
    for _ in range(MAX_BATCH_REVISIONS + 1):
        store.transact([], [Put("/a/b", b"")])
    first = store.changes("/a/", 100, store.history)
    assert (len(first.changes), first.more) == (MAX_BATCH_REVISIONS, True)
    second = store.changes("/a/", first.upto, store.history)
    assert (len(second.changes), second.more) == (1, False)


async def test_changes_elsewhere_only_move_the_revision() -> None:
    store = make_store()
    store.transact([], [Put("/b/1", b"")])
    batch = store.changes("/a/", 100, store.history)
    assert (batch.changes, batch.upto) == ((), 101)


async def test_compaction_in_the_future_is_refused() -> None:
    with pytest.raises(ValueError, match="future"):
        make_store().compact(101)


async def test_a_lease_that_is_due_is_over_even_before_its_timer_ran() -> None:
    store = make_store()
    lease = store.grant(0.01)
    store.transact([], [Put("/a", b"", lease)])
    loop = asyncio.get_running_loop()
    due = loop.time() + 0.02
    while loop.time() < due:
        pass  # the loop hangs: no timer runs
    assert store.renew(lease) == 0
    assert store.get("/a") is None


async def test_the_expiry_timer_belongs_to_the_store_and_not_to_who_was_granted() -> None:
    process: contextvars.ContextVar[str] = contextvars.ContextVar("process", default="store")
    seen: list[str] = []
    store = make_store()
    store.subscribe("/", lambda: seen.append(process.get()))

    async def node() -> None:
        process.set("node")
        lease = store.grant(0.02)
        store.transact([], [Put("/a", b"", lease)])

    await asyncio.create_task(node())
    await eventually(lambda: store.get("/a") is None and len(seen) == 2)
    assert seen == ["node", "store"]


async def test_the_same_seed_gives_the_same_lease_ids() -> None:
    assert [make_store().grant(5) for _ in range(3)] == [make_store().grant(5)] * 3


async def test_a_lease_without_a_duration_is_refused() -> None:
    with pytest.raises(ValueError, match="lease"):
        make_store().grant(0)


class LossyChannel:
    """Loses answers, the first ``losses`` of them: the operation was carried out."""

    def __init__(self, losses: int) -> None:
        self.losses = losses
        self.carried_out = 0

    async def request(self, operation: Callable[[], T]) -> T:
        answer = operation()
        self.carried_out += 1
        if self.losses:
            self.losses -= 1
            raise CoordinatorUnavailable("the answer was lost")
        return answer


async def test_a_write_whose_answer_is_lost_is_sent_once() -> None:
    store, channel = make_store(), LossyChannel(1)
    client = store.connect(Runtime(), channel)
    with pytest.raises(CoordinatorUnavailable):
        await client.transact([], [Put("/a", b"")])
    assert channel.carried_out == 1
    assert store.get("/a") is not None
    await client.close()


async def test_a_read_whose_answer_is_lost_is_sent_again() -> None:
    store, channel = make_store(), LossyChannel(2)
    client = store.connect(Runtime(), channel)
    assert await client.get("/a") is None
    assert channel.carried_out == 3
    await client.close()


async def test_a_watch_whose_answers_are_lost_loses_no_change() -> None:
    store, channel = make_store(), LossyChannel(2)
    client = store.connect(Runtime(), channel)
    watch = client.watch("/a/")
    assert isinstance(await anext(watch), Snapshot)
    channel.losses = 2
    revisions = [store.transact([], [Put("/a/1", b"")]).revision for _ in range(3)]
    revisions.append(store.transact([], [Delete("/a/1")]).revision)
    items = [await anext(watch) for _ in revisions]
    assert all(isinstance(item, Changes) for item in items)
    assert [item.revision for item in items] == revisions
    await client.close()


async def test_a_closed_client_leaves_no_task() -> None:
    before = asyncio.all_tasks()
    store = make_store()
    client = store.connect(Runtime())
    await client.grant(5)
    await anext(client.watch("/a/"))
    assert asyncio.all_tasks() > before
    await client.close()
    assert asyncio.all_tasks() == before
