"""What can go wrong between a store's client and PostgreSQL 15, PostgreSQL 18 or MariaDB 10.11.

Faults of one of them alone are in the files of its name.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest

from goverse.ids import Epoch
from goverse.storage.api import OutcomeUnknown, StorageUnavailable, Store, StoreRefused
from goverse.storage.values import Verdict
from goverse.testing.conformance.store_kit import Owner, fresh_epoch
from tests.support.eventually import eventually
from tests.support.faulty_servers import (
    ALL,
    ALONE,
    LOCKING,
    SHARED,
    FaultyServer,
    fresh_owner,
    fresh_slot,
    serving,
)
from tests.support.holding_proxy import HoldingProxy
from tests.support.postgres import PASSWORD

#: Faults that must be survived without locks too; see test_store_serializable.py for others.
on_all = pytest.mark.parametrize("server", ALL, indirect=True, scope="module")


@pytest.fixture(scope="module", params=LOCKING)
def server(request: pytest.FixtureRequest) -> Iterator[FaultyServer]:
    with serving(request.param) as server:
        yield server


@pytest.fixture
async def store(server: FaultyServer) -> AsyncIterator[Store]:
    store = server.store()
    yield store
    await store.close()


@pytest.fixture
async def proxy(server: FaultyServer) -> AsyncIterator[HoldingProxy]:
    async with server.proxy() as proxy:
        yield proxy


@pytest.fixture
async def gated(server: FaultyServer, proxy: HoldingProxy) -> AsyncIterator[Store]:
    """A store behind the proxy."""
    store = server.store(server.process.settings(port=proxy.port))
    yield store
    await store.close()


# ---- late delivery


async def a_commit_is_held_back(gated: Store, proxy: HoldingProxy) -> Owner:
    """Of an owner to whom its outcome is not known."""
    owner = await fresh_owner(gated)
    await owner.commit(b"", id="first")
    proxy.hold()
    committing = asyncio.ensure_future(owner.commit(b"late"))
    await eventually(lambda: proxy.holds)
    proxy.heal()
    with pytest.raises(OutcomeUnknown):
        await committing
    return owner


@on_all
async def test_a_late_batch_would_be_written_if_nobody_raised(
    store: Store, gated: Store, proxy: HoldingProxy
) -> None:
    """What the suite's late deliveries are up against: the batch that comes late is a whole one."""
    owner = await a_commit_is_held_back(gated, proxy)
    assert await store.load([owner.object()]) == {}
    await proxy.release()
    assert (await store.load([owner.object()]))[owner.object()].version == 1


@on_all
async def test_a_late_commit_does_not_overwrite_what_another_connection_committed(
    store: Store, gated: Store, proxy: HoldingProxy
) -> None:
    """Connection 1 fails after connection 2 committed the same object, under the same fence."""
    owner = await a_commit_is_held_back(gated, proxy)
    owner.store = store
    assert (await owner.commit(b"newer")).version == 1
    await proxy.release()
    assert await owner.state() == b"newer"


async def test_a_connection_cut_in_the_middle_of_an_answer_is_unknown(
    server: FaultyServer, store: Store, gated: Store, proxy: HoldingProxy
) -> None:
    owner = await fresh_owner(gated)
    await owner.commit(b"", id="first")
    # It is certainly under way when it is cut: it waits for its fence.
    beside = server.hold(owner.slot, ALONE)
    committing = asyncio.ensure_future(owner.commit(b"1"))
    await server.someone_waits()
    proxy.abort()
    with pytest.raises(OutcomeUnknown, match=f"connection to {server.name} was lost"):
        await committing
    beside.end()
    owner.store = store
    await owner.open()
    stored = await owner.stored()
    assert (await owner.commit(b"2", version=stored.version if stored else 0)).version >= 1
    assert gated.snapshot().unknown == 1


# ---- frozen owners


