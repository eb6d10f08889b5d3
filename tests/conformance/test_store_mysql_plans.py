"""How MariaDB carries out the statements of the store: what each reads beside what it is asked for,
in a ledger of 60,000 finished calls."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import pymysql
import pytest

from goverse.ids import Epoch, ObjectId
from goverse.storage.listing import START, CallPosition
from goverse.storage.mysql import calls, commit, locks, reading
from goverse.storage.mysql.connections import _MARIADB
from goverse.storage.mysql.running import BEGIN
from goverse.storage.values import Act, CallStatus, CallStep, Fence, ObjectCommit, Outcome, Step
from tests.support.mariadb import serving

FILL = (
    """
INSERT INTO goverse_reliable_calls (
    call_id, slot, seq, status, object_type, object_id, method, arguments, codec, digest,
    principal, context, parent, created_at, finished_at, run_at, catch_up
)
SELECT concat('c', seq), seq % 65536, seq,
    CASE seq % 1000 WHEN 0 THEN 'pending' WHEN 1 THEN 'parked' WHEN 2 THEN 'delayed'
        ELSE 'success' END,
    'Thing', concat('o', seq % 1000), 'add', '', 0, '', '', '', '', seq,
    IF(seq % 1000 > 2, seq, NULL), IF(seq % 1000 = 2, seq, NULL), IF(seq % 1000 = 2, 'one', NULL)
FROM seq_1_to_60000
""",
    "INSERT INTO goverse_objects (object_type, object_id, slot, version, updated_at) "
    "SELECT 'Thing', concat('o', seq), seq, 1, 0 FROM seq_1_to_20000",
    """
INSERT INTO goverse_outbox (
    call_id, slot, position, sender_type, sender_id, object_type, object_id, method, arguments,
    codec, digest, principal, context, parent, parked, created_at
)
SELECT concat('x', seq), seq % 65536, seq, 'Thing', 'o', 'Thing', 'o', 'add', '', 0, '', '', '', '',
    IF(seq % 2, '', 'refused'), 0
FROM seq_1_to_5000
""",
    "ANALYZE TABLE goverse_reliable_calls, goverse_objects, goverse_outbox, goverse_fences",
)


@pytest.fixture(scope="module")
def session() -> Iterator[pymysql.Connection[Any]]:
    with serving() as server:
        asyncio.run(server.migrate())
        with server.connect() as session:
            for statement in (*FILL, _MARIADB.format(limit=10, seconds=10)):
                session.cursor().execute(statement)
            yield session


def looked_at(session: pymysql.Connection[Any], *statements: str) -> tuple[int, int]:
    """Rows that were read one way or another, and rows that came of it."""
    cursor = session.cursor()
    cursor.execute("FLUSH STATUS")
    rows = 0
    for statement in statements:
        cursor.execute(statement)
        rows += len(cursor.fetchall())
    cursor.execute("SHOW SESSION STATUS LIKE 'Handler_read%'")
    found = dict(cursor.fetchall())
    read = sum(int(found[f"Handler_read_{how}"]) for how in ("key", "next", "prev", "first", "rnd"))
    return read + int(found["Handler_read_rnd_next"]), rows


SLOTS = range(0, 65_536, 64)
EVERY = range(65_536)
FINISHED = CallPosition(30_003, 0, "c30003")


@pytest.mark.parametrize(
    ("statements", "most"),
    [
        ([reading.get_calls([f"c{n}" for n in range(100)])], 300),
        ([reading.pending_calls(range(2000, 2010), 0, 1000)], 60),
        ([reading.parked_calls(range(2000, 2010), "", 1000)], 60),
        (reading.delayed_calls(SLOTS, 0, (0, ""), 1000), 600),
        ([reading.outbox(range(2000, 2010), 0, 1000, parked=False)], 60),
        ([reading.calls_page(CallStatus.PENDING, START, 10)], 40),
        ([reading.calls_page(CallStatus.PARKED, CallPosition(30_001, 0, "c30001"), 10)], 40),
        ([reading.calls_page(CallStatus.SUCCESS, FINISHED, 10)], 40),
        ([reading.count_finished(CallStatus.SUCCESS, 50_000, FINISHED, 100)], 1_000),
        ([reading.outbox_page(False, CallPosition(1000, 1000), 10)], 60),
        ([reading.LIVE_CALLS], 900),
        ([reading.CENSUS], 10_300),
    ],
    ids=[
        *("get", "pending", "parked", "delayed", "outbox", "pending page", "parked page"),
        *("finished page", "finished count", "deliveries page", "live", "census"),
    ],
)
def test_no_more_is_read_than_is_asked_for(
    session: pymysql.Connection[Any], statements: Sequence[str], most: int
) -> None:
    read, rows = looked_at(session, *statements)
    print(f"{read} rows read for {rows}")
    assert rows > 0 and read <= most


@pytest.mark.parametrize("slots", [SLOTS, EVERY], ids=["a node's", "everybody's"])
def test_pending_calls_of_thousands_of_slots_are_read_from_what_is_pending(
    session: pymysql.Connection[Any], slots: range
) -> None:
    """60 are pending, of 60,000. A table of slots is read once."""
    read, rows = looked_at(session, reading.pending_calls(slots, 0, 1000))
    print(f"{read} rows read for {rows}")
    assert read <= len(slots) + 1_000 + (60_000 if slots is EVERY else 0)


def test_a_batch_locks_what_it_names_and_nothing_else(session: pymysql.Connection[Any]) -> None:
    """Of the longest list that there may be, each row is looked up by its key, in order."""
    fences = [Fence(slot, Epoch(0, 0), 0) for slot in SLOTS]
    assert len(fences) == 1024
    batch = [
        ObjectCommit(
            fence,
            ObjectId("Thing", f"o{n}"),
            1,
            Act.KEEP,
            (Outcome(f"c{n * 1000}", CallStatus.SUCCESS),),
        )
        for n, fence in enumerate(fences, 1)
    ]
    plans = (
        commit.CommitPlan(batch),
        calls.StepPlan(
            [CallStep(one.fence, one.outcomes[0].call_id, Step.ATTEMPT) for one in batch]
        ),
    )
    for plan in plans:
        cursor = session.cursor()
        for statement in BEGIN:
            cursor.execute(statement)
        for statement in plan.locks():
            cursor.execute(f"EXPLAIN {statement}")
            for row in cursor.fetchall():
                if row[2] is None or row[2].startswith("<"):
                    continue
                assert (row[3], row[5]) == ("range", "PRIMARY"), (statement[:80], row)
                assert "filesort" not in row[9] and "temporary" not in row[9], row
        read, _ = looked_at(session, *plan.locks())
        cursor.execute("ROLLBACK")
        assert read <= 3 * 3 * 1024, read


def test_a_long_list_of_fences_is_no_join(session: pymysql.Connection[Any]) -> None:
    """What the setting of the session is for: by itself MariaDB makes a join of 1,000 values, and
    locks in the order of that."""
    statement = locks.fences([Fence(slot, Epoch(0, 0), 0) for slot in SLOTS])
    cursor = session.cursor()
    cursor.execute("SET in_predicate_conversion_threshold = 1000")
    try:
        cursor.execute(f"EXPLAIN {statement}")
        assert len(cursor.fetchall()) > 4
    finally:
        cursor.execute("SET in_predicate_conversion_threshold = 0")
    cursor.execute(f"EXPLAIN {statement}")
    assert len(cursor.fetchall()) == 4
