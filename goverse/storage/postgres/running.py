"""One statement on one connection, with a limit that the network cannot stretch."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from goverse.storage.postgres.connections import Connection, abort

#: The server ends a statement by itself at its own limit; only its silence lasts longer.
GRACE_S = 0.5


async def run(
    connection: Connection, statement: str, values: Sequence[Any], limit_s: float
) -> list[tuple[Any, ...]]:
    """The rows of ``statement``. Raises psycopg.Error; the connection is then perhaps closed.

    A cancelled wait breaks the connection, as its answer would be taken for the next one's.
    """
    executing = asyncio.ensure_future(_execute(connection, statement, values))
    try:
        done, _ = await asyncio.wait([executing], timeout=limit_s + GRACE_S)
    except asyncio.CancelledError:
        abort(connection)
        await asyncio.wait([executing])
        if not executing.cancelled():
            executing.exception()  # nobody is told
        await connection.close()
        raise
    if not done:
        abort(connection)
    return await executing


async def _execute(
    connection: Connection, statement: str, values: Sequence[Any]
) -> list[tuple[Any, ...]]:
    cursor = await connection.execute(statement, values, prepare=True, binary=True)
    rows: list[tuple[Any, ...]] = await cursor.fetchall() if cursor.description else []
    return rows
