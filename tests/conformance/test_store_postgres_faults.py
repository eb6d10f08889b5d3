"""What can go wrong between a store's client and PostgreSQL 15 and 18."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from goverse.aio.runtime import Runtime
from goverse.ids import Epoch
from goverse.storage.api import OutcomeUnknown, StorageUnavailable, StoreRefused
from goverse.storage.postgres import PostgresStore, schema
from goverse.storage.values import Verdict
from goverse.testing.conformance.store_kit import Owner, fresh_epoch
from tests.support.eventually import eventually
from tests.support.holding_proxy import HoldingProxy
from tests.support.postgres import PASSWORD, VERSIONS, PostgresServer, serving

FROZEN_CLIENT = Path(__file__).parents[1] / "support" / "frozen_client.py"


@pytest.fixture(scope="module", params=VERSIONS)
def server(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    with serving(request.param) as server:
        asyncio.run(server.migrate())
        yield server


@pytest.fixture
async def store(server: PostgresServer) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(server.settings(), Runtime())
    yield store
    await store.close()


@pytest.fixture
async def proxy(server: PostgresServer) -> AsyncIterator[HoldingProxy]:
    proxy = await HoldingProxy(server.options.port).start()
    yield proxy
    await proxy.close()


slots = iter(range(1000, 60_000))


async def owner_of(store: PostgresStore) -> Owner:
    return await Owner(store, next(slots), fresh_epoch(), "first").open()


async def waits_for_a_lock(session: psycopg.Connection, count: int = 1) -> None:
    """Until so many sessions wait for a lock."""

    def waiting() -> bool:
        [[found]] = session.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        ).fetchall()
        return found >= count

    await eventually(waiting)


# ---- late delivery


async def test_a_late_batch_would_be_written_if_nobody_raised(
    server: PostgresServer, store: PostgresStore, proxy: HoldingProxy
) -> None:
    """What the suite's late deliveries are up against: the batch that comes late is a whole one."""
    settings = server.settings(port=proxy.port, operation_timeout_s=0.3)
    gated = PostgresStore(settings, Runtime())
    owner = await owner_of(gated)
    await owner.commit(b"", id="first")
    proxy.hold()
    with pytest.raises(OutcomeUnknown):
        await owner.commit(b"late")
    await gated.close()
    assert await store.load([owner.object()]) == {}
    await proxy.release()
    assert (await store.load([owner.object()]))[owner.object()].version == 1


async def test_a_late_commit_does_not_overwrite_what_another_connection_committed(
    server: PostgresServer, store: PostgresStore, proxy: HoldingProxy
) -> None:
    """Connection 1 fails after connection 2 committed the same object, under the same fence."""
    settings = server.settings(port=proxy.port, operation_timeout_s=0.3)
    gated = PostgresStore(settings, Runtime())
    owner = await owner_of(gated)
    await owner.commit(b"", id="first")
    proxy.hold()
    with pytest.raises(OutcomeUnknown):
        await owner.commit(b"late")
    await gated.close()
    owner.store = store
    assert (await owner.commit(b"newer")).version == 1
    await proxy.release()
    assert await owner.state() == b"newer"


async def test_a_connection_cut_in_the_middle_of_an_answer_is_unknown(
    server: PostgresServer, store: PostgresStore, proxy: HoldingProxy
) -> None:
    gated = PostgresStore(server.settings(port=proxy.port), Runtime())
    owner = await owner_of(gated)
    await owner.commit(b"", id="first")
    with server.connect() as session, session.transaction():
        # It is certainly under way when it is cut: it waits for its fence.
        session.execute("SELECT FROM goverse_fences WHERE slot = %s FOR UPDATE", (owner.slot,))
        committing = asyncio.ensure_future(owner.commit(b"1"))
        with server.connect() as watching:
            await waits_for_a_lock(watching)
        proxy.abort()
        with pytest.raises(OutcomeUnknown, match="connection to PostgreSQL was lost"):
            await committing
    owner.store = store
    await owner.open()
    stored = await owner.stored()
    assert (await owner.commit(b"2", version=stored.version if stored else 0)).version >= 1
    assert gated.snapshot().unknown == 1
    await gated.close()


# ---- frozen owners


