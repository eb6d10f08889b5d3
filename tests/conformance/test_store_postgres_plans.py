"""Live work is found without reading what is finished: the plans of the store's statements."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from goverse.ids import NO_EPOCH
from goverse.storage.postgres import calls, commit, store
from goverse.storage.postgres.fences import RAISE
from goverse.storage.values import Fence, ObjectCommit, State
from goverse.testing.conformance.store_kit import Owner
from tests.support.postgres import VERSIONS, serving

FILL = """
INSERT INTO goverse_reliable_calls (
    call_id, slot, seq, status, object_type, object_id, method, arguments, codec, digest,
    principal, context, parent, result, created_at, finished_at
)
SELECT 'c' || n, n % 65536, n,
    CASE WHEN n % 1000 = 0 THEN 'pending' WHEN n % 1000 = 1 THEN 'parked' ELSE 'success' END,
    'Thing', 'o' || n % 1000, 'add', '', 0, '', '', '', '', '', 0,
    CASE WHEN n % 1000 > 1 THEN 0 END
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


def plan(session: psycopg.Connection, statement: str, values: Any) -> list[dict[str, Any]]:
    """The nodes of a statement's generic plan."""
    numbers = itertools.count(1)
    text = re.sub("%[sb]", lambda _: f"${next(numbers)}", statement)
    name = f"planned_{next(_numbers)}"
    session.execute(f"PREPARE {name} AS {text}".encode())
    cursor = psycopg.ClientCursor(session)
    places = f"({', '.join(['%s'] * len(values))})" if values else ""
    cursor.execute(f"EXPLAIN (FORMAT json) EXECUTE {name} {places}", values)
    [[found]] = cursor.fetchall()
    found = json.loads(found) if isinstance(found, str) else found
    return list(nodes(found[0]["Plan"]))


def nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from nodes(child)


@pytest.mark.parametrize(
    ("statement", "values", "index"),
    [
        (calls.PENDING_CALLS, ("{1,2,3,4,5,6,7,8}", 0, 1000), "goverse_reliable_calls_pending"),
        (calls.PARKED_CALLS, ("{1,2,3,4,5,6,7,8}", "", 1000), "goverse_reliable_calls_held"),
        (calls.OUTBOX, ("{1,2,3,4,5,6,7,8}", 0, 1000), "goverse_outbox_live"),
        (calls.PARKED_OUTBOX, ("{1,2,3,4,5,6,7,8}", 0, 1000), "goverse_outbox_parked"),
        (calls.GET_CALLS, (["c1"],), "goverse_reliable_calls_pkey"),
        (store._LOAD, (["Thing"], ["o1"]), "goverse_objects_pkey"),
    ],
    ids=["pending", "parked", "outbox", "parked outbox", "get", "load"],
)
def test_live_work_is_read_by_its_index(
    session: psycopg.Connection, statement: str, values: Any, index: str
) -> None:
    found = plan(session, statement, values)
    assert index in [node.get("Index Name") for node in found], found
    assert not [node for node in found if node["Node Type"] == "Seq Scan"]


def test_the_census_counts_live_rows_by_their_indexes(session: psycopg.Connection) -> None:
    scans = [node for node in plan(session, calls.CENSUS, ()) if "Scan" in node["Node Type"]]
    touching = [n for n in scans if n.get("Relation Name") == "goverse_reliable_calls"]
    assert {"goverse_reliable_calls_pending", "goverse_reliable_calls_held"} <= {
        node.get("Index Name") for node in scans
    }
    assert not [node for node in touching if node["Node Type"] == "Seq Scan"]


@pytest.mark.parametrize(
    ("statement", "values", "indexes"),
    [
        (
            calls.LIVE_CALLS,
            (),
            {"goverse_reliable_calls_pending", "goverse_reliable_calls_held"},
        ),
        (calls.LONGEST_QUEUES, (10,), {"goverse_reliable_calls_pending"}),
    ],
    ids=["live calls", "longest queues"],
)
def test_queues_are_counted_without_reading_what_is_finished(
    session: psycopg.Connection, statement: str, values: Any, indexes: set[str]
) -> None:
    found = plan(session, statement, values)
    assert indexes == {node["Index Name"] for node in found if "Index Name" in node}
    assert not [node for node in found if node["Node Type"] == "Seq Scan"]


def owner() -> Owner:
    return Owner(None, 1, NO_EPOCH, "x", 1)  # type: ignore[arg-type]


def test_the_statements_that_write_read_no_table_whole(session: psycopg.Connection) -> None:
    me = owner()
    item = ObjectCommit(Fence(1, NO_EPOCH, 1), me.object(), 0, State(b"x"))
    step: Any = type("S", (), {"fence": me.fence, "call_id": "c", "reason": "", "step": _Value})
    acceptance: Any = type("A", (), {"fence": me.fence, "call": me.call("c"), "skip": ""})
    for name, statement, values in (
        ("commit", commit.COMMIT, commit.parameters([item])),
        ("accept", calls.ACCEPT, calls.accept_parameters([acceptance])),
        ("change calls", calls.CHANGE_CALLS, calls.step_parameters([step])),
        ("change outbox", calls.CHANGE_OUTBOX, calls.step_parameters([step])),
        ("raise", RAISE, (1, 1, "x", 1, "{1,2,3}")),
    ):
        for node in plan(session, statement, values):
            whole = node["Node Type"] == "Seq Scan" and node.get("Relation Name") in TABLES
            assert not whole, (name, node)


class _Value:
    value = "skip"
