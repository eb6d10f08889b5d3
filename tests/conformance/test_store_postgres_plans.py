"""Live work is found without reading what is finished: the plans of the store's statements."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from goverse.storage import pages
from goverse.storage.listing import START
from goverse.storage.postgres import calls, commit, store
from goverse.storage.postgres.arrays import numbered
from goverse.storage.postgres.fences import RAISE
from goverse.storage.values import CallStatus
from tests.support.postgres import VERSIONS, serving

FILL = """
INSERT INTO goverse_reliable_calls (
    call_id, slot, seq, status, object_type, object_id, method, arguments, codec, digest,
    principal, context, parent, result, created_at, finished_at, run_at, catch_up
)
SELECT 'c' || n, n % 65536, n,
    CASE n % 1000 WHEN 0 THEN 'pending' WHEN 1 THEN 'parked' WHEN 2 THEN 'delayed'
        ELSE 'success' END,
    'Thing', 'o' || n % 1000, 'add', '', 0, '', '', '', '', '', 0,
    CASE WHEN n % 1000 > 2 THEN n END,
    CASE n % 1000 WHEN 2 THEN n END, CASE n % 1000 WHEN 2 THEN 'one' END
FROM generate_series(1, 60000) n;
INSERT INTO goverse_objects (object_type, object_id, slot, version, updated_at)
SELECT 'Thing', 'o' || n, n, 1, 0 FROM generate_series(1, 20000) n;
INSERT INTO goverse_outbox (
    call_id, slot, position, sender_type, sender_id, object_type, object_id, method, arguments,
    codec, digest, principal, context, parent, parked, created_at
)
SELECT 'x' || n, n % 65536, n, 'Thing', 'o', 'Thing', 'o', 'add', '', 0, '', '', '', '',
    CASE WHEN n % 10 = 0 THEN '' ELSE 'refused' END, 0
