"""What the database holds, read beside the nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from goverse.objects.recording import error_of
from tests.robustness.model import FAILED, SUCCESS, Final, Row
from tests.support.databases import DatabaseServer

_ROWS = (
    "SELECT status, arguments, result, call_id, seq, object_type, object_id, method, parent"
    " FROM goverse_reliable_calls"
)


def under_way(server: DatabaseServer) -> tuple[int, int]:
    """Calls that are pending, and deliveries that are to be made."""
    [[pending, deliveries]] = server.query(
        "SELECT (SELECT count(*) FROM goverse_reliable_calls WHERE status = 'pending'),"
        " (SELECT count(*) FROM goverse_outbox WHERE parked = '')"
    )
    return pending, deliveries


def final(server: DatabaseServer, answered: Mapping[str, int]) -> Final:
    """Everything of the bank. :param answered: what the accounts themselves say."""
    rows = [_texts(row) for row in server.query(_ROWS)]
    objects = server.query("SELECT object_type, object_id, state FROM goverse_objects")
    [outbox] = server.query(
        "SELECT count(*), count(CASE WHEN parked <> '' THEN 1 END) FROM goverse_outbox"
    )
    states = {(_text(type), _text(id)): _fields(state) for type, id, state in objects}
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


def _texts(row: Sequence[Any]) -> tuple[Any, ...]:
    """A row of `_ROWS`; some databases know texts as bytes."""
    status, arguments, result, *rest = row
    return (_text(status), arguments, result, *(_text(value) for value in rest))


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


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
