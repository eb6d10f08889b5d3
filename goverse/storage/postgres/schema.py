"""The schema on PostgreSQL: migrating, and refusing what a node must not work with."""

from __future__ import annotations

import psycopg

from goverse.storage.api import SchemaStatus, StoreRefused
from goverse.storage.columns import NOW
from goverse.storage.migrations import Migration, migrations, require_current, status_of
from goverse.storage.postgres.connections import Connection
from goverse.storage.postgres.dialect import Dialect

_TABLE = """
CREATE TABLE IF NOT EXISTS goverse_migrations (
    number integer PRIMARY KEY,
    name text NOT NULL,
    digest text NOT NULL,
    applied_at bigint NOT NULL
)
"""

#: Another program that migrates at the same moment was there first.
_QUICKER = (
    psycopg.errors.UniqueViolation,
    psycopg.errors.DuplicateTable,
    psycopg.errors.DuplicateObject,
)


def known() -> tuple[Migration, ...]:
    return migrations(__package__)


async def status(connection: Connection) -> SchemaStatus:
    """Raises psycopg.Error, `StoreRefused`."""
    cursor = await connection.execute("SELECT to_regclass('goverse_migrations') IS NOT NULL")
    [there] = await cursor.fetchone() or (False,)
    applied: dict[int, str] = {}
    if there:
        cursor = await connection.execute("SELECT number, digest FROM goverse_migrations")
        applied = dict(await cursor.fetchall())
    return status_of(known(), applied)


async def migrate(connection: Connection, dialect: Dialect) -> tuple[str, ...]:
    """Apply what is missing; returns its names. Raises psycopg.Error, `StoreRefused`."""
    # Building an index takes longer than an operation may; whoever migrates waits.
    await connection.execute("SET statement_timeout = 0; SET lock_timeout = 0")
    try:
        done: list[str] = []
        while (missing := await _next(connection)) is not None:
            try:
                await _apply(connection, missing, dialect)
            except _QUICKER:
                if await _next(connection) == missing:
                    raise
            else:
                done.append(missing.full_name)
        return tuple(done)
    finally:
        if not connection.closed:
            await connection.execute("RESET statement_timeout; RESET lock_timeout")


async def _next(connection: Connection) -> Migration | None:
    """The first migration that is missing. Raises psycopg.Error, `StoreRefused`."""
    found = await status(connection)
    if found.version > found.known:
        require_current(found)
    return next((one for one in known() if one.full_name in found.pending), None)


async def _apply(connection: Connection, migration: Migration, dialect: Dialect) -> None:
    try:
        await connection.execute(_TABLE)
    except _QUICKER:
        pass  # whether it exists is not asked and answered in one
    async with connection.transaction():
        # First, so that two programs meet here: one waits for the other, and is refused.
        await connection.execute(
            f"INSERT INTO goverse_migrations VALUES (%s, %s, %s, {NOW})",
            (migration.number, migration.name, migration.digest),
        )
        await connection.execute(dialect.written(migration.text.encode()))


async def check(connection: Connection, dialect: Dialect) -> None:
    """Raises psycopg.Error, and `StoreRefused` with all that is wrong."""
    wrong = await faults(connection, dialect)
    if wrong:
        raise StoreRefused("; ".join(wrong))
    require_current(await status(connection))


async def faults(connection: Connection, dialect: Dialect) -> list[str]:
    """What is wrong with the server itself."""
    info = connection.info
    found = dialect.faults(info)
    if info.parameter_status("server_encoding") != "UTF8":
        encoding = info.parameter_status("server_encoding")
        found.append(f"the database is encoded in {encoding}: create it with ENCODING 'UTF8'")
    for name, value in dialect.not_durable:
        cursor = await connection.execute("SELECT current_setting(%s, true)", (name,))
        [setting] = await cursor.fetchone() or ("",)
        if setting == value:
            found.append(
                f"PostgreSQL runs with {name}={value}: a crash could lose what was confirmed"
            )
    return found
