"""What is counted of the ledger for operators: the statements, and what their rows mean.

PostgreSQL and SQLite share the statements. Those about live calls read the partial indexes of live
rows and no finished row, so that they take as long as there is work to count.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from goverse.ids import ObjectId
from goverse.storage.api import FinishedCalls, LiveCalls, QueuedCalls
from goverse.storage.values import CallStatus

# The statuses are written out, as the indexes have them: else the planner does not know them.
_SINCE = "min(CASE WHEN run_at > created_at THEN run_at ELSE created_at END)"

_LIVE = f"""
SELECT object_type, 'pending', count(*), {{now}} - {_SINCE}
FROM goverse_reliable_calls WHERE status = 'pending' GROUP BY object_type
UNION ALL
SELECT object_type, status, count(*), {{now}} - {_SINCE}
FROM goverse_reliable_calls WHERE status IN ('delayed', 'parked') GROUP BY object_type, status
"""

_LONGEST = f"""
SELECT object_type, object_id, count(*) AS calls, {{now}} - {_SINCE}
FROM goverse_reliable_calls WHERE status = 'pending'
GROUP BY object_type, object_id
ORDER BY calls DESC, object_type, object_id LIMIT {{limit}}
"""

#: Reads the ledger as a whole: how many finished calls there are, nothing else knows.
FINISHED = """
SELECT object_type, status, count(*) FROM goverse_reliable_calls
WHERE status IN ('success', 'failed', 'skipped') GROUP BY object_type, status
"""


def live_statement(now: str) -> str:
    """:param now: microseconds since 1970, in the database's words, or a place for them."""
    return _LIVE.format(now=now)


def longest_statement(now: str, limit: str) -> str:
    """:param limit: the place of the number of rows."""
    return _LONGEST.format(now=now, limit=limit)


def live_calls(rows: Iterable[Sequence[Any]]) -> tuple[LiveCalls, ...]:
    """:param rows: type, status, calls, microseconds since the oldest was accepted or due."""
    counts: dict[str, dict[str, int]] = {}
    ages: dict[tuple[str, str], float] = {}
    for type_name, status, calls, age in rows:
        counts.setdefault(type_name, {})[status] = int(calls)
        # Clocks go back, and a delayed call is mostly due later: no age is below zero.
        ages[type_name, status] = max(0.0, int(age) / 1_000_000)
    return tuple(
        LiveCalls(
            type_name,
            by_status.get("pending", 0),
            by_status.get("delayed", 0),
            by_status.get("parked", 0),
            ages.get((type_name, CallStatus.PENDING.value), 0.0),
            ages.get((type_name, CallStatus.DELAYED.value), 0.0),
        )
        for type_name, by_status in sorted(counts.items())
    )


def queued_calls(rows: Iterable[Sequence[Any]]) -> tuple[QueuedCalls, ...]:
    """:param rows: of `longest_statement`."""
    return tuple(
        QueuedCalls(ObjectId(type_name, id), int(calls), max(0.0, int(age) / 1_000_000))
        for type_name, id, calls, age in rows
    )


def finished_calls(rows: Iterable[Sequence[Any]]) -> tuple[FinishedCalls, ...]:
    """:param rows: of `FINISHED`."""
    counts: dict[str, dict[str, int]] = {}
    for type_name, status, calls in rows:
        counts.setdefault(type_name, {})[status] = int(calls)
    return tuple(
        FinishedCalls(
            type_name,
            by_status.get("success", 0),
            by_status.get("failed", 0),
            by_status.get("skipped", 0),
        )
        for type_name, by_status in sorted(counts.items())
    )
