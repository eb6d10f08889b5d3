"""Reading from SQLite."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

from goverse.ids import ObjectId
from goverse.storage import pages, stats
from goverse.storage.api import Census, FinishedCalls, LiveCalls, QueuedCalls
from goverse.storage.columns import (
    DELAYED_ROW,
    LEDGER_ROW,
    LISTED_DELIVERY,
    OUTBOX_ROW,
    delayed_call,
    finished_count,
    listed_call,
    outbox_row,
    stored_call,
)
from goverse.storage.listing import CallPosition, FinishedCount, LedgerSize, ListedCall
from goverse.storage.values import (
    CallStatus,
    DelayedPage,
    OutboxRow,
    State,
    StoredCall,
    StoredObject,
)

# A list is passed as JSON: SQLite has no arrays, and limits how many parameters there are.
_IN = "IN (SELECT value FROM json_each(?))"


def load(
    connection: sqlite3.Connection, objects: Sequence[ObjectId]
) -> dict[ObjectId, StoredObject]:
    found = {}
    for object in objects:
        row = connection.execute(
            "SELECT version, state, state_schema FROM goverse_objects "
            "WHERE object_type = ? AND object_id = ?",
            object,
        ).fetchone()
        if row is not None:
            state = None if row[1] is None else State(row[1], row[2])
            found[object] = StoredObject(row[0], state)
    return found


def get_calls(connection: sqlite3.Connection, call_ids: Sequence[str]) -> dict[str, StoredCall]:
    found = {}
    for call_id in call_ids:
        row = connection.execute(
            f"SELECT {LEDGER_ROW} FROM goverse_reliable_calls WHERE call_id = ?", (call_id,)
        ).fetchone()
        if row is not None:
            found[call_id] = stored_call(row)
    return found


def pending_calls(
    connection: sqlite3.Connection, slots: Sequence[int], after: int, limit: int
) -> list[StoredCall]:
    rows = connection.execute(
        f"SELECT {LEDGER_ROW} FROM goverse_reliable_calls WHERE status = 'pending' "
        f"AND slot {_IN} AND seq > ? ORDER BY seq LIMIT ?",
        (json.dumps(list(slots)), after, limit),
    )
    return [stored_call(row) for row in rows]


def parked_calls(
    connection: sqlite3.Connection, slots: Sequence[int], after: str, limit: int
) -> list[StoredCall]:
    rows = connection.execute(
        f"SELECT {LEDGER_ROW} FROM goverse_reliable_calls "
        "WHERE status IN ('delayed', 'parked') AND status = 'parked' "
        f"AND slot {_IN} AND call_id > ? ORDER BY call_id LIMIT ?",
        (json.dumps(list(slots)), after, limit),
    )
    return [stored_call(row) for row in rows]


def delayed_calls(
    connection: sqlite3.Connection,
    slots: Sequence[int],
    now: int,
    within: int,
    after: tuple[int, str],
    limit: int,
) -> DelayedPage:
    rows = connection.execute(
        f"SELECT {DELAYED_ROW} FROM goverse_reliable_calls WHERE status = 'delayed' "
        f"AND (run_at, call_id) > (?, ?) AND run_at <= ? AND +slot {_IN} "
        "ORDER BY run_at, call_id LIMIT ?",
        (*after, now + within, json.dumps(list(slots)), limit),
    )
    return DelayedPage(now / 1_000_000, tuple(delayed_call(row) for row in rows))


def outbox(
    connection: sqlite3.Connection, slots: Sequence[int], after: int, limit: int, parked: bool
) -> list[OutboxRow]:
    which = "parked <> ''" if parked else "parked = ''"
    rows = connection.execute(
        f"SELECT {OUTBOX_ROW} FROM goverse_outbox WHERE {which} "
        f"AND slot {_IN} AND position > ? ORDER BY position LIMIT ?",
        (json.dumps(list(slots)), after, limit),
    )
    return [outbox_row(row) for row in rows]


def live_calls(connection: sqlite3.Connection, now: int) -> tuple[LiveCalls, ...]:
    return stats.live_calls(connection.execute(stats.live_statement("?"), (now, now)))


def longest_queues(connection: sqlite3.Connection, now: int, limit: int) -> tuple[QueuedCalls, ...]:
    return stats.queued_calls(connection.execute(stats.longest_statement("?", "?"), (now, limit)))


def finished_calls(connection: sqlite3.Connection) -> tuple[FinishedCalls, ...]:
    return stats.finished_calls(connection.execute(stats.FINISHED))


def census(connection: sqlite3.Connection) -> Census:
    def count(table: str, where: str) -> int:
        row = connection.execute(f"SELECT count(*) FROM {table} WHERE {where}").fetchone()
        return int(row[0])

    held = "status IN ('delayed', 'parked') AND status"
    return Census(
        count("goverse_reliable_calls", "status = 'pending'"),
        count("goverse_reliable_calls", f"{held} = 'delayed'"),
        count("goverse_reliable_calls", f"{held} = 'parked'"),
        count("goverse_outbox", "parked = ''"),
        count("goverse_outbox", "parked <> ''"),
    )


def list_calls(
    connection: sqlite3.Connection, status: CallStatus, after: CallPosition, limit: int
) -> list[ListedCall]:
    statement, values = pages.calls_page(status, after, limit)
    return [listed_call(row) for row in connection.execute(_marked(statement), values)]


def list_outbox(
    connection: sqlite3.Connection, parked: bool, after: CallPosition, limit: int
) -> list[ListedCall]:
    statement, values = pages.outbox_page(parked, after, limit)
    return [listed_call(row) for row in connection.execute(_marked(statement), values)]


def deliveries(connection: sqlite3.Connection, call_ids: Sequence[str]) -> dict[str, ListedCall]:
    found = {}
    for call_id in call_ids:
        row = connection.execute(
            f"SELECT {LISTED_DELIVERY} FROM goverse_outbox WHERE call_id = ?", (call_id,)
        ).fetchone()
        if row is not None:
            found[call_id] = listed_call(row)
    return found


def count_finished(
    connection: sqlite3.Connection,
    status: CallStatus,
    before: float,
    after: CallPosition,
    limit: int,
) -> FinishedCount:
    values = pages.count_values(status, before, after, limit)
    row = connection.execute(_marked(pages.COUNT_FINISHED), values).fetchone()
    return finished_count(row, limit)


def ledger_size(connection: sqlite3.Connection) -> LedgerSize:
    """The file's: SQLite says what a table takes only where it was built to."""
    [count] = connection.execute("PRAGMA page_count").fetchone()
    [size] = connection.execute("PRAGMA page_size").fetchone()
    return LedgerSize(count * size, None)


def _marked(statement: str) -> str:
    return statement.replace("%s", "?")
