"""What CockroachDB is trusted with, on PostgreSQL 15 and 18: a fence that nobody locks.

The statements are those of the dialect for CockroachDB, the isolation is SERIALIZABLE.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace

import psycopg
import pytest

from goverse import storage
from goverse.aio.runtime import Runtime
from goverse.config.settings import StorageSettings
from goverse.storage.api import StorageUnavailable
from goverse.storage.postgres import PostgresStore
from goverse.storage.values import Acceptance, AcceptResult, CommitResult, Verdict
from goverse.testing.conformance.store_kit import Owner, fresh_epoch
from tests.support.eventually import eventually
from tests.support.postgres import VERSIONS, PostgresServer, serving
from tests.support.serializable import SERIALIZABLE


@pytest.fixture(scope="module", params=VERSIONS)
def server(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    with serving(request.param) as server:
        asyncio.run(server.migrate())
        yield server


@pytest.fixture
async def store(server: PostgresServer) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(server.settings(), Runtime(), SERIALIZABLE)
    yield store
    await store.close()


slots = iter(range(1000, 60_000))


async def owner_of(store: PostgresStore) -> Owner:
    return await Owner(store, next(slots), fresh_epoch(), "first").open()


async def waits_for_a_lock(server: PostgresServer) -> None:
    """Until a session waits for a lock: it has its snapshot, and has read the fence in it."""
    with server.connect() as watching:
        await eventually(
            lambda: watching.execute(
                "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            ).fetchall()
        )


def in_the_way(server: PostgresServer, owner: Owner) -> psycopg.Connection:
    """A session that holds up whoever writes the owner's object or call ``late``, and nobody
    else. Rolled back, it leaves nothing that they could notice."""
    session = server.connect()
    session.execute("BEGIN")
    session.execute(
        "INSERT INTO goverse_objects (object_type, object_id, slot, version, updated_at) "
        "VALUES (%s, %s, 0, 1, 0)",
        owner.object("late"),
    )
    session.execute(
        "INSERT INTO goverse_reliable_calls (call_id, slot, status, object_type, object_id, "
        "method, arguments, codec, digest, principal, context, parent, created_at) "
        "VALUES (%s, 0, 'pending', '', '', '', '', 0, '', '', '', '', 0)",
        (owner.id("late"),),
    )
    return session


async def late_commit(owner: Owner) -> CommitResult:
    return await owner.commit(b"late", id="late")


async def late_accept(owner: Owner) -> AcceptResult:
    [result] = await owner.store.accept([Acceptance(owner.fence, owner.call("late"))])
    return result


async def loaded(owner: Owner) -> object:
    return await owner.stored("late")


async def known(owner: Owner) -> object:
    return await owner.store.get_calls([owner.id("late")])


async def pending(owner: Owner) -> object:
    return await owner.store.pending_calls([owner.slot])


@pytest.mark.parametrize(
    ("writing", "reading"),
    [(late_commit, loaded), (late_accept, known), (late_accept, pending)],
    ids=["commit", "accept by id", "accept by slot"],
)
async def test_L02_what_a_new_owner_has_read_is_not_written_by_the_former_one_any_more(
    server: PostgresServer,
    store: PostgresStore,
    writing: Callable[[Owner], Awaitable[CommitResult | AcceptResult]],
    reading: Callable[[Owner], Awaitable[object]],
) -> None:
    """The former owner has compared its fence, and found it standing. Then it is raised, and what
    it shuts out is read. No lock makes either wait."""
    old = await owner_of(store)
    session = in_the_way(server, old)
    late = asyncio.ensure_future(writing(old))
    await waits_for_a_lock(server)
    beside = PostgresStore(server.settings(), Runtime(), SERIALIZABLE)
    new = await Owner(beside, old.slot, fresh_epoch(), "second", name=old.name).open()
    assert not await reading(new)
    session.execute("ROLLBACK")
    assert (await late).verdict is Verdict.FENCED
    assert not await reading(new)
    session.close()
    await beside.close()


async def test_a_commit_that_nobody_missed_may_come_before_the_raise(
    server: PostgresServer, store: PostgresStore
) -> None:
    """The same, but nobody has read: whether it is written or not, what is read then is final."""
    old = await owner_of(store)
    session = in_the_way(server, old)
    late = asyncio.ensure_future(late_commit(old))
    await waits_for_a_lock(server)
    beside = PostgresStore(server.settings(), Runtime(), SERIALIZABLE)
    new = await Owner(beside, old.slot, fresh_epoch(), "second", name=old.name).open()
    session.execute("ROLLBACK")
    verdict = (await late).verdict
    assert (await new.stored("late") is not None) == (verdict is Verdict.DONE)
    session.close()
    await beside.close()


async def test_a_commit_aborted_because_of_others_is_sent_again(
    server: PostgresServer, store: PostgresStore
) -> None:
    owner = await owner_of(store)
    await owner.commit(b"1")
    session = server.connect()
    session.execute("BEGIN")
    session.execute(
        "UPDATE goverse_objects SET updated_at = 0 WHERE object_id = %s", (owner.object().id,)
    )
    committing = asyncio.ensure_future(owner.commit(b"2", version=1))
    await waits_for_a_lock(server)
    # To the statement that waits, the row has changed since its snapshot: 40001.
    session.execute("COMMIT")
    session.close()
    assert (await committing).version == 2
    assert await owner.state() == b"2"


FAILING = """
CREATE SEQUENCE IF NOT EXISTS tries;
ALTER SEQUENCE tries RESTART;
CREATE OR REPLACE FUNCTION succeeds_at(try int) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
    IF nextval('tries') < try THEN
        RAISE EXCEPTION 'because of others' USING ERRCODE = 'serialization_failure';
    END IF;
    RETURN try;
