"""Connections to PostgreSQL."""

from __future__ import annotations

import os
import socket
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from goverse.aio.runtime import Runtime
from goverse.config.settings import StorageSettings
from goverse.storage.pool import ConnectError, Pool
from goverse.storage.postgres.arrays import register
from goverse.storage.postgres.dialect import Dialect
from goverse.storage.postgres.failures import words

Connection = psycopg.AsyncConnection[tuple[Any, ...]]


class Connections(Pool[Connection]):
    """See `Pool`.

    :param name: what its sessions call themselves.
    :param lock_timeout_s: how long a statement may wait for one lock; None: as long as it may run.
    """

    def __init__(
        self,
        settings: StorageSettings,
        dialect: Dialect,
        runtime: Runtime,
        size: int,
        *,
        name: str = "goverse",
        lock_timeout_s: float | None = None,
    ) -> None:
        super().__init__(settings, runtime, size, database="PostgreSQL")
        self._parameters = _parameters(settings, dialect, lock_timeout_s) | {
            "application_name": name
        }

    async def _open(self) -> Connection:
        try:
            connection = await psycopg.AsyncConnection.connect(**self._parameters, autocommit=True)
        except psycopg.Error as error:
            raise ConnectError(words(error)) from None
        register(connection)
        return connection

    def _is_open(self, connection: Connection) -> bool:
        return not connection.closed

    def _fileno(self, connection: Connection) -> int:
        return connection.fileno()

    async def _discard(self, connection: Connection) -> None:
        await connection.close()

    def _abort(self, connection: Connection) -> None:
        abort(connection)


def abort(connection: Connection) -> None:
    """Shut the socket under a connection, so that whoever waits on it is woken with an error.

    Cancelling the waiter instead would make psycopg ask the server to cancel and wait for that,
    for ever if the network is gone.
    """
    if connection.closed:
        return
    with socket.socket(fileno=os.dup(connection.fileno())) as twin:
        try:
            twin.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it is gone already


def _parameters(
    settings: StorageSettings, dialect: Dialect, lock_timeout_s: float | None
) -> dict[str, Any]:
    """Raises ValueError."""
    limit_ms = round(settings.operation_timeout_s * 1000)
    options: dict[str, int | str] = {
        "statement_timeout": limit_ms,
        "idle_in_transaction_session_timeout": limit_ms,
        "lock_timeout": limit_ms if lock_timeout_s is None else round(lock_timeout_s * 1000),
        **dialect.settings,
    }
    try:
        given = conninfo_to_dict(dialect.url(settings.url))
    except psycopg.ProgrammingError as error:
        raise ValueError(f"storage.url is not a URL of PostgreSQL: {words(error)}") from None
    own = " ".join(f"-c {name}={value}" for name, value in options.items())
    parameters: dict[str, Any] = {
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": limit_ms,
        **dialect.parameters,
        **given,
        "client_encoding": "UTF8",
        "options": f"{given.get('options') or ''} {own}".strip(),
    }
    if settings.password:
        parameters["password"] = settings.password
    return parameters
