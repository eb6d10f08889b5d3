"""scripts/cleanup-reliable-calls.sql deletes what the store would, on PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from goverse.aio.runtime import Runtime
from goverse.ids import Epoch
from goverse.reliable.cleanup import FINISHED, Selection, preview
from goverse.storage.postgres import PostgresStore
from goverse.testing.conformance.store_kit import Owner
from tests.support.postgres import PostgresServer, serving

SCRIPT = Path(__file__).parents[2] / "scripts/cleanup-reliable-calls.sql"
DAY = 86_400.0

_FILL = """
INSERT INTO goverse_reliable_calls (
    call_id, slot, status, object_type, object_id, method, arguments, codec, digest, principal,
    context, parent, created_at, finished_at
)
SELECT CASE n WHEN 200 THEN 't/child' ELSE 'old-' || n END, 5,
    (ARRAY['success', 'failed', 'skipped'])[n % 3 + 1], 'Old', 'o', 'm', '', 0, '', 'p', '', '', 0,
    -- Many of them finished at one moment.
    extract(epoch FROM now() - (n / 10 * 10 + 0.5) * interval '1 day') * 1000000
FROM generate_series(0, 299) n
"""


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """300 finished calls of the last 300 days, one with a delivery, and live ones."""
    with serving("15") as server:
        asyncio.run(server.migrate())

        async def fill() -> None:
            store = PostgresStore(server.settings(), Runtime())
            owner = await Owner(store, 7, Epoch(1, 5), "me", name="t").open()
            await owner.accept("p1", "p2")
            await owner.commit(b"1", outbox=(owner.call("child"),))
            await store.close()

        asyncio.run(fill())
        with server.connect() as session:
            session.execute(_FILL.encode())
        yield server


def run(server: PostgresServer, **settings: Any) -> list[tuple[Any, ...]]:
    """As psql does, statement by statement; what is counted."""
    given = " ".join(f"-c goverse.{name}={value}" for name, value in settings.items())
    functions, count, deletion = _statements()
    with psycopg.connect(
        server.url, password=server.password, autocommit=True, options=given
    ) as session:
        session.execute(functions)
        counted = session.execute(count).fetchall()
        session.execute(deletion)
    return counted


def _statements() -> tuple[bytes, bytes, bytes]:
    text = SCRIPT.read_text()
    count, deletion = text.index("SELECT c.status"), text.index("DO $body$")
    return text[:count].encode(), text[count:deletion].encode(), text[deletion:].encode()


def ids(server: PostgresServer) -> set[str]:
    return {call_id for (call_id,) in server.query("SELECT call_id FROM goverse_reliable_calls")}


def test_it_deletes_what_a_dry_run_of_the_store_counts(server: PostgresServer) -> None:
    async def wanted() -> dict[str, int]:
        store = PostgresStore(server.settings(), Runtime())
        found = await preview(store, Selection(FINISHED, await store.now(), 30 * DAY))
        await store.close()
        counts = dict.fromkeys((status.value for status in FINISHED), 0)
        for count in found.counts:
            counts[count.status.value] += count.calls
        assert found.spared == 1
        return counts

    before, expected = ids(server), asyncio.run(wanted())
    counted = run(server, older_than="30days")
    assert {status: calls for status, calls, _ in counted} == expected
    assert ids(server) == before
    # Batches that end between calls of one moment lose none.
    run(server, older_than="30days", delete="yes", batch=7, pause=0)
    left = ids(server)
    assert len(before - left) == sum(expected.values()) == 269
    assert {"t/p1", "t/p2", "t/child", "old-0", "old-29"} <= left and "old-30" not in left
    assert run(server, older_than="30days") == []


def test_it_says_what_it_needs(server: PostgresServer) -> None:
    before = ids(server)
    for settings, said in (
        ({}, "must be an age above 0"),
        ({"older_than": "-1day"}, "must be an age above 0"),
        ({"older_than": "1day", "statuses": "failed,pending"}, "only calls that are success"),
    ):
        with pytest.raises(psycopg.Error, match=said):
            run(server, **settings, delete="yes")
    assert ids(server) == before
    run(server, older_than="30days", statuses="failed", delete="yes", pause=0)
    gone = before - ids(server)
    assert len(gone) == 90 and {int(id.removeprefix("old-")) % 3 for id in gone} == {1}
