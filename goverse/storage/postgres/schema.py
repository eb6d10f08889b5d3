"""The schema on PostgreSQL: migrating, and refusing what a node must not work with."""

from __future__ import annotations

from goverse.storage.api import SchemaStatus, StoreRefused
from goverse.storage.columns import NOW
from goverse.storage.migrations import Migration, migrations, require_current, status_of
from goverse.storage.postgres.connections import Connection

#: What two migrating programs agree on: "goverse" in hexadecimal.
_ADVISORY_LOCK = 0x676F7665727365

OLDEST = 150_000

_TABLE = """
CREATE TABLE IF NOT EXISTS goverse_migrations (
    number integer PRIMARY KEY,
    name text NOT NULL,
    digest text NOT NULL,
    applied_at bigint NOT NULL
)
"""

#: Settings under which a confirmed commit can be gone after a crash.
_NOT_DURABLE = (("fsync", "off"), ("synchronous_commit", "off"), ("full_page_writes", "off"))


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


async def migrate(connection: Connection) -> tuple[str, ...]:
    """Apply what is missing; returns its names. Raises psycopg.Error, `StoreRefused`."""
    # Building an index takes longer than an operation may; whoever migrates waits.
    await connection.execute("SET statement_timeout = 0; SET lock_timeout = 0")
    await connection.execute("SELECT pg_advisory_lock(%s)", (_ADVISORY_LOCK,))
    try:
        found = await status(connection)
        if found.version > found.known:
            require_current(found)
        done = []
        await connection.execute(_TABLE)
        for migration in known():
            name = f"{migration.number:04d}_{migration.name}"
            if name not in found.pending:
                continue
            async with connection.transaction():
                await connection.execute(migration.text.encode())
                await connection.execute(
                    f"INSERT INTO goverse_migrations VALUES (%s, %s, %s, {NOW})",
                    (migration.number, migration.name, migration.digest),
                )
            done.append(name)
        return tuple(done)
    finally:
        if not connection.closed:
            await connection.execute("SELECT pg_advisory_unlock(%s)", (_ADVISORY_LOCK,))
            await connection.execute("RESET statement_timeout; RESET lock_timeout")


async def check(connection: Connection) -> None:
    """Raises psycopg.Error, and `StoreRefused` with all that is wrong."""
    wrong = await faults(connection)
    if wrong:
        raise StoreRefused("; ".join(wrong))
    require_current(await status(connection))


async def faults(connection: Connection) -> list[str]:
    """What is wrong with the server itself."""
    found = []
    info = connection.info
    if info.server_version < OLDEST:
        found.append(f"PostgreSQL {info.server_version // 10_000} is too old: use 15 or newer")
    if info.parameter_status("server_encoding") != "UTF8":
        encoding = info.parameter_status("server_encoding")
        found.append(f"the database is encoded in {encoding}: create it with ENCODING 'UTF8'")
    for name, value in _NOT_DURABLE:
        cursor = await connection.execute("SELECT current_setting(%s)", (name,))
        [setting] = await cursor.fetchone() or ("",)
        if setting == value:
            found.append(
                f"PostgreSQL runs with {name}={value}: a crash could lose what was confirmed"
            )
    return found
