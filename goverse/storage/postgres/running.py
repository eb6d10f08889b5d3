"""One statement on one connection, with a limit that the network cannot stretch."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from psycopg import AsyncRawCursor

from goverse.storage.postgres.arrays import Array
from goverse.storage.postgres.connections import Connection, abort

T = TypeVar("T")

#: The server ends a statement by itself at its own limit; only its silence lasts longer.
GRACE_S = 0.5


async def run(
    connection: Connection,
    statement: str,
    values: Sequence[Any],
    limit_s: float,
    prepare: bool = True,
) -> list[tuple[Any, ...]]:
    """The rows of ``statement``. Raises psycopg.Error; the connection is then perhaps closed."""
    return await bounded(connection, _execute(connection, statement, values, prepare), limit_s)


async def run_batch(
    connection: Connection, statement: bytes, columns: Sequence[Array], limit_s: float
) -> list[tuple[Any, ...]]:
    """`run` for a statement with numbered parameters, each of them a column.

    To be awaited by a task that nobody cancels as long as the socket stands: it has none of its
    own, as two tasks and a timer cost as much as the journey to the database and back.
    """
    timer = asyncio.get_running_loop().call_later(limit_s + GRACE_S, abort, connection)
    try:
        cursor = AsyncRawCursor(connection)
        await cursor.execute(statement, columns, prepare=True, binary=True)
        return await cursor.fetchall()
    except asyncio.CancelledError:
        abort(connection)
        await connection.close()
        raise
    finally:
        timer.cancel()


async def bounded(connection: Connection, work: Coroutine[Any, Any, T], limit_s: float | None) -> T:
    """The result of ``work``, which uses ``connection``; past the limit that breaks under it.

    A cancelled wait breaks the connection too, as its answer would be taken for the next one's.
    """
    working = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait(
            [working], timeout=None if limit_s is None else limit_s + GRACE_S
        )
    except asyncio.CancelledError:
        abort(connection)
        await asyncio.wait([working])
        if not working.cancelled():
            working.exception()  # nobody is told
        await connection.close()
        raise
    if not done:
        abort(connection)
    return await working


async def _execute(
    connection: Connection, statement: str, values: Sequence[Any], prepare: bool
) -> list[tuple[Any, ...]]:
    cursor = await connection.execute(statement, values, prepare=prepare, binary=True)
    rows: list[tuple[Any, ...]] = await cursor.fetchall() if cursor.description else []
    return rows
