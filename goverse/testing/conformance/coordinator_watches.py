"""What watches of a coordinator must do."""

from __future__ import annotations

import asyncio

import pytest

from goverse.coordination.api import Changes, Coordinator, Delete, KeyValue, Put, Snapshot
from goverse.testing.conformance.coordinator_kit import (
    Clients,
    CoordinatorBackend,
    CoordinatorFixtures,
    View,
    put,
)
from goverse.testing.conformance.waiting import eventually


class WatchTests(CoordinatorFixtures):
    async def test_a_snapshot_and_then_changes(
        self, clients: Clients, client: Coordinator, prefix: str
    ) -> None:
        first = await put(client, prefix + "a", b"1")
        view = View(await clients.watch(client, prefix))
        snapshot = await view.advance()
        assert isinstance(snapshot, Snapshot)
        assert snapshot.revision >= first
        assert snapshot.items == {prefix + "a": KeyValue(prefix + "a", b"1", first, first, 0)}
        second = await put(client, prefix + "a", b"2")
        assert await view.advance() == Changes(
            second, {prefix + "a": KeyValue(prefix + "a", b"2", first, second, 0)}
        )
        gone = await client.transact([], [Delete(prefix + "a")])
        assert await view.advance() == Changes(gone.revision, {prefix + "a": None})

    async def test_one_revision_is_one_change_and_siblings_are_not_seen(
        self, clients: Clients, client: Coordinator, prefix: str
    ) -> None:
        view = View(await clients.watch(client, prefix + "a/"))
        await view.advance()
        await put(client, prefix + "ab/1")
        await put(client, prefix + "a")
        await put(client, prefix + "a0")
        result = await client.transact(
            [],
            [Put(f"{prefix}a/{n:03}", b"") for n in range(100)]
            + [Put(f"{prefix}b/{n}", b"") for n in range(28)],
        )
        change = await view.advance()
        assert change.revision == result.revision
        assert len(change.items) == 100
        assert all(key.startswith(prefix + "a/") for key in change.items)

    async def test_every_change_in_order_under_concurrent_writers(
        self, clients: Clients, prefix: str
    ) -> None:
        writers = [await clients.connect() for _ in range(3)]
        early = View(await clients.watch(await clients.connect(), prefix))
        late = View(await clients.watch(await clients.connect(), prefix))
        await early.advance()
        written: list[int] = []
        whole: dict[int, set[str]] = {}  # what a revision with two puts holds

        async def write(number: int, client: Coordinator) -> None:
            for n in range(40):
                key = f"{prefix}{number}/{n % 7}"
                operation = Delete(key) if n % 5 == 4 else Put(key, b"%d" % n)
                also = Put(f"{prefix}last/{number}", b"%d" % n)
                revision = (await client.transact([], [operation, also])).revision
                written.append(revision)
                if isinstance(operation, Put):
                    whole[revision] = {key, also.key}

        async with asyncio.TaskGroup() as group:
            for number, client in enumerate(writers):
                group.create_task(write(number, client))
            await eventually(lambda: len(written) > 20)
            await late.advance()  # in the middle of it
        last = max(written)
        for view in (early, late):
            await view.reach(lambda view=view: view.revision >= last)  # type: ignore[misc]
            assert view.items == (await writers[0].list(prefix)).items
            assert view.snapshots == 1
        assert [change.revision for change in early.changes] == sorted(written)
        seen = {change.revision: set(change.items) for change in early.changes}
        assert {revision: seen[revision] for revision in whole} == whole

    async def test_giving_up_waiting_loses_nothing(
        self, clients: Clients, client: Coordinator, prefix: str
    ) -> None:
        watch = await clients.watch(client, prefix)
        view = View(watch)
        await view.advance()
        for n in range(5):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await anext(watch)
            revision = await put(client, prefix + "a", b"%d" % n)
            assert (await view.advance()).revision == revision

    async def test_closing_a_watch_ends_waiting(self, client: Coordinator, prefix: str) -> None:
        watch = client.watch(prefix)
        await anext(watch)
        waiting = asyncio.ensure_future(anext(watch))
        await asyncio.wait([waiting], timeout=0.05)
        await watch.aclose()
        with pytest.raises(StopAsyncIteration):
            await waiting
        with pytest.raises(StopAsyncIteration):
            await anext(watch)
        assert prefix not in [known.prefix for known in client.snapshot().watches]

    async def test_closing_a_client_ends_its_watches(
        self, client: Coordinator, prefix: str
    ) -> None:
        watch = client.watch(prefix)
        await anext(watch)
        waiting = asyncio.ensure_future(anext(watch))
        await asyncio.wait([waiting], timeout=0.05)
        await client.close()
        with pytest.raises(StopAsyncIteration):
            await waiting

    async def test_a_consumer_that_is_behind_gets_everything(
        self, clients: Clients, client: Coordinator, prefix: str
    ) -> None:
        view = View(await clients.watch(await clients.connect(), prefix))
        await view.advance()
        revisions = [await put(client, f"{prefix}{n}", b"") for n in range(1500)]
        await view.reach(lambda: view.revision >= revisions[-1])
        assert [change.revision for change in view.changes] == revisions

    async def test_an_idle_watch_says_that_the_coordinator_is_there(
        self, backend: CoordinatorBackend, clients: Clients, client: Coordinator, prefix: str
    ) -> None:
        watch = await clients.watch(client, prefix)
        assert watch.contact == 0
        await anext(watch)
        first = watch.contact
        assert 0 < first <= backend.clock.now()
        await eventually(lambda: watch.contact > first + 1)
