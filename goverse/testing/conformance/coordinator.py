"""What a Coordinator must do.

::

    class TestMine(CoordinatorConformance):
        @pytest.fixture
        async def backend(self):
            yield MyBackend()

The tests of what needs a fault to be seen are skipped where the backend cannot make that fault.
They need pytest-asyncio in auto mode.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, aclosing
from typing import Protocol

import pytest

from goverse.aio.clock import Clock, SystemClock
from goverse.coordination.api import (
    MAX_TXN_OPERATIONS,
    Changes,
    Compare,
    Coordinator,
    CoordinatorUnavailable,
    Delete,
    KeyValue,
    Put,
    Snapshot,
    TransactionTooLarge,
    Watch,
)
from goverse.testing.conformance.waiting import eventually

#: Seconds; etcd grants nothing shorter.
TTL_S = 2.0

_prefixes = itertools.count(1)


class Cut(Protocol):
    """The path between one client and the coordinator."""

    def cut(self) -> None:
        """From now on nothing arrives, and nobody is told."""
        ...

    def heal(self) -> None: ...


class CoordinatorBackend:
    """What the suite needs to know of an implementation."""

    clock: Clock = SystemClock()

    async def connect(self) -> Coordinator:
        """A client as another process would have it. The suite closes it."""
        raise NotImplementedError

    async def connect_cuttable(self, operation_timeout_s: float) -> tuple[Coordinator, Cut]:
        """A client whose path to the coordinator can be cut."""
        pytest.skip("this backend's clients cannot be cut")

    async def compact(self, revision: int) -> None:
        """Make the coordinator forget the changes up to ``revision``."""
        pytest.skip("this backend cannot compact")

    async def lose_history(self) -> None:
        """Restart the coordinator at the same address without anything it knew."""
        pytest.skip("this backend cannot lose its history")

    async def end_lease(self, lease: int) -> None:
        """End a lease behind its holder's back."""
        pytest.skip("this backend cannot end a lease of another client")


class Clients:
    """Connects, and closes at the end."""

    def __init__(self, backend: CoordinatorBackend, stack: AsyncExitStack) -> None:
        self._backend = backend
        self._stack = stack

    async def connect(self) -> Coordinator:
        client = await self._backend.connect()
        self._stack.push_async_callback(client.close)
        return client

    async def connect_cuttable(self, operation_timeout_s: float = 30.0) -> tuple[Coordinator, Cut]:
        client, cut = await self._backend.connect_cuttable(operation_timeout_s)
        self._stack.push_async_callback(client.close)
        self._stack.callback(cut.heal)
        return client, cut

    async def watch(self, client: Coordinator, prefix: str) -> Watch:
        watch = client.watch(prefix)
        await self._stack.enter_async_context(aclosing(watch))
        return watch