@pytest.mark.parametrize("where", ["in a message", "before sync"])
async def test_L02_a_frozen_owner_in_a_pipeline_is_ended_and_the_slot_opens_within_a_second(
    server: PostgresServer, store: PostgresStore, where: str
) -> None:
    owner = await owner_of(store)
    frozen = await asyncio.create_subprocess_exec(
        sys.executable,
        str(FROZEN_CLIENT),
        server.url,
        str(owner.slot),
        where,
        env={**os.environ, "PGPASSWORD": PASSWORD},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert frozen.stdout is not None
    try:
        assert await frozen.stdout.readline() == b"stopping\n"
        with server.connect() as session:
            await eventually(lambda: _holds_the_fence(session))
        new = Owner(store, owner.slot, fresh_epoch(), "second")
        began = time.monotonic()
        await new.open()
        took_s = time.monotonic() - began
        print(f"opened after {took_s:.3f} s")
        # Half a second of patience, and then the time to end a session.
        assert 0.4 < took_s < 1.5
        assert store.snapshot().ended_sessions == 1
        assert (await new.commit(b"1")).verdict is Verdict.DONE
    finally:
        frozen.send_signal(signal.SIGCONT)
        await frozen.wait()
    with server.connect() as session:
        rows = session.execute("SELECT object_id FROM goverse_objects WHERE object_type = 'Frozen'")
        assert rows.fetchall() == []


def _holds_the_fence(session: psycopg.Connection) -> bool:
    """The frozen client's first two statements have run: it has a transaction id."""
    [[found]] = session.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE backend_xid IS NOT NULL"
    ).fetchall()
    return bool(found)


async def test_a_raiser_ends_the_head_of_the_queue_and_not_who_waits_beside_it(
    server: PostgresServer, store: PostgresStore
) -> None:
    """Two owners raise at once while a third holds the fence: both get an answer."""
    owner = await owner_of(store)
    other = PostgresStore(server.settings(), Runtime())
    holding = server.connect()
    holding.execute("BEGIN")
    holding.execute("SELECT FROM goverse_fences WHERE slot = %s FOR SHARE", (owner.slot,))
    low = Owner(store, owner.slot, fresh_epoch(), "low")
    high = Owner(other, owner.slot, fresh_epoch(), "high")
    results = await asyncio.gather(low.open(), high.open(), return_exceptions=True)
    assert isinstance(results[1], Owner), results
    assert not isinstance(results[0], OutcomeUnknown | StorageUnavailable), results
    with pytest.raises(psycopg.OperationalError):
        holding.execute("COMMIT")
    assert (await high.commit(b"1")).verdict is Verdict.DONE
    assert (await low.commit(b"1", id="x")).verdict is Verdict.FENCED
    await other.close()


# ---- the deciding statement under a concurrent raise


@pytest.mark.parametrize("outcome", ["raised", "rolled back", "rewritten"])
async def test_a_commit_that_waited_for_a_raiser_decides_on_what_that_left(
    server: PostgresServer, store: PostgresStore, outcome: str
) -> None:
    """New objects and old ones, of several slots, with calls: all or none of each."""
    first, second = await owner_of(store), await owner_of(store)
    await first.commit(b"0", id="old")
    await first.commit(b"0", id="gone")
    batch = [
        first.commit_of(b"1", id="new"),
        first.commit_of(b"1", id="old", version=1),
        first.commit_of(b"1", id="stale")._replace(version=9),
        second.commit_of(b"1", id="new"),
    ]
    raiser = server.connect()
    raiser.execute("BEGIN")
    # Without a lock beforehand: an update alone must be enough to make a commit wait.
    raiser.execute(
        "UPDATE goverse_fences SET opening = opening + %s WHERE slot = %s",
        (0 if outcome == "rewritten" else 1, first.slot),
    )
    committing = asyncio.ensure_future(store.commit(batch))
    with server.connect() as watching:
        await waits_for_a_lock(watching)
    raiser.execute("ROLLBACK" if outcome == "rolled back" else "COMMIT")
    raiser.close()
    verdicts = [result.verdict for result in await committing]
    if outcome == "raised":
        assert verdicts == [Verdict.FENCED] * 3 + [Verdict.DONE]
        assert await first.stored("new") is None and await first.state("old") == b"0"
    else:
        assert verdicts == [Verdict.DONE, Verdict.DONE, Verdict.VERSION, Verdict.DONE]
        assert await first.state("new") == b"1" and await first.state("old") == b"1"
    assert await second.state("new") == b"1"


