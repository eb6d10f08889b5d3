"""The statements of lists and of cleanup, for PostgreSQL and SQLite alike.

Each page reads as many rows as it may have and no more: it begins where an index says, and goes
along it. The statuses of live calls are written out, as the indexes have them.
"""

from __future__ import annotations

from typing import Any

from goverse.storage.columns import LISTED_CALL, LISTED_DELIVERY, micros
from goverse.storage.listing import CallPosition
from goverse.storage.values import CallStatus

_PENDING = f"""
SELECT {LISTED_CALL} FROM goverse_reliable_calls
WHERE status = 'pending' AND (slot, seq) > (%s, %s) ORDER BY slot, seq LIMIT %s
"""
_HELD = f"""
SELECT {LISTED_CALL} FROM goverse_reliable_calls
WHERE status IN ('delayed', 'parked') AND status = '{{status}}'
  AND (slot, call_id) > (%s, %s) ORDER BY slot, call_id LIMIT %s
"""
# The first comparison of the moment is for the index, which does not have the call id; the few
# calls that finished at one moment are sorted.
_FINISHED_BEHIND = "status = %s AND finished_at >= %s AND (finished_at, call_id) > (%s, %s)"
_FINISHED = f"""
SELECT {LISTED_CALL} FROM goverse_reliable_calls
WHERE {_FINISHED_BEHIND} ORDER BY finished_at, call_id LIMIT %s
"""
_DELIVERIES = f"""
SELECT {LISTED_DELIVERY} FROM goverse_outbox
WHERE {{parked}} AND (slot, position) > (%s, %s) ORDER BY slot, position LIMIT %s
"""

#: Gives a row of `columns.finished_count`.
COUNT_FINISHED = f"""
WITH page AS (
    SELECT finished_at, call_id,
        EXISTS (SELECT 1 FROM goverse_outbox o WHERE o.call_id = c.call_id) AS spared
    FROM goverse_reliable_calls c
    WHERE {_FINISHED_BEHIND} AND finished_at < %s
    ORDER BY finished_at, call_id LIMIT %s
), last AS (
    SELECT finished_at, call_id FROM page ORDER BY finished_at DESC, call_id DESC LIMIT 1
)
SELECT
    count(CASE WHEN NOT spared THEN 1 END), count(CASE WHEN spared THEN 1 END),
    min(CASE WHEN NOT spared THEN finished_at END), max(CASE WHEN NOT spared THEN finished_at END),
    (SELECT finished_at FROM last), (SELECT call_id FROM last)
FROM page
"""

#: What a call must be to be deleted; the call is ``c``.
DELETABLE = """
finished_at < %s AND NOT EXISTS (SELECT 1 FROM goverse_outbox o WHERE o.call_id = c.call_id)
"""


def calls_page(status: CallStatus, after: CallPosition, limit: int) -> tuple[str, tuple[Any, ...]]:
    """A statement that gives rows of `columns.listed_call`, and its values."""
    if status.finished:
        return _FINISHED, (*_behind(status, after), limit)
    if status is CallStatus.PENDING:
        return _PENDING, (after.number, after.seq, limit)
    return _HELD.format(status=status.value), (after.number, after.call_id, limit)


def outbox_page(parked: bool, after: CallPosition, limit: int) -> tuple[str, tuple[Any, ...]]:
    which = "parked <> ''" if parked else "parked = ''"
    return _DELIVERIES.format(parked=which), (after.number, after.seq, limit)


def count_values(
    status: CallStatus, before: float, after: CallPosition, limit: int
) -> tuple[Any, ...]:
    """Of `COUNT_FINISHED`."""
    return (*_behind(status, after), micros(before), limit)


def _behind(status: CallStatus, after: CallPosition) -> tuple[Any, ...]:
    return status.value, after.number, after.number, after.call_id
