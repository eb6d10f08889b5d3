"""Statements that only read: the ledger and the outbox, live work, lists and counts.

Rows are known by their ids first, from an index alone; arguments and results are read for those
that are wanted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from goverse.storage import stats
from goverse.storage.columns import (
    DELAYED_ROW,
    LEDGER_ROW,
    LISTED_CALL,
    LISTED_DELIVERY,
    OUTBOX_ROW,
)
from goverse.storage.listing import CallPosition
from goverse.storage.mysql import locks, sql
from goverse.storage.values import CallStatus

_LISTED = "goverse_reliable_calls c FORCE INDEX (goverse_reliable_calls_listed)"
_DUE = "goverse_reliable_calls c FORCE INDEX (goverse_reliable_calls_due)"
_OUTBOX = "goverse_outbox c FORCE INDEX (goverse_outbox_live)"

LIVE_CALLS = stats.live_statement(sql.NOW)
FINISHED_CALLS = stats.FINISHED

CENSUS = """
SELECT
    (SELECT count(*) FROM goverse_reliable_calls WHERE status = 'pending'),
    (SELECT count(*) FROM goverse_reliable_calls WHERE status = 'delayed'),
    (SELECT count(*) FROM goverse_reliable_calls WHERE status = 'parked'),
    (SELECT count(*) FROM goverse_outbox WHERE parked = ''),
    (SELECT count(*) FROM goverse_outbox WHERE parked <> '')
"""

LEDGER_SIZE = (
    "SELECT data_length, index_length FROM information_schema.tables "
    "WHERE table_schema = DATABASE() AND table_name = 'goverse_reliable_calls'"
)


def longest_queues(limit: int) -> str:
    return stats.longest_statement(sql.NOW, str(limit))


# ---- live work


def get_calls(call_ids: Iterable[str]) -> str:
    return (
        f"SELECT {LEDGER_ROW} FROM goverse_reliable_calls FORCE INDEX (PRIMARY) "
        f"WHERE call_id IN {sql.texts(call_ids)}"
    )


def deliveries(call_ids: Iterable[str]) -> str:
    return (
        f"SELECT {LISTED_DELIVERY} FROM goverse_outbox FORCE INDEX (PRIMARY) "
        f"WHERE call_id IN {sql.texts(call_ids)}"
    )


def pending_calls(slots: Iterable[int], after: int, limit: int) -> str:
    return _calls(
        f"SELECT c.call_id, c.turn AS rank FROM {_LISTED} WHERE c.status = 'pending' "
        f"AND c.place {_among(slots)} AND c.turn > {after} ORDER BY c.turn LIMIT {limit}"
    )


def parked_calls(slots: Iterable[int], after: str, limit: int) -> str:
    return _calls(
        f"SELECT c.call_id, c.call_id AS rank FROM {_LISTED} WHERE c.status = 'parked' "
        f"AND c.place {_among(slots)} AND c.turn = 0 AND c.call_id > {sql.text(after)} "
        f"ORDER BY c.call_id LIMIT {limit}"
    )


def _calls(wanted: str) -> str:
    return (
        f"SELECT {_qualified(LEDGER_ROW)} FROM ({wanted}) w "
        "JOIN goverse_reliable_calls c ON c.call_id = w.call_id ORDER BY w.rank"
    )


def delayed_calls(
    slots: Iterable[int], within: int, after: tuple[int, str], limit: int
) -> list[str]:
    """The clock, then rows of `columns.DELAYED_ROW`. What others own is passed over in the index.

    :param within, after: in microseconds.
    """
    moment, call_id = after
    return [
        f"SELECT {sql.NOW}",
        f"SELECT {_qualified(DELAYED_ROW)} FROM (SELECT c.call_id, c.due FROM {_DUE} "
        f"WHERE (c.due > {moment} OR c.due = {moment} AND c.call_id > {sql.text(call_id)}) "
        f"AND c.due <= {sql.NOW} + {within} AND c.slot + 0 {_among(slots)} "
        f"ORDER BY c.due, c.call_id LIMIT {limit}) w "
        "JOIN goverse_reliable_calls c ON c.call_id = w.call_id ORDER BY w.due, w.call_id",
    ]


def outbox(slots: Iterable[int], after: int, limit: int, *, parked: bool) -> str:
    return (
        f"SELECT {OUTBOX_ROW} FROM {_OUTBOX} WHERE slot {_among(slots)} AND position > {after} "
        f"AND parked {'<>' if parked else '='} '' ORDER BY position LIMIT {limit}"
    )


def _among(slots: Iterable[int]) -> str:
    """A range for each of some slots. Whoever has thousands has most of what there is."""
    wanted = sorted(set(slots))
    if not wanted:
        return "IN (-1)"
    if len(wanted) <= locks.LISTED:
        return f"IN {sql.numbers(wanted)}"
    table = f"JSON_TABLE('{json.dumps(wanted)}', '$[*]' COLUMNS (slot int PATH '$')) s"
    return f"IN (SELECT s.slot FROM {table})"


# ---- lists and counts


def calls_page(status: CallStatus, after: CallPosition, limit: int) -> str:
    """Gives rows of `columns.listed_call`."""
    return (
        f"SELECT {LISTED_CALL} FROM {_LISTED} WHERE {_behind(status, after)} "
        f"ORDER BY place, turn, call_id LIMIT {limit}"
    )


def outbox_page(parked: bool, after: CallPosition, limit: int) -> str:
    slot, position = after.number, after.seq
    return (
        f"SELECT {LISTED_DELIVERY} FROM {_OUTBOX} "
        f"WHERE (slot > {slot} OR slot = {slot} AND position > {position}) "
        f"AND parked {'<>' if parked else '='} '' ORDER BY slot, position LIMIT {limit}"
    )


def count_finished(status: CallStatus, before: int, after: CallPosition, limit: int) -> str:
    """Gives a row of `columns.finished_count`."""
    return f"""
