"""What the database holds, read beside the nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from goverse.objects.recording import error_of
from tests.robustness.model import FAILED, SUCCESS, Final, Row
from tests.support.postgres import PostgresServer

_ROWS = (
    "SELECT status, arguments, result, call_id, seq, object_type, object_id, method, parent"
    " FROM goverse_reliable_calls"
)


def under_way(postgres: PostgresServer) -> tuple[int, int]:
    """Calls that are pending, and deliveries that are to be made."""
    with postgres.connect() as session:
        row = session.execute(
            "SELECT (SELECT count(*) FROM goverse_reliable_calls WHERE status = 'pending'),"
            " (SELECT count(*) FROM goverse_outbox WHERE parked = '')"
        ).fetchone()
    assert row is not None
    return row[0], row[1]


def final(postgres: PostgresServer, answered: Mapping[str, int]) -> Final:
    """Everything of the bank. :param answered: what the accounts themselves say."""
    with postgres.connect() as session:
        rows = session.execute(_ROWS).fetchall()
        objects = session.execute(
            "SELECT object_type, object_id, state FROM goverse_objects"
        ).fetchall()
        outbox = session.execute(
            "SELECT count(*), count(*) FILTER (WHERE parked <> '') FROM goverse_outbox"
        ).fetchone()
    assert outbox is not None
    states = {(type, id): _fields(state) for type, id, state in objects}
    auditor = states["Auditor", "main"]
    return Final(
        rows=tuple(_row(*row) for row in rows),
        balances={id: s["balance"] for (type, id), s in states.items() if type == "Account"},
        answered=answered,
        paid_in=auditor["paid_in"],
        expected=auditor["expected"],
        outbox=outbox[0],
        parked=outbox[1] + sum(1 for row in rows if row[0] == "parked"),
    )


def _fields(state: bytes) -> dict[str, Any]:
    """A stored state: the names of its fields, then their values."""
    names, values = msgspec.msgpack.decode(state)
    return dict(zip(names, values, strict=True))


def _row(status: str, arguments: bytes, result: bytes | None, *rest: Any) -> Row:
    value: Any = None
    if status == SUCCESS and result is not None:
        value = msgspec.msgpack.decode(result)
    elif status == FAILED:
        error = error_of(result or b"")
        value = (error.code, error.details)
    call_id, seq, type, id, method, parent = rest
    told = msgspec.msgpack.decode(arguments)
    return Row(call_id, seq, status, type, id, method, told, value, parent)
