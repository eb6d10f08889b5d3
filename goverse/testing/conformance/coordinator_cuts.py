"""What a coordinator must do that cannot be reached, or has forgotten."""

from __future__ import annotations

import asyncio

import pytest

from goverse.coordination.api import (
    MAX_TXN_OPERATIONS,
    Coordinator,
    CoordinatorUnavailable,
    Delete,
    Put,
)
from goverse.testing.conformance.coordinator_kit import (
    TTL_S,
    Clients,
    CoordinatorBackend,
    CoordinatorFixtures,
    View,
    put,
)


class CutTests(CoordinatorFixtures):
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