FROM generate_series(1, 20000) n;
ANALYZE;
"""

_numbers = itertools.count(1)

TABLES = ("goverse_reliable_calls", "goverse_objects", "goverse_outbox", "goverse_fences")


@pytest.fixture(scope="module", params=VERSIONS)
def session(request: pytest.FixtureRequest) -> Iterator[psycopg.Connection]:
    with serving(request.param) as server:
        asyncio.run(server.migrate())
        with server.connect() as session:
            session.execute(FILL)
            session.execute("SET enable_seqscan = off")  # as the store does
            # As a statement is planned that is used again and again.
            session.execute("SET plan_cache_mode = force_generic_plan")
            yield session


def plan(session: psycopg.Connection, statement: str | bytes, count: int) -> list[dict[str, Any]]:
    """The nodes of a statement's generic plan.

    :param count: of its parameters, whose values such a plan does not look at.
    """
    name = f"planned_{next(_numbers)}"
    text = numbered(statement) if isinstance(statement, str) else statement
    session.execute(f"PREPARE {name} AS ".encode() + text)
    places = f"({', '.join(['NULL'] * count)})" if count else ""
    [[found]] = session.execute(
        f"EXPLAIN (FORMAT json) EXECUTE {name} {places}".encode()
    ).fetchall()
    found = json.loads(found) if isinstance(found, str) else found
    return list(nodes(found[0]["Plan"]))


def nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from nodes(child)


@pytest.mark.parametrize(
    ("statement", "count", "index"),
    [
        (calls.PENDING_CALLS, 3, "goverse_reliable_calls_pending"),
        (calls.PARKED_CALLS, 3, "goverse_reliable_calls_held"),
        (calls.DELAYED_CALLS, 5, "goverse_reliable_calls_due"),
        (calls.OUTBOX, 3, "goverse_outbox_live"),
        (calls.PARKED_OUTBOX, 3, "goverse_outbox_parked"),
        (calls.GET_CALLS, 1, "goverse_reliable_calls_pkey"),
        (calls.DELIVERIES, 1, "goverse_outbox_pkey"),
        (store._LOAD, 2, "goverse_objects_pkey"),
    ],
    ids=["pending", "parked", "delayed", "outbox", "parked outbox", "get", "deliveries", "load"],
)
def test_live_work_is_read_by_its_index(
    session: psycopg.Connection, statement: str, count: int, index: str
) -> None:
    found = plan(session, statement, count)
    assert index in [node.get("Index Name") for node in found], found
    assert not [node for node in found if node["Node Type"] == "Seq Scan"]


def test_the_census_counts_live_rows_by_their_indexes(session: psycopg.Connection) -> None:
    scans = [node for node in plan(session, calls.CENSUS, 0) if "Scan" in node["Node Type"]]
    touching = [n for n in scans if n.get("Relation Name") == "goverse_reliable_calls"]
    assert {"goverse_reliable_calls_pending", "goverse_reliable_calls_held"} <= {
        node.get("Index Name") for node in scans
    }
    assert not [node for node in touching if node["Node Type"] == "Seq Scan"]


@pytest.mark.parametrize(
    ("statement", "count", "indexes"),
    [
        (calls.LIVE_CALLS, 0, {"goverse_reliable_calls_pending", "goverse_reliable_calls_held"}),
        (calls.LONGEST_QUEUES, 1, {"goverse_reliable_calls_pending"}),
    ],
    ids=["live calls", "longest queues"],
)
def test_queues_are_counted_without_reading_what_is_finished(
    session: psycopg.Connection, statement: str, count: int, indexes: set[str]
) -> None:
    found = plan(session, statement, count)
    assert indexes == {node["Index Name"] for node in found if "Index Name" in node}
    assert not [node for node in found if node["Node Type"] == "Seq Scan"]


def by_place(statement: str, values: tuple[Any, ...]) -> tuple[str, int]:
    return statement, len(values)


PENDING_PAGE = by_place(*pages.calls_page(CallStatus.PENDING, START, 1))
PARKED_PAGE = by_place(*pages.calls_page(CallStatus.PARKED, START, 1))
FINISHED_PAGE = by_place(*pages.calls_page(CallStatus.FAILED, START, 1))
COUNTED_PAGE = (pages.COUNT_FINISHED, len(pages.count_values(CallStatus.FAILED, 0.0, START, 1)))
DELIVERIES = by_place(*pages.outbox_page(False, START, 1))
PARKED_DELIVERIES = by_place(*pages.outbox_page(True, START, 1))


@pytest.mark.parametrize(
    ("page", "index"),
    [
        (PENDING_PAGE, "goverse_reliable_calls_pending"),
        (PARKED_PAGE, "goverse_reliable_calls_held"),
        (FINISHED_PAGE, "goverse_reliable_calls_finished"),
        (COUNTED_PAGE, "goverse_reliable_calls_finished"),
        (DELIVERIES, "goverse_outbox_live"),
        (PARKED_DELIVERIES, "goverse_outbox_parked"),
    ],
    ids=["pending", "parked", "finished", "counted", "deliveries", "parked deliveries"],
)
def test_a_page_begins_where_the_last_one_ended(
    session: psycopg.Connection, page: tuple[str, int], index: str
) -> None:
    """And ends after its rows: nothing sorts what lies behind it."""
    found = plan(session, *page)
    [scan] = [node for node in found if node.get("Index Name") == index]
    assert scan["Node Type"] in ("Index Scan", "Index Only Scan") and scan.get("Index Cond"), scan
    assert not [node for node in found if node["Node Type"] in ("Seq Scan", "Bitmap Heap Scan")]
    sorts = [node for node in found if node["Node Type"] == "Sort"]
    # The last row of a page is found by sorting the page.
    assert not [node for node in sorts if scan in nodes(node)], found


def _commits() -> Iterator[tuple[str, tuple[bytes, int]]]:
    for (deletes, sends, timed), text in commit.COMMITS.items():
        count = 18 + 12 * sends + timed + 3 * (sends and timed)
        yield f"commit {(deletes, sends, timed)}", (text, count)


#: The statements that write, and how many parameters each has.
WRITING = {
    **dict(_commits()),
    "accept": (calls.ACCEPTS[False], 17),
    "accept delayed": (calls.ACCEPTS[True], 20),
    "make due": (calls.MAKE_DUE, 8),
    "change calls": (calls.CHANGE_CALLS, 8),
    "change outbox": (calls.CHANGE_OUTBOX, 8),
    "delete finished": (calls.DELETE_FINISHED, 2),
    "raise": (RAISE, 5),
}


@pytest.mark.parametrize("name", WRITING)
def test_the_statements_that_write_read_no_table_whole(
    session: psycopg.Connection, name: str
) -> None:
    for node in plan(session, *WRITING[name]):
        whole = node["Node Type"] == "Seq Scan" and node.get("Relation Name") in TABLES
        assert not whole, node
        # An index that is read without a condition is the table, in another order.
        indexed = node["Node Type"] in ("Index Scan", "Index Only Scan", "Bitmap Index Scan")
        assert not indexed or node.get("Index Cond"), node


def test_a_commit_compares_no_batch_with_itself(session: psycopg.Connection) -> None:
    """In time that grows with the square of the batch."""
    batch = {"batch", "outcomes", "standing", "calls", "eligible", "inserted", "passed", "numbered"}
    for name in WRITING:
        for node in plan(session, *WRITING[name]):
            if node["Node Type"] == "Nested Loop" and node.get("Join Filter"):
                within = [one.get("CTE Name") for one in nodes(node)]
                tables = [one for one in nodes(node) if one.get("Relation Name") in TABLES]
                assert tables or not batch & {one for one in within if one}, node


def test_calls_are_finished_by_their_ids_also_when_none_was_pending(
    session: psycopg.Connection,
) -> None:
    """A plan is made once, for a ledger in which nothing is pending, and used when much is."""
    with session.transaction(force_rollback=True):
        session.execute("DELETE FROM goverse_reliable_calls")
        session.execute("ANALYZE goverse_reliable_calls")
        [locking] = [
            node
            for node in plan(session, *WRITING["commit (True, True, True)"])
            if node.get("Subplan Name") == "CTE calls"
        ]
    found = {node["Index Name"] for node in nodes(locking) if "Index Name" in node}
    assert found == {"goverse_reliable_calls_pkey"}
