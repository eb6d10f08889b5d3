"""What can go wrong between a store's client and PostgreSQL alone; see test_store_faults.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest

from goverse.aio.runtime import Runtime
from goverse.storage.api import StorageUnavailable, StoreRefused
from goverse.storage.postgres import PostgresStore
from goverse.storage.values import Verdict
from tests.support.eventually import eventually
from tests.support.faulty_servers import FaultyPostgres, fresh_owner, serving


@pytest.fixture(scope="module", params=["postgresql-15", "postgresql-18"])
def server(request: pytest.FixtureRequest) -> Iterator[FaultyPostgres]:
    with serving(request.param) as server:
        assert isinstance(server, FaultyPostgres)
        yield server


@pytest.fixture
async def store(server: FaultyPostgres) -> AsyncIterator[PostgresStore]:
    store = server.store()
    yield store
    await store.close()


#: What one would write first: everything that decides in one join, under one lock.
NAIVE = """
SELECT b.id, f.slot IS NOT NULL, o.version
FROM unnest(%s::text[]) AS b (id)
LEFT JOIN goverse_objects o ON o.object_type = 'Thing' AND o.object_id = b.id
LEFT JOIN goverse_fences f ON f.slot = %s AND f.opening = 1
"""


async def test_a_lock_on_an_outer_join_is_not_what_decides(
    server: FaultyPostgres, store: PostgresStore
) -> None:
    """Why the statement locks each table in a CTE of its own."""
    owner = await fresh_owner(store)
    await owner.commit(b"0", id="old")
    ids = [owner.object("new").id, owner.object("old").id]
    with server.process.connect() as session:
        # The side of an outer join that may be absent cannot be locked at all.
        with pytest.raises(psycopg.errors.FeatureNotSupported):
            session.execute(NAIVE + "FOR SHARE OF f", (ids, owner.slot))
        # With the fence on the other side it can. While the lock waits, somebody commits the
        # new object; when it is there, the join still shows what the snapshot saw.
        beside = server.process.connect()
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
        await server.someone_waits()
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


# ---- what is refused


async def test_L11_a_server_that_can_lose_commits_is_refused(server: FaultyPostgres) -> None:
    settings = await server.process.new_database()
    store = PostgresStore(settings, Runtime())
    await store.migrate()
    await store.check()
    name = settings.url.rpartition("/")[2]
    with server.process.connect() as session:
        session.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    again = PostgresStore(settings, Runtime())
    with pytest.raises(StoreRefused, match="synchronous_commit=off"):
        await again.check()
    with server.process.connect() as session:
        session.execute(f"ALTER DATABASE {name} RESET synchronous_commit")
        session.execute("ALTER SYSTEM SET fsync = off")
        session.execute("SELECT pg_reload_conf()")
    try:
        with pytest.raises(StoreRefused, match="fsync=off"):
            await eventually(lambda: _raises(server, settings))
    finally:
        with server.process.connect() as session:
            session.execute("ALTER SYSTEM RESET fsync")
            session.execute("SELECT pg_reload_conf()")
    await store.close()
    await again.close()


async def _raises(server: FaultyPostgres, settings: object) -> bool:
    fresh = PostgresStore(settings, Runtime())  # type: ignore[arg-type]
    try:
        await fresh.check()
    finally:
        await fresh.close()
    return False


async def test_another_isolation_level_of_the_database_changes_nothing(
    server: FaultyPostgres,
) -> None:
    settings = await server.process.new_database()
    name = settings.url.rpartition("/")[2]
    with server.process.connect() as session:
        session.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
    store = PostgresStore(settings, Runtime())
    await store.migrate()
    [[level]] = await store._work.read("SHOW transaction_isolation")
    assert level == "read committed"
    await store.close()


async def test_a_standby_is_not_used(server: FaultyPostgres) -> None:
    """A server on which nothing can be written is no primary, and reads need one too."""
    settings = await server.process.new_database()
    name = settings.url.rpartition("/")[2]
    with server.process.connect() as session:
        session.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    store = PostgresStore(settings, Runtime())
    with pytest.raises(StorageUnavailable, match="read-only"):
        await store.load([])
    await store.close()