END $$
"""


async def test_reads_and_administration_are_done_again_too_and_not_for_ever(
    server: PostgresServer, store: PostgresStore
) -> None:
    async def administered(connection: psycopg.AsyncConnection) -> int:
        cursor = await connection.execute("SELECT succeeds_at(4)")
        [tries] = await cursor.fetchone() or (0,)
        return int(tries)

    with server.connect() as session:
        session.execute(FAILING)
        assert await store._work.read("SELECT succeeds_at(4)") == [(4,)]
        session.execute(FAILING)
        assert await store._work.administer(administered) == 4
        session.execute(FAILING)
        with pytest.raises(StorageUnavailable, match="aborted 20 times: because of others"):
            await store._work.read("SELECT succeeds_at(1000)")
        [[tries]] = session.execute("SELECT last_value FROM tries").fetchall()
    assert tries == SERIALIZABLE.max_tries


async def test_many_owners_of_neighbouring_rows_all_get_through(
    server: PostgresServer, store: PostgresStore
) -> None:
    """Serialization failures for real: rows side by side in pages, written by several clients."""
    clients = [PostgresStore(server.settings(), Runtime(), SERIALIZABLE) for _ in range(4)]
    owners = [await owner_of(client) for client in clients]
    for version in range(10):
        done = await asyncio.gather(
            *(
                owner.store.commit(
                    [owner.commit_of(b"x", version=version, id=f"{n}") for n in range(8)]
                )
                for owner in owners
            )
        )
        assert all(result.verdict is Verdict.DONE for batch in done for result in batch)
    for client in clients:
        await client.close()


async def test_a_raise_is_over_when_no_clock_is_behind_it(server: PostgresServer) -> None:
    """Whoever reads without the fence in hand must not read as of before the raise."""
    slow = PostgresStore(server.settings(), Runtime(), replace(SERIALIZABLE, settle_s=0.1))
    owner = Owner(slow, next(slots), fresh_epoch(), "first")
    loop = asyncio.get_running_loop()
    raising = asyncio.ensure_future(owner.open())
    with server.connect() as session:
        statement = "SELECT 1 FROM goverse_fences WHERE slot = %s AND opening = 1"
        await eventually(lambda: session.execute(statement, (owner.slot,)).fetchall())
    raised = loop.time()
    assert not raising.done()
    await raising
    assert loop.time() - raised > 0.05
    await slow.close()


async def test_that_cockroachdb_is_untested_is_said_at_start_and_before_its_schema_is_made(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # Nobody listens on port 1: what is said does not wait for an answer.
    settings = StorageSettings(url="cockroachdb://goverse@127.0.0.1:1/x", connect_timeout_s=1)
    opened = await storage.open(settings, Runtime())
    assert opened.snapshot().backend == "cockroachdb"
    for begin in (opened.check, opened.migrate):
        caplog.clear()
        with caplog.at_level(logging.WARNING), pytest.raises(StorageUnavailable):
            await begin()
        assert "CockroachDB is UNTESTED" in caplog.text
    await opened.close()