@pytest.mark.parametrize(
    ("server", "where"),
    [
        *((server, where) for server in LOCKING[:2] for where in ("in a message", "before sync")),
        *(("mariadb", where) for where in ("between journeys", "in a packet", "before commit")),
    ],
    indirect=["server"],
    scope="module",
)
async def test_L02_a_frozen_owner_is_ended_and_the_slot_opens_within_a_second(
    server: FaultyServer, store: Store, where: str
) -> None:
    owner = await fresh_owner(store)
    async with server.frozen_owner(owner.slot, where):
        new = Owner(store, owner.slot, fresh_epoch(), "second")
        began = time.monotonic()
        await new.open()
        took_s = time.monotonic() - began
        print(f"opened after {took_s:.3f} s")
        # Half a second of patience, and then the time to end a session.
        assert 0.4 < took_s < 1.5
        assert store.snapshot().ended_sessions == 1
        assert (await new.commit(b"1")).verdict is Verdict.DONE
    assert not server.process.query("SELECT 1 FROM goverse_objects WHERE object_type = 'Frozen'")


async def test_a_raiser_ends_the_head_of_the_queue_and_not_who_waits_beside_it(
    server: FaultyServer, store: Store
) -> None:
    """Two owners raise at once while a third holds the fence: both get an answer."""
    owner = await fresh_owner(store)
    other = server.store()
    holding, beside = server.hold(owner.slot, SHARED), server.hold(fresh_slot(), SHARED)
    low = Owner(store, owner.slot, fresh_epoch(), "low")
    high = Owner(other, owner.slot, fresh_epoch(), "high")
    results = await asyncio.gather(low.open(), high.open(), return_exceptions=True)
    assert isinstance(results[1], Owner), results
    assert not isinstance(results[0], OutcomeUnknown | StorageUnavailable), results
    with pytest.raises(server.ended):
        holding.end("COMMIT")
    beside.end()  # who holds another fence is left alone
    assert store.snapshot().ended_sessions + other.snapshot().ended_sessions >= 1
    assert (await high.commit(b"1")).verdict is Verdict.DONE
    assert (await low.commit(b"1", id="x")).verdict is Verdict.FENCED
    await other.close()


# ---- deciding under a concurrent raise


@pytest.mark.parametrize("outcome", ["raised", "rolled back", "rewritten"])
async def test_a_commit_that_waited_for_a_raiser_decides_on_what_that_left(
    server: FaultyServer, store: Store, outcome: str
) -> None:
    """New objects and old ones, of several slots, with calls: all or none of each."""
    first, second = await fresh_owner(store), await fresh_owner(store)
    await first.commit(b"0", id="old")
    await first.commit(b"0", id="gone")
    batch = [
        first.commit_of(b"1", id="new"),
        first.commit_of(b"1", id="old", version=1),
        first.commit_of(b"1", id="stale")._replace(version=9),
        second.commit_of(b"1", id="new"),
    ]
    # Without a lock beforehand: an update alone must be enough to make a commit wait.
    raiser, by = server.beside(), 0 if outcome == "rewritten" else 1
    raiser.execute(f"UPDATE goverse_fences SET opening = opening + {by} WHERE slot = {first.slot}")
    committing = asyncio.ensure_future(store.commit(batch))
    await server.someone_waits()
    raiser.end("ROLLBACK" if outcome == "rolled back" else "COMMIT")
    verdicts = [result.verdict for result in await committing]
    if outcome == "raised":
        assert verdicts == [Verdict.FENCED] * 3 + [Verdict.DONE]
        assert await first.stored("new") is None and await first.state("old") == b"0"
    else:
        assert verdicts == [Verdict.DONE, Verdict.DONE, Verdict.VERSION, Verdict.DONE]
        assert await first.state("new") == b"1" and await first.state("old") == b"1"
    assert await second.state("new") == b"1"


@on_all
async def test_deadlocks_and_fences_of_many_owners_end_well(store: Store) -> None:
    """Raises, commits and accepts of the same slots, all at once: each gets an answer."""
    epoch = fresh_epoch()
    mine = [fresh_slot() for _ in range(8)]
    await store.raise_fence(mine, epoch, "first", 1)
    owners = [Owner(store, slot, epoch, "first", 1) for slot in mine]

    async def commit(owner: Owner) -> None:
        for version in range(10):
            result = await owner.commit(b"x", version=version)
            if result.verdict is Verdict.FENCED:
                return
            assert result.verdict is Verdict.DONE

    async def take_over() -> None:
        higher = Epoch(epoch.generation, epoch.revision + 1_000_000)
        await store.raise_fence(list(reversed(mine)), higher, "second", 1)

    await asyncio.gather(*(commit(owner) for owner in owners), take_over())
    results = await store.commit([owner.commit_of(b"y", id="z") for owner in owners])
    assert [result.verdict for result in results] == [Verdict.FENCED] * len(mine)