WITH page AS (
    SELECT place AS ended, call_id,
        EXISTS (SELECT 1 FROM goverse_outbox o WHERE o.call_id = c.call_id) AS spared
    FROM {_LISTED} WHERE {_behind(status, after)} AND place < {before}
    ORDER BY place, turn, call_id LIMIT {limit}
), last AS (
    SELECT ended, call_id FROM page ORDER BY ended DESC, call_id DESC LIMIT 1
)
SELECT
    count(CASE WHEN NOT spared THEN 1 END), count(CASE WHEN spared THEN 1 END),
    min(CASE WHEN NOT spared THEN ended END), max(CASE WHEN NOT spared THEN ended END),
    (SELECT ended FROM last), (SELECT call_id FROM last)
FROM page
"""


def _behind(status: CallStatus, after: CallPosition) -> str:
    """Ranges of the index; the server makes none of a comparison of rows."""
    place = after.number
    within = f"call_id > {sql.text(after.call_id)}"
    if status is CallStatus.PENDING:
        within = f"turn > {after.seq}"
    return f"status = '{status.value}' AND (place > {place} OR place = {place} AND {within})"


# ---- rows

_TEXTS = frozenset(
    (
        *("call_id", "object_type", "object_id", "method", "principal", "parent", "status"),
        *("reason", "catch_up", "sender_type", "sender_id", "parked"),
    )
)


def _qualified(columns: str) -> str:
    return ", ".join(f"c.{column}" for column in columns.split(", "))


_LEDGER_TEXTS = [column in _TEXTS for column in LEDGER_ROW.split(", ")]
_OUTBOX_TEXTS = [column in _TEXTS for column in OUTBOX_ROW.split(", ")]


def ledger_row(row: Sequence[Any]) -> list[Any]:
    """``row`` with texts where texts are meant: the server knows bytes alone."""
    return [_text(v) if text else v for v, text in zip(row, _LEDGER_TEXTS, strict=True)]


def outbox_row(row: Sequence[Any]) -> list[Any]:
    return [_text(v) if text else v for v, text in zip(row, _OUTBOX_TEXTS, strict=True)]


def all_texts(rows: Iterable[Sequence[Any]]) -> list[list[Any]]:
    """``rows`` in which all bytes are texts."""
    return [[_text(value) for value in row] for row in rows]


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value
