"""Connections to MariaDB, and what each session is told before it is used."""

from __future__ import annotations

import math
from typing import Any

import asyncmy
from asyncmy.errors import MySQLError

from goverse.aio.runtime import Runtime
from goverse.config.settings import StorageSettings
from goverse.storage.mysql.address import Address, address
from goverse.storage.mysql.failures import words
from goverse.storage.mysql.session import Answer, Session
from goverse.storage.pool import ConnectError, Pool

# The statements are written for READ COMMITTED, and for what is refused rather than cut to fit.
_SESSION = (
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    "SET SESSION autocommit = 1, time_zone = '+00:00', "
    "sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION,ERROR_FOR_DIVISION_BY_ZERO', "
    "innodb_lock_wait_timeout = {seconds}, lock_wait_timeout = {seconds}, "
    "net_read_timeout = {seconds}, net_write_timeout = {seconds}, "
    "auto_increment_increment = 1, auto_increment_offset = 1",
)
# Of a list of 1,000 values it would make a join, and lock rows in another order.
_MARIADB = (
    "SET SESSION max_statement_time = {limit}, idle_transaction_timeout = {seconds}, "
    "in_predicate_conversion_threshold = 0"
)
_FOUND = "SELECT @@global.read_only, @@max_allowed_packet, @@{isolation}"


class Connections(Pool[Session]):
    """See `Pool`. Raises ValueError for a URL that names no server."""

    def __init__(self, settings: StorageSettings, runtime: Runtime, size: int) -> None:
        super().__init__(settings, runtime, size, database="MariaDB")
        self._parameters = _parameters(address(settings.url), settings)
        self._limit_s = settings.operation_timeout_s

    async def _open(self) -> Session:
        try:
            session = Session(await asyncmy.connect(**self._parameters))
            try:
                await self._prepare(session)
            except BaseException:
                session.abort()
                raise
        except MySQLError as error:
            raise ConnectError(words(error)) from None
        return session

    async def _prepare(self, session: Session) -> None:
        is_mariadb = "mariadb" in session.version.lower()
        isolation = "tx_isolation" if is_mariadb else "transaction_isolation"
        script = [*_SESSION, *([_MARIADB] if is_mariadb else []), _FOUND]
        seconds = max(1, math.ceil(self._limit_s))
        answers: list[Answer] = []
        await session.script(
            [
                part.format(limit=self._limit_s, seconds=seconds, isolation=isolation)
                for part in script
            ],
            answers,
        )
        [[read_only, max_packet, level]] = answers[-1].rows
        if level != "READ-COMMITTED":
            raise ConnectError(
                f"its sessions stay at the isolation level {level}, and READ COMMITTED is needed: "
                "something between here and the server decides it"
            )
        if read_only:
            raise ConnectError("this server is read-only: storage.url must name the primary")
        session.max_packet = int(max_packet)

    def _is_open(self, connection: Session) -> bool:
        return not connection.closed and connection.silent

    def _fileno(self, connection: Session) -> int:
        return connection.fileno()

    async def _discard(self, connection: Session) -> None:
        connection.close()

    def _abort(self, connection: Session) -> None:
        connection.abort()


class _Refusing:
    """Answers a server that wants the password itself, over a way that others may read."""

    def __init__(self, connection: Any) -> None:
        pass

    def authenticate(self, packet: Any) -> None:
        raise MySQLError(0, "the server asks for the password in plain text: set sslmode")


def _parameters(where: Address, settings: StorageSettings) -> dict[str, Any]:
    parameters = {
        **where.parameters,
        # Bytes: asyncmy would encode a str in Latin-1.
        "password": settings.password.encode(),
        "charset": "utf8mb4",
        "autocommit": None,
        "connect_timeout": max(1.0, settings.connect_timeout_s),
        "program_name": "goverse",
    }
    if where.tls is None and not where.socket:
        plain = (b"mysql_clear_password", b"mysql_old_password", b"dialog")
        parameters["auth_plugin_map"] = dict.fromkeys(plain, _Refusing)
    return parameters