#: What one would write first: everything that decides in one join, under one lock.
NAIVE = """
SELECT b.id, f.slot IS NOT NULL, o.version
FROM unnest(%s::text[]) AS b (id)
LEFT JOIN goverse_objects o ON o.object_type = 'Thing' AND o.object_id = b.id
LEFT JOIN goverse_fences f ON f.slot = %s AND f.opening = 1
"""


async def test_a_lock_on_an_outer_join_is_not_what_decides(
    server: PostgresServer, store: PostgresStore
) -> None:
    """Why the statement locks each table in a CTE of its own."""
    owner = await owner_of(store)
    await owner.commit(b"0", id="old")
    ids = [owner.object("new").id, owner.object("old").id]
    with server.connect() as session:
        # The side of an outer join that may be absent cannot be locked at all.
        with pytest.raises(psycopg.errors.FeatureNotSupported):
            session.execute(NAIVE + "FOR SHARE OF f", (ids, owner.slot))
        # With the fence on the other side it can. While the lock waits, somebody commits the
        # new object; when it is there, the join still shows what the snapshot saw.
        beside = server.connect()
        beside.execute("BEGIN")
        beside.execute("UPDATE goverse_fences SET opening = opening WHERE slot = %s", (owner.slot,))
        beside.execute(
            "INSERT INTO goverse_objects (object_type, object_id, slot, version, updated_at) "
            "VALUES ('Thing', %s, 0, 1, 0)",
            (ids[0],),
        )
        beside.execute("UPDATE goverse_objects SET version = 2 WHERE object_id = %s", (ids[1],))
        naive = (
            "SELECT b.id, o.version FROM goverse_fences f CROSS JOIN unnest(%s::text[]) AS b (id) "
            "LEFT JOIN goverse_objects o ON o.object_type = 'Thing' AND o.object_id = b.id "
            "WHERE f.slot = %s FOR SHARE OF f"
        )
        looking = asyncio.ensure_future(
            asyncio.to_thread(lambda: session.execute(naive, (ids, owner.slot)).fetchall())
        )
        with server.connect() as watching:
            await waits_for_a_lock(watching)
        beside.execute("COMMIT")
        beside.close()
        seen = dict(await looking)
        now = dict(session.execute(naive, (ids, owner.slot)).fetchall())
    assert now == {ids[0]: 1, ids[1]: 2}
    print("seen under the lock:", seen)
    assert seen != now
    # The deciding statement is not misled: both versions are compared as they are.
    batch = [owner.commit_of(b"x", id="new"), owner.commit_of(b"x", id="old", version=1)]
    assert [r.verdict for r in await store.commit(batch)] == [Verdict.VERSION, Verdict.VERSION]


# ---- outages


async def test_a_restart_between_two_operations_is_not_noticed(server: PostgresServer) -> None:
    store = PostgresStore(server.settings(), Runtime())
    owner = await owner_of(store)
    await owner.commit(b"1")
    await server.stop()
    await server.start()
    assert (await owner.commit(b"2", version=1)).version == 2
    assert store.snapshot().unknown == 0
    await store.close()


async def test_L27_an_outage_is_said_and_is_no_hot_loop(server: PostgresServer) -> None:
    store = PostgresStore(server.settings(), Runtime())
    owner = await owner_of(store)
    await owner.commit(b"1")
    await server.kill()
    began = time.monotonic()
    for _ in range(4):
        with pytest.raises(StorageUnavailable, match="no connection to PostgreSQL") as caught:
            await owner.commit(b"2", version=1)
        assert PASSWORD not in str(caught.value)
    # Who asks again at once is made to wait.
    assert time.monotonic() - began > 3 * 0.05
    assert "no connection" in store.snapshot().last_error
    await server.start()
    assert (await owner.commit(b"2", version=1)).version == 2
    await store.close()


