"""Between values and columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from goverse.call import Codec
from goverse.ids import ObjectId
from goverse.storage.listing import CallPosition, FinishedCount, ListedCall
from goverse.storage.values import (
    CallStatus,
    CatchUp,
    DelayedCall,
    OutboxRow,
    Payload,
    ReliableCall,
    StoredCall,
    Timing,
)

#: Microseconds since 1970 by the server's clock, as it is now and not when a wait began.
NOW = "(extract(epoch FROM clock_timestamp()) * 1000000)::int8"

#: The same for all that one statement reads, so that an index can be searched by it.
STATEMENT_NOW = "(extract(epoch FROM statement_timestamp()) * 1000000)::int8"

#: What a `ReliableCall` becomes, in the ledger and in the outbox alike.
CALL_COLUMNS = (
    "call_id",
    "object_type",
    "object_id",
    "method",
    "arguments",
    "codec",
    "digest",
    "principal",
    "context",
    "parent",
    "expires_at",
)

#: What a `Timing` becomes; all NULL for a call that runs at once.
TIMING_COLUMNS = ("run_at", "every", "catch_up")

_CALL_ROW = (*CALL_COLUMNS, *TIMING_COLUMNS)

_LEDGER = (
    "slot",
    "seq",
    "status",
    "attempts",
    "result",
    "result_codec",
    "reason",
    "created_at",
    "finished_at",
)
_OUTBOX = ("sender_type", "sender_id", "slot", "position", "parked", "created_at")

#: A `ListedCall`; ``length`` of bytes is their number, also where nobody reads them.
_LISTED = (
    "call_id",
    "object_type",
    "object_id",
    "method",
    "slot",
    "{seq}",
    "{status}",
    "{attempts}",
    "{reason}",
    "principal",
    "parent",
    "length(arguments)",
    "{result}",
    "created_at",
    "expires_at",
    "{finished_at}",
    "run_at",
)

LISTED_CALL = ", ".join(_LISTED).format(
    seq="seq",
    status="status",
    attempts="attempts",
    reason="reason",
    result="coalesce(length(result), 0)",
    finished_at="finished_at",
)
LISTED_DELIVERY = ", ".join((*_LISTED, "sender_type", "sender_id")).format(
    seq="position",
    status="CASE parked WHEN '' THEN 'pending' ELSE 'parked' END",
    attempts="0",
    reason="parked",
    result="0",
    finished_at="NULL",
)

LEDGER_ROW = ", ".join((*_CALL_ROW, *_LEDGER))
OUTBOX_ROW = ", ".join((*_CALL_ROW, *_OUTBOX))
DELAYED_ROW = "call_id, slot, object_type, object_id, run_at, every, catch_up"


def integers(numbers: Iterable[int | None]) -> str:
    """An array in PostgreSQL's own words.

    psycopg would choose the array's type by the largest number, and a statement would be prepared
    anew for each mixture of types.
    """
    return "{" + ",".join("NULL" if n is None else str(int(n)) for n in numbers) + "}"


def micros(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1_000_000)


def seconds(micros: int | None) -> float | None:
    return None if micros is None else micros / 1_000_000


def call_values(call: ReliableCall) -> tuple[Any, ...]:
    """What `CALL_COLUMNS` are of one call, for a database that is given rows."""
    return (
        call.call_id,
        call.object.type,
        call.object.id,
        call.method,
        call.arguments.data,
        int(call.arguments.codec),
        call.digest,
        call.principal,
        call.context,
        call.parent,
        micros(call.expires_at),
    )


def timing_values(call: ReliableCall) -> tuple[Any, ...]:
    """What `TIMING_COLUMNS` are of one call."""
    timing = call.timing
    if timing is None:
        return (None, None, None)
    return micros(timing.run_at), micros(timing.every_s) or None, timing.catch_up.value


def _timing(run_at: int | None, every: int | None, catch_up: str | None) -> Timing | None:
    if run_at is None:
        return None
    return Timing(run_at / 1_000_000, (every or 0) / 1_000_000, CatchUp(catch_up))


def _call(row: Sequence[Any]) -> ReliableCall:
    call_id, type, id, method, arguments, codec, digest, principal, context, parent, expires = row[
        : len(CALL_COLUMNS)
    ]
    return ReliableCall(
        call_id,
        ObjectId(type, id),
        method,
        Payload(arguments, Codec(codec)),
        digest,
        principal,
        context,
        parent,
        seconds(expires),
        _timing(*row[len(CALL_COLUMNS) :]),
    )


def stored_call(row: Sequence[Any]) -> StoredCall:
    """A row of `LEDGER_ROW`."""
    width = len(_CALL_ROW)
    slot, seq, status, attempts, result, codec, reason, created, finished = row[width:]
    return StoredCall(
        _call(row[:width]),
        slot,
        seq,
        CallStatus(status),
        attempts,
        None if result is None else Payload(result, Codec(codec)),
        reason,
        created / 1_000_000,
        seconds(finished),
    )


def outbox_row(row: Sequence[Any]) -> OutboxRow:
    """A row of `OUTBOX_ROW`."""
    width = len(_CALL_ROW)
    type, id, slot, position, parked, created = row[width:]
    sender = ObjectId(type, id)
    return OutboxRow(_call(row[:width]), sender, slot, position, parked, created / 1_000_000)


def delayed_call(row: Sequence[Any]) -> DelayedCall:
    """A row of `DELAYED_ROW`."""
    call_id, slot, type, id, *timing = row
    found = _timing(*timing)
    assert found is not None
    return DelayedCall(call_id, slot, ObjectId(type, id), found)


def listed_call(row: Sequence[Any]) -> ListedCall:
    """A row of `LISTED_CALL` or `LISTED_DELIVERY`."""
    call_id, type, id, method, slot, seq, status, attempts, reason = row[:9]
    principal, parent, argument_bytes, result_bytes, created, expires, finished, run_at = row[9:17]
    return ListedCall(
        call_id,
        ObjectId(type, id),
        method,
        slot,
        seq,
        CallStatus(status),
        attempts,
        reason,
        principal,
        parent,
        argument_bytes,
        result_bytes,
        created / 1_000_000,
        seconds(expires),
        seconds(finished),
        seconds(run_at),
        ObjectId(*row[17:19]) if row[17:] else None,
    )


def finished_count(row: Sequence[Any], limit: int) -> FinishedCount:
    """:param row: calls, spared, oldest, newest, and the place of the last of both."""
    calls, spared, oldest, newest, last_at, last_id = row
    full = calls + spared == limit
    last = CallPosition(last_at, 0, last_id) if full else None
    return FinishedCount(calls, spared, seconds(oldest), seconds(newest), last)
