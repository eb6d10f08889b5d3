"""The schema on MariaDB: migrating, and refusing what a node must not work with."""

from __future__ import annotations

import re

from asyncmy.errors import MySQLError

from goverse.config.settings import LimitSettings
from goverse.storage.api import SchemaStatus, StoreRefused
from goverse.storage.migrations import Migration, migrations, require_current, status_of
from goverse.storage.mysql import sql
from goverse.storage.mysql.failures import number
from goverse.storage.mysql.running import run
from goverse.storage.mysql.session import Session

OLDEST = (10, 11)

#: A value travels in hexadecimal, twice its size, and the largest that nodes take by default must
#: fit into one packet. Batches are spread over packets; only a single value cannot be.
LEAST_PACKET = 2 * LimitSettings().max_payload_bytes + 1024 * 1024

# One name for all databases of a server would make their migrations wait for each other.
_LOCK = "CONCAT('goverse-', SHA1(DATABASE()))"
_LOCK_WAIT_S = 3600

_TABLE = """
CREATE TABLE IF NOT EXISTS goverse_migrations (
    number int PRIMARY KEY,
    name varbinary(255) NOT NULL,
    digest varbinary(64) NOT NULL,
    applied_at bigint NOT NULL
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC
"""

_PROCESS_NEEDED = 1227


def known() -> tuple[Migration, ...]:
    return migrations(__package__)


def statements(migration: Migration) -> list[str]:
    return [part for part in migration.text.split(";\n") if part.strip()]


async def status(session: Session, limit_s: float | None) -> SchemaStatus:
    """Raises MySQLError, `StoreRefused`."""
    [there] = await run(
        session,
        [
            "SELECT count(*) FROM information_schema.tables "
            "WHERE table_schema = DATABASE() AND table_name = 'goverse_migrations'"
        ],
        limit_s,
    )
    applied: dict[int, str] = {}
    if there.rows[0][0]:
        [found] = await run(session, ["SELECT number, digest FROM goverse_migrations"], limit_s)
        applied = {number: digest.decode() for number, digest in found.rows}
    return status_of(known(), applied)


async def migrate(session: Session) -> tuple[str, ...]:
    """Apply what is missing; returns its names. Raises MySQLError, `StoreRefused`.

    Every definition commits by itself, so that an interrupted migration is carried out again from
    its beginning; its statements are written for that. The session is closed in the end, and with
    it goes what it was told, and the lock.
    """
    try:
        # Building an index takes longer than an operation may; whoever migrates waits.
        await run(
            session,
            [
                "SET SESSION max_statement_time = 0, innodb_lock_wait_timeout = 3600, "
                "lock_wait_timeout = 3600"
            ],
            None,
        )
        [locked] = await run(session, [f"SELECT GET_LOCK({_LOCK}, {_LOCK_WAIT_S})"], None)
        if locked.rows[0][0] != 1:
            raise StoreRefused("another program has been migrating this store for an hour")
        found = await status(session, None)
        if found.version > found.known:
            require_current(found)
        await run(session, [_TABLE], None)
        done = []
        for migration in known():
            name = f"{migration.number:04d}_{migration.name}"
            if name not in found.pending:
                continue
            for statement in statements(migration):
                await run(session, [statement], None)
            applied = (
                f"{migration.number}, {sql.text(migration.name)}, {sql.text(migration.digest)}"
            )
            await run(
                session, [f"INSERT INTO goverse_migrations VALUES ({applied}, {sql.NOW})"], None
            )
            done.append(name)
        return tuple(done)
    finally:
        session.close()


async def check(session: Session, limit_s: float) -> None:
    """Raises MySQLError, and `StoreRefused` with all that is wrong."""
    wrong = await _server_faults(session, limit_s)
    wrong += await _rights_faults(session, limit_s)
    if wrong:
        raise StoreRefused("; ".join(wrong))
    require_current(await status(session, limit_s))
    [foreign] = await run(
        session,
        [
            "SELECT CONCAT(table_name, ' (', engine, ')') FROM information_schema.tables "
            "WHERE table_schema = DATABASE() AND table_name LIKE 'goverse\\_%' "
            "AND engine <> 'InnoDB'"
        ],
        limit_s,
    )
    if foreign.rows:
        names = ", ".join(str(name) for [name] in foreign.rows)
        raise StoreRefused(f"only InnoDB locks rows and survives a crash; it is not under: {names}")


async def _server_faults(session: Session, limit_s: float) -> list[str]:
    version, variables = await run(session, ["SELECT version()", "SHOW GLOBAL VARIABLES"], limit_s)
    return faults(
        str(version.rows[0][0]), {str(name): str(value) for name, value in variables.rows}
    )


async def _rights_faults(session: Session, limit_s: float) -> list[str]:
    try:
        await run(session, ["SELECT count(*) FROM information_schema.innodb_trx"], limit_s)
    except MySQLError as error:
        if number(error) != _PROCESS_NEEDED:
            raise
        return [
            "the user may not see who holds a lock, and so cannot end what a former owner left "
            "behind: GRANT PROCESS ON *.* TO this user"
        ]
    return []


def faults(version: str, variables: dict[str, str]) -> list[str]:
    """What is wrong with the server itself.

    :param version: as it says itself. :param variables: its global ones.
    """
    found = []
    numbers = re.match(r"(?:5\.5\.5-)?(\d+)\.(\d+)", version)
    if "mariadb" not in version.lower():
        found.append(
            f"this is MySQL {version}, on which this store was never tried: use MariaDB 10.11 or "
            "newer"
        )
    elif numbers is None or (int(numbers[1]), int(numbers[2])) < OLDEST:
        found.append(f"MariaDB {version} is too old: use 10.11 or newer")

    def off(name: str) -> bool:
        return variables.get(name, "").upper() in ("OFF", "0", "NONE", "")

    def loses(name: str) -> str:
        value = variables.get(name, "")
        return f"MariaDB runs with {name}={value}: a crash could lose what was confirmed"

    if variables.get("innodb_flush_log_at_trx_commit") != "1":
        found.append(loses("innodb_flush_log_at_trx_commit"))
    if off("innodb_doublewrite"):
        found.append(loses("innodb_doublewrite"))
    if variables.get("innodb_flush_method", "").lower() in ("nosync", "littlesync"):
        found.append(loses("innodb_flush_method"))
    if not off("log_bin"):
        if variables.get("sync_binlog") != "1":
            found.append(loses("sync_binlog"))
        if variables.get("binlog_format", "").upper() == "STATEMENT":
            found.append(
                "binlog_format=STATEMENT cannot log what runs under READ COMMITTED: set it to ROW "
                "or MIXED"
            )
    if not off("wsrep_on") or not off("wsrep_provider"):
        found.append(
            "this server is a member of a Galera cluster (wsrep_on, wsrep_provider): a lock that "
            "reads is known to one member only, and so shuts nobody out; use a server with one "
            "primary"
        )
    if off("group_replication_single_primary_mode") and (
        "group_replication_single_primary_mode" in variables
    ):
        found.append(
            "group replication has several primaries: a lock that reads is known to one member "
            "only, and so shuts nobody out; use one primary"
        )
    if not off("read_only"):
        found.append("this server is read-only: storage.url must name the primary")
    packet = int(variables.get("max_allowed_packet", "0"))
    if packet < LEAST_PACKET:
        found.append(
            f"max_allowed_packet={packet} is too small: a value travels at twice its size, so "
            f"{LEAST_PACKET} bytes are needed for limits.max_payload as it is by default; set "
            "256M or 1G"
        )
    return found