async def test_a_crash_of_the_server_under_load_leaves_whole_batches(
    server: PostgresServer,
) -> None:
    store = PostgresStore(server.settings(), Runtime())
    owner = await owner_of(store)
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
    await server.kill()
    with pytest.raises((OutcomeUnknown, StorageUnavailable)):
        await loading
    await server.start()
    await owner.open()
    a, b = await owner.stored("a"), await owner.stored("b")
    assert a is not None and b is not None
    assert a.version == b.version and a.version in (confirmed, confirmed + 1)
    await store.close()


# ---- what is refused


async def test_a_wrong_password_is_said_without_the_right_one(server: PostgresServer) -> None:
    settings = replace(server.settings(), password="wr0ng-word")
    store = PostgresStore(settings, Runtime())
    with pytest.raises(StorageUnavailable, match="password authentication failed") as caught:
        await store.check()
    for text in (str(caught.value), repr(store.snapshot()), repr(settings)):
        assert "wr0ng-word" not in text
    assert store.snapshot().place == f"postgresql://127.0.0.1:{server.options.port}/postgres"
    await store.close()


async def test_L11_a_server_that_can_lose_commits_is_refused(server: PostgresServer) -> None:
    settings = await server.new_database()
    store = PostgresStore(settings, Runtime())
    await store.migrate()
    await store.check()
    name = settings.url.rpartition("/")[2]
    with server.connect() as session:
        session.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    again = PostgresStore(settings, Runtime())
    with pytest.raises(StoreRefused, match="synchronous_commit=off"):
        await again.check()
    with server.connect() as session:
        session.execute(f"ALTER DATABASE {name} RESET synchronous_commit")
        session.execute("ALTER SYSTEM SET fsync = off")
        session.execute("SELECT pg_reload_conf()")
    try:
        with pytest.raises(StoreRefused, match="fsync=off"):
            await eventually(lambda: _raises(server, settings))
    finally:
        with server.connect() as session:
            session.execute("ALTER SYSTEM RESET fsync")
            session.execute("SELECT pg_reload_conf()")
    await store.close()
    await again.close()


async def _raises(server: PostgresServer, settings: object) -> bool:
    fresh = PostgresStore(settings, Runtime())  # type: ignore[arg-type]
    try:
        await fresh.check()
    finally:
        await fresh.close()
    return False


async def test_a_schema_that_is_not_ours_is_refused(server: PostgresServer) -> None:
    store = PostgresStore(await server.new_database(), Runtime())
    with pytest.raises(StoreRefused, match=r"no schema.*goverse-cli db migrate"):
        await store.check()
    known = tuple(f"{one.number:04d}_{one.name}" for one in schema.known())
    first, second = await asyncio.gather(store.migrate(), store.migrate())
    assert (first, second) in ((known, ()), ((), known))
    name = store.snapshot().place.rpartition("/")[2]
    with server.connect(database=name) as session:
        session.execute("INSERT INTO goverse_migrations VALUES (999, 'later', 'x', 0)")
        with pytest.raises(StoreRefused, match=r"schema version 999.*newer version"):
            await store.check()
        with pytest.raises(StoreRefused, match="999"):
            await store.migrate()
        session.execute("DELETE FROM goverse_migrations WHERE number = 999")
        session.execute("UPDATE goverse_migrations SET digest = 'x'")
        with pytest.raises(StoreRefused, match="another form"):
            await store.check()
    await store.close()


async def test_another_isolation_level_of_the_database_changes_nothing(
    server: PostgresServer,
) -> None:
    settings = await server.new_database()
    name = settings.url.rpartition("/")[2]
    with server.connect() as session:
        session.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
    store = PostgresStore(settings, Runtime())
    await store.migrate()
    [[level]] = await store._work.read("SHOW transaction_isolation")
    assert level == "read committed"
    await store.close()


async def test_a_standby_is_not_used(server: PostgresServer) -> None:
    """A server on which nothing can be written is no primary, and reads need one too."""
    settings = await server.new_database()
    name = settings.url.rpartition("/")[2]
    with server.connect() as session:
        session.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    store = PostgresStore(settings, Runtime())
    with pytest.raises(StorageUnavailable, match="read-only"):
        await store.load([])
    await store.close()


async def test_deadlocks_and_fences_of_many_owners_end_well(
    server: PostgresServer, store: PostgresStore
) -> None:
    """Raises, commits and accepts of the same slots, all at once: each gets an answer."""
    epoch = fresh_epoch()
    mine = [next(slots) for _ in range(8)]
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