# ---- outages


async def test_a_restart_between_two_operations_is_not_noticed(
    server: FaultyServer, store: Store
) -> None:
    owner = await fresh_owner(store)
    await owner.commit(b"1")
    await owner.accept("before")
    await server.process.stop()
    await server.process.start()
    assert (await owner.commit(b"2", version=1)).version == 2
    # Numbers go on where they were.
    await owner.accept("after")
    assert (await owner.row("after")).seq > (await owner.row("before")).seq
    assert store.snapshot().unknown == 0


async def test_L27_an_outage_is_said_and_is_no_hot_loop(server: FaultyServer, store: Store) -> None:
    owner = await fresh_owner(store)
    await owner.commit(b"1")
    await server.process.kill()
    began = time.monotonic()
    for _ in range(4):
        with pytest.raises(StorageUnavailable, match=f"no connection to {server.name}") as caught:
            await owner.commit(b"2", version=1)
        assert PASSWORD not in str(caught.value)
    # Who asks again at once is made to wait.
    assert time.monotonic() - began > 3 * 0.05
    assert "no connection" in store.snapshot().last_error
    await server.process.start()
    assert (await owner.commit(b"2", version=1)).version == 2


@on_all
async def test_a_crash_of_the_server_under_load_leaves_whole_batches(
    server: FaultyServer, store: Store
) -> None:
    owner = await fresh_owner(store)
    confirmed = 0

    async def load() -> None:
        nonlocal confirmed
        while True:
            results = await store.commit(
                [owner.commit_of(b"x", id=id, version=confirmed) for id in "ab"]
            )
            assert all(result.verdict is Verdict.DONE for result in results)
            confirmed += 1

    loading = asyncio.ensure_future(load())
    await eventually(lambda: confirmed >= 20)
    await server.process.kill()
    with pytest.raises((OutcomeUnknown, StorageUnavailable)):
        await loading
    await server.process.start()
    await owner.open()
    a, b = await owner.stored("a"), await owner.stored("b")
    assert a is not None and b is not None
    assert a.version == b.version and a.version in (confirmed, confirmed + 1)


# ---- what is refused


async def test_a_wrong_password_is_said_without_the_right_one(server: FaultyServer) -> None:
    settings = replace(server.process.settings(), password="wr0ng-word")
    store = server.store(settings)
    with pytest.raises(StorageUnavailable, match=server.wrong_password) as caught:
        await store.check()
    for text in (str(caught.value), repr(store.snapshot()), repr(settings)):
        assert "wr0ng-word" not in text
    assert store.snapshot().place == server.place()
    await store.close()


async def test_a_schema_that_is_not_ours_is_refused(server: FaultyServer) -> None:
    settings = await server.process.new_database()
    name, store = settings.url.rpartition("/")[2], server.store(settings)
    with pytest.raises(StoreRefused, match=r"no schema.*goverse-cli db migrate"):
        await store.check()
    await store.migrate()
    server.in_database(name, "INSERT INTO goverse_migrations VALUES (999, 'later', 'x', 0)")
    with pytest.raises(StoreRefused, match=r"schema version 999.*newer version"):
        await store.check()
    with pytest.raises(StoreRefused, match="999"):
        await store.migrate()
    server.in_database(name, "DELETE FROM goverse_migrations WHERE number = 999")
    server.in_database(name, "UPDATE goverse_migrations SET digest = 'x'")
    with pytest.raises(StoreRefused, match="another form"):
        await store.check()
    await store.close()


@on_all
async def test_each_migration_is_applied_once_however_many_programs_migrate(
    server: FaultyServer,
) -> None:
    for _ in range(3):
        settings = await server.process.new_database()
        stores = [server.store(settings) for _ in range(3)]
        applied = await asyncio.gather(*(store.migrate() for store in stores))
        assert sorted(name for done in applied for name in done) == [
            one.full_name for one in server.migrations()
        ]
        for store in stores:
            await store.check()
            await store.close()
