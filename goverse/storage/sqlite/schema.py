"""The schema on SQLite."""

from __future__ import annotations

import sqlite3

from goverse.storage.api import SchemaStatus, StoreRefused
from goverse.storage.migrations import Migration, migrations, require_current, status_of

#: Upserts need 3.24; nothing newer is used.
OLDEST = (3, 24)

_TABLE = """
CREATE TABLE IF NOT EXISTS goverse_migrations (
    number INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    digest TEXT NOT NULL,
    applied_at INTEGER NOT NULL
)
"""
_FULL = 2


def known() -> tuple[Migration, ...]:
    return migrations(__package__)


def status(connection: sqlite3.Connection) -> SchemaStatus:
    there = connection.execute(
        "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'goverse_migrations'"
    ).fetchone()[0]
    applied: dict[int, str] = {}
    if there:
        rows = connection.execute("SELECT number, digest FROM goverse_migrations")
        applied = dict(rows.fetchall())
    return status_of(known(), applied)


def migrate(connection: sqlite3.Connection, now: int) -> tuple[str, ...]:
    """Apply what is missing, within the caller's transaction, which shuts out everybody else."""
    found = status(connection)
    if found.version > found.known:
        require_current(found)
    connection.execute(_TABLE)
    for migration in known():
        if migration.full_name in found.pending:
            for statement in migration.text.split(";\n"):
                connection.execute(statement)
            connection.execute(
                "INSERT INTO goverse_migrations VALUES (?, ?, ?, ?)",
                (migration.number, migration.name, migration.digest, now),
            )
    return found.pending


def check(connection: sqlite3.Connection) -> None:
    """Raises `StoreRefused`."""
    if sqlite3.sqlite_version_info < OLDEST:
        raise StoreRefused(f"SQLite {sqlite3.sqlite_version} is too old: 3.24 or newer is needed")
    mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
    if mode != "wal":
        raise StoreRefused(
            f"the SQLite file is in journal mode {mode} and cannot be switched to WAL; "
            "put it on a local disk"
        )
    if connection.execute("PRAGMA synchronous").fetchone()[0] < _FULL:
        raise StoreRefused("SQLite runs below synchronous=FULL: a crash could lose commits")
    require_current(status(connection))