class View:
    """What a consumer of a watch knows; checks that revisions only grow between snapshots."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self.revision = -1
        self.items: dict[str, KeyValue] = {}
        self.snapshots = 0
        self.changes: list[Changes] = []

    async def advance(self) -> Snapshot | Changes:
        async with asyncio.timeout(15):
            item = await anext(self._watch)
        if isinstance(item, Snapshot):
            self.snapshots += 1
            self.items = dict(item.items)
        else:
            assert self.snapshots, "changes came before the first snapshot"
            assert item.revision > self.revision, "revisions came out of order"
            assert item.items, "empty changes"
            self.changes.append(item)
            apply(self.items, item.items)
        self.revision = item.revision
        return item

    async def reach(self, done: Callable[[], bool]) -> None:
        while not done():
            await self.advance()


def apply(items: dict[str, KeyValue], changed: Mapping[str, KeyValue | None]) -> None:
    for key, value in changed.items():
        if value is None:
            items.pop(key, None)
        else:
            items[key] = value


async def put(client: Coordinator, key: str, value: bytes = b"", lease: int = 0) -> int:
    result = await client.transact([], [Put(key, value, lease)])
    assert result.succeeded
    return result.revision


class _Fixtures:
    @pytest.fixture
    async def backend(self) -> AsyncIterator[CoordinatorBackend]:
        raise NotImplementedError("provide the fixture `backend`")
        yield

    @pytest.fixture
    async def clients(self, backend: CoordinatorBackend) -> AsyncIterator[Clients]:
        async with AsyncExitStack() as stack:
            yield Clients(backend, stack)

    @pytest.fixture
    async def client(self, clients: Clients) -> Coordinator:
        return await clients.connect()

    @pytest.fixture
    def prefix(self) -> str:
        """Keys of this test alone: one server may serve many tests."""
        return f"/conformance/{next(_prefixes)}/"


class ReadsAndTransactions(_Fixtures):
    async def test_a_key_that_does_not_exist(self, client: Coordinator, prefix: str) -> None:
        assert await client.get(prefix + "a") is None
        assert (await client.list(prefix)).items == {}

    @pytest.mark.parametrize("value", [b"", b"plain", bytes(range(256)), b"x" * 100_000])
    async def test_a_value_comes_back_as_it_was(
        self, client: Coordinator, prefix: str, value: bytes
    ) -> None:
        key = prefix + "ключ/with space"
        revision = await put(client, key, value)
        expected = KeyValue(key, value, revision, revision, 0)
        assert await client.get(key) == expected
        assert (await client.list(prefix)).items == {key: expected}

    async def test_revisions_of_a_key(self, client: Coordinator, prefix: str) -> None:
        key = prefix + "a"
        first = await put(client, key, b"1")
        second = await put(client, key, b"2")
        assert second > first
        assert await client.get(key) == KeyValue(key, b"2", first, second, 0)
        gone = await client.transact([], [Delete(key)])
        third = await put(client, key, b"3")
        assert first < second < gone.revision < third
        assert await client.get(key) == KeyValue(key, b"3", third, third, 0)

    async def test_writing_the_same_value_again_is_a_change(
        self, client: Coordinator, prefix: str
    ) -> None:
        first = await put(client, prefix + "a", b"1")
        assert await put(client, prefix + "a", b"1") > first

    async def test_operations_of_one_transaction_share_a_revision(
        self, client: Coordinator, prefix: str
    ) -> None:
        await put(client, prefix + "old")
        result = await client.transact(
            [], [Put(prefix + "a", b"1"), Put(prefix + "b", b"2"), Delete(prefix + "old")]
        )
        listed = await client.list(prefix)
        assert listed.revision == result.revision
        assert list(listed.items) == [prefix + "a", prefix + "b"]
        assert {item.mod_revision for item in listed.items.values()} == {result.revision}

    async def test_a_transaction_that_changes_nothing_has_no_revision(
        self, client: Coordinator, prefix: str
    ) -> None:
        before = await put(client, prefix + "a")
        result = await client.transact([], [Delete(prefix + "missing")])
        assert result.succeeded
        assert result.revision == before

    async def test_a_failed_compare_writes_nothing(self, client: Coordinator, prefix: str) -> None:
        before = await put(client, prefix + "a", b"1")
        result = await client.transact(
            [Compare.modified_at(prefix + "a", before), Compare.created_at(prefix + "a", 1)],
            [Put(prefix + "b", b"2"), Delete(prefix + "a")],
        )
        assert not result.succeeded
        assert result.revision == before
        listed = await client.list(prefix)
        assert {key: item.value for key, item in listed.items.items()} == {prefix + "a": b"1"}

    @pytest.mark.parametrize("field", ["create_revision", "mod_revision", "lease"])
    @pytest.mark.parametrize("exists", [True, False])
    async def test_every_compare(
        self, client: Coordinator, prefix: str, field: str, exists: bool
    ) -> None:
        key = prefix + "a"
        actual = 0
        if exists:
            lease = await client.grant(60)
            await put(client, key, b"1", lease.id)
            await put(client, key, b"2", lease.id)
            found = await client.get(key)
            actual = getattr(found, field)
            assert actual > 0
        for value, equal, less in ((actual - 1, 0, 0), (actual, 1, 0), (actual + 1, 0, 1)):
            expected = {"==": equal, "!=": not equal, "<": less, ">": not equal and not less}
            for op, holds in expected.items():
                compare = Compare(key, field, op, value)  # type: ignore[arg-type]
                result = await client.transact([compare], [])
                assert result.succeeded is bool(holds), compare

    async def test_of_many_that_create_a_key_one_succeeds(
        self, clients: Clients, prefix: str
    ) -> None:
        key = prefix + "a"
        several = [await clients.connect() for _ in range(4)]
        results = await asyncio.gather(
            *(
                client.transact([Compare.absent(key)], [Put(key, b"%d" % n)])
                for n, client in enumerate(several * 5)
            )
        )
        winners = [n for n, result in enumerate(results) if result.succeeded]
        found = await several[0].get(key)
        assert len(winners) == 1
        assert found is not None
        assert found.value == b"%d" % winners[0]
        assert found.create_revision == results[winners[0]].revision

    async def test_conditional_writes_do_not_overwrite_each_other(
        self, clients: Clients, prefix: str
    ) -> None:
        key = prefix + "counter"

        async def add(client: Coordinator) -> None:
            while True:
                found = await client.get(key)
                value = int(found.value) if found else 0
                unchanged = Compare.modified_at(key, found.mod_revision if found else 0)
                wanted = Put(key, b"%d" % (value + 1))
                if (await client.transact([unchanged], [wanted])).succeeded:
                    return

        several = [await clients.connect() for _ in range(3)]
        await asyncio.gather(*(add(client) for client in several * 4))
        found = await several[0].get(key)
        assert found is not None
        assert int(found.value) == 12

    async def test_the_largest_transaction(self, client: Coordinator, prefix: str) -> None:
        keys = [f"{prefix}{n:03}" for n in range(MAX_TXN_OPERATIONS)]
        result = await client.transact(
            [Compare.absent(key) for key in keys], [Put(key, b"") for key in keys]
        )
        assert result.succeeded
        assert list((await client.list(prefix)).items) == keys

    async def test_a_transaction_of_129_operations_is_refused(
        self, client: Coordinator, prefix: str
    ) -> None:
        keys = [f"{prefix}{n:03}" for n in range(MAX_TXN_OPERATIONS + 1)]
        with pytest.raises(TransactionTooLarge):
            await client.transact([], [Put(key, b"") for key in keys])
        with pytest.raises(TransactionTooLarge):
            await client.transact([Compare.absent(key) for key in keys], [Put(keys[0], b"")])
        assert (await client.list(prefix)).items == {}

    async def test_two_operations_on_one_key_are_refused(
        self, client: Coordinator, prefix: str
    ) -> None:
        key = prefix + "a"
        pairs: list[list[Put | Delete]] = [
            [Put(key, b"1"), Put(key, b"2")],
            [Put(key, b"1"), Delete(key)],
            [Delete(key), Delete(key)],
        ]
        for operations in pairs:
            with pytest.raises(ValueError, match="two operations on the key"):
                await client.transact([], operations)
        assert await client.get(key) is None

    async def test_a_prefix_matches_no_sibling(self, client: Coordinator, prefix: str) -> None:
        for key in ("a", "a/1", "a/2/3", "a0", "a-b", "ab/1", "b/1"):
            await put(client, prefix + key)
        listed = await client.list(prefix + "a/")
        assert list(listed.items) == [prefix + "a/1", prefix + "a/2/3"]
        with pytest.raises(ValueError, match="slash"):
            await client.list(prefix + "a")
        with pytest.raises(ValueError, match="slash"):
            client.watch(prefix + "a")

    async def test_what_one_client_wrote_another_reads(self, clients: Clients, prefix: str) -> None:
        writer, reader = await clients.connect(), await clients.connect()
        for n in range(20):
            revision = await put(writer, prefix + "a", b"%d" % n)
            found = await reader.get(prefix + "a")
            assert found is not None
            assert found.mod_revision == revision
            assert (await reader.list(prefix)).revision >= revision

    async def test_a_closed_client_says_so(self, client: Coordinator, prefix: str) -> None:
        await client.close()
        with pytest.raises(CoordinatorUnavailable):
            await client.get(prefix + "a")
        with pytest.raises(CoordinatorUnavailable):
            await client.transact([], [Put(prefix + "a", b"")])


class Leases(_Fixtures):
    async def test_a_lease_is_kept_alive(
        self, backend: CoordinatorBackend, client: Coordinator, prefix: str
    ) -> None:
        asked_at = backend.clock.now()
        lease = await client.grant(TTL_S)
        assert lease.id > 0
        assert lease.ttl_s == TTL_S
        assert asked_at + TTL_S <= lease.deadline <= backend.clock.now() + TTL_S
        await put(client, prefix + "a", b"", lease.id)
        first = lease.deadline
        await eventually(lambda: lease.deadline > first + 2 * TTL_S)
        assert lease.deadline <= backend.clock.now() + TTL_S
        found = await client.get(prefix + "a")
        assert found is not None
        assert found.lease == lease.id
        assert lease.id in [known.id for known in client.snapshot().leases]

    async def test_an_abandoned_lease_ends_by_itself(
        self, backend: CoordinatorBackend, clients: Clients, client: Coordinator, prefix: str
    ) -> None:
        view = View(await clients.watch(await clients.connect(), prefix))
        await view.advance()
        lease = await client.grant(TTL_S)
        keys = [Put(f"{prefix}{n}", b"", lease.id) for n in range(100)]
        await client.transact([], keys)
        await view.reach(lambda: len(view.items) == 100)
        deadline = lease.deadline
        await lease.abandon()
        assert lease.deadline == 0
        await view.advance()
        assert backend.clock.now() >= deadline, "the coordinator ended it early"
        assert backend.clock.now() < deadline + 4
        # All at once: nobody ever sees half of a member's keys.
        assert len(view.changes[-1].items) == 100
        assert view.items == {}

    async def test_a_revoked_lease_takes_its_keys_along(
        self, clients: Clients, client: Coordinator, prefix: str
    ) -> None:
        view = View(await clients.watch(await clients.connect(), prefix))
        await view.advance()
        lease = await client.grant(60)
        await client.transact(
            [], [Put(prefix + "a", b"", lease.id), Put(prefix + "b", b"", lease.id)]
        )
        await put(client, prefix + "c")
        await view.reach(lambda: len(view.items) == 3)
        await lease.revoke()
        assert lease.deadline == 0
        await view.advance()
        assert view.changes[-1].items == {prefix + "a": None, prefix + "b": None}
        assert list((await client.list(prefix)).items) == [prefix + "c"]
        await lease.revoke()  # again: harmless

    async def test_a_put_under_a_lease_that_is_over_fails(
        self, client: Coordinator, prefix: str
    ) -> None:
        lease = await client.grant(60)
        await lease.revoke()
        before = await put(client, prefix + "a", b"old")
        result = await client.transact(
            [], [Put(prefix + "a", b"new"), Put(prefix + "b", b"", lease.id)]
        )
        assert not result.succeeded
        assert result.revision == before
        assert (await client.list(prefix)).revision == before

    async def test_a_key_leaves_its_lease(self, client: Coordinator, prefix: str) -> None:
        first, second = await client.grant(60), await client.grant(60)
        key = prefix + "a"
        await put(client, key, b"", first.id)
        assert (await client.transact([Compare.has_lease(key, first.id)], [])).succeeded
        await put(client, key, b"", second.id)
        assert not (await client.transact([Compare.has_lease(key, first.id)], [])).succeeded
        await first.revoke()
        assert await client.get(key) is not None
        await put(client, key)
        await second.revoke()
        found = await client.get(key)
        assert found is not None
        assert found.lease == 0

    async def test_a_key_made_again_belongs_to_the_new_lease(
        self, client: Coordinator, prefix: str
    ) -> None:
        first, second = await client.grant(60), await client.grant(60)
        key = prefix + "a"
        await put(client, key, b"", first.id)
        await client.transact([], [Delete(key)])
        await put(client, key, b"", second.id)
        await first.revoke()
        assert await client.get(key) is not None

    async def test_a_lease_ended_by_somebody_else_is_reported(
        self, backend: CoordinatorBackend, client: Coordinator
    ) -> None:
        lease = await client.grant(TTL_S)
        reported: list[str] = []
        lease.on_lost(lambda: reported.append("lost"))
        await backend.end_lease(lease.id)
        await eventually(lambda: reported)
        assert reported == ["lost"]
        assert lease.deadline == 0

    async def test_silence_ends_a_lease_in_time(
        self, backend: CoordinatorBackend, clients: Clients, prefix: str
    ) -> None:
        other = await clients.connect()
        client, cut = await clients.connect_cuttable()
        lease = await client.grant(TTL_S)
        await put(client, prefix + "a", b"", lease.id)
        reported: list[str] = []
        lease.on_lost(lambda: reported.append("lost"))
        cut.cut()

        async def gone() -> bool:
            return await other.get(prefix + "a") is None

        await eventually(gone)
        assert lease.deadline <= backend.clock.now(), "the holder believed in it for longer"
        assert not reported
        cut.heal()
        await eventually(lambda: reported)
        assert lease.deadline == 0


class Watches(_Fixtures):
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


class Cuts(_Fixtures):
    """The client cannot reach the coordinator for a while, and nobody tells it."""

    async def test_a_read_waits_for_the_coordinator(self, clients: Clients, prefix: str) -> None:
        other = await clients.connect()
        client, cut = await clients.connect_cuttable()
        await put(client, prefix + "a", b"1")
        cut.cut()
        reading = asyncio.ensure_future(client.get(prefix + "a"))
        await put(other, prefix + "a", b"2")
        await asyncio.wait([reading], timeout=1)
        assert not reading.done()
        cut.heal()
        async with asyncio.timeout(8):
            found = await reading
        assert found is not None
        assert found.value == b"2"

    async def test_every_operation_ends_in_time(self, clients: Clients, prefix: str) -> None:
        client, cut = await clients.connect_cuttable(operation_timeout_s=1.0)
        await put(client, prefix + "a")
        cut.cut()
        operations = (
            client.get(prefix + "a"),
            client.list(prefix),
            client.transact([], [Put(prefix + "b", b"")]),
            client.grant(TTL_S),
        )
        async with asyncio.timeout(2.5):
            outcomes = await asyncio.gather(*operations, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [CoordinatorUnavailable] * 4
        assert client.snapshot().last_error

    async def test_a_write_without_an_answer_is_reported_and_not_repeated(
        self, clients: Clients, prefix: str
    ) -> None:
        other = await clients.connect()
        client, cut = await clients.connect_cuttable()
        await put(client, prefix + "a")
        cut.cut()
        writing = asyncio.ensure_future(client.transact([], [Put(prefix + "b", b"")]))
        async with asyncio.timeout(9):
            with pytest.raises(CoordinatorUnavailable):
                await writing
        cut.heal()
        await put(client, prefix + "c")
        found = await other.get(prefix + "b")
        assert found is None or found.create_revision == found.mod_revision

    async def test_a_cut_watch_resumes_without_a_gap(self, clients: Clients, prefix: str) -> None:
        other = await clients.connect()
        client, cut = await clients.connect_cuttable()
        view = View(await clients.watch(client, prefix))
        await view.advance()
        revisions = [await put(other, prefix + "before")]
        await view.advance()
        cut.cut()
        # More than fits into one message: five revisions of 1.2 MB.
        for n in range(5):
            puts = [Put(f"{prefix}{n}/{i}", b"x" * 9_500) for i in range(MAX_TXN_OPERATIONS)]
            revisions.append((await other.transact([], puts)).revision)
        revisions.append((await other.transact([], [Delete(prefix + "before")])).revision)
        cut.heal()
        await view.reach(lambda: view.revision >= revisions[-1])
        assert view.snapshots == 1
        assert [change.revision for change in view.changes] == revisions
        assert [len(change.items) for change in view.changes] == [1, 128, 128, 128, 128, 128, 1]
        assert view.items == (await other.list(prefix)).items

    async def test_compaction_during_a_cut_gives_a_new_snapshot(
        self, backend: CoordinatorBackend, clients: Clients, prefix: str
    ) -> None:
        other = await clients.connect()
        client, cut = await clients.connect_cuttable()
        view = View(await clients.watch(client, prefix))
        await view.advance()
        await put(other, prefix + "stays", b"1")
        await put(other, prefix + "goes", b"1")
        await view.advance()
        await view.advance()
        cut.cut()
        await put(other, prefix + "comes", b"1")
        await other.transact([], [Delete(prefix + "goes"), Put(prefix + "stays", b"2")])
        await put(other, prefix + "passing", b"1")
        last = await other.transact([], [Delete(prefix + "passing")])
        await backend.compact(last.revision)
        after = await put(other, prefix + "after", b"1")
        cut.heal()
        await view.reach(lambda: view.snapshots == 2)
        await view.reach(lambda: view.revision >= after)
        assert view.items == (await other.list(prefix)).items
        assert {key.removeprefix(prefix) for key in view.items} == {"stays", "comes", "after"}
        assert client.snapshot().watches[0].relistings == 1
        final = await put(other, prefix + "final", b"1")
        assert (await view.advance()).revision == final

    async def test_lost_history_gives_a_new_snapshot_loudly(
        self,
        backend: CoordinatorBackend,
        clients: Clients,
        client: Coordinator,
        prefix: str,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        view = View(await clients.watch(client, prefix))
        await view.advance()
        for n in range(20):
            await put(client, f"{prefix}{n}", b"old")
        await view.reach(lambda: len(view.items) == 20)
        seen = view.revision
        await backend.lose_history()
        await view.reach(lambda: view.snapshots == 2)
        assert view.revision < seen
        assert view.items == {}
        assert any(
            record.levelname == "ERROR" and "lost its history" in record.message
            for record in caplog.records
        )
        revision = await put(client, prefix + "new", b"1")
        await view.reach(lambda: view.revision >= revision)
        assert list(view.items) == [prefix + "new"]

    async def test_lost_history_is_noticed_though_revisions_have_overtaken(
        self, backend: CoordinatorBackend, clients: Clients, prefix: str
    ) -> None:
        other = await clients.connect()
        client, cut = await clients.connect_cuttable()
        view = View(await clients.watch(client, prefix))
        await view.advance()
        await put(other, prefix + "old", b"old")
        await view.advance()
        seen = view.revision
        cut.cut()
        await backend.lose_history()
        revision = 0
        while revision <= seen + 5:
            revision = await put(other, prefix + "new", b"new")
        cut.heal()
        await view.reach(lambda: view.snapshots == 2)
        await view.reach(lambda: view.revision >= revision)
        assert list(view.items) == [prefix + "new"]


class CoordinatorConformance(ReadsAndTransactions, Leases, Watches, Cuts):
    """The whole suite."""
