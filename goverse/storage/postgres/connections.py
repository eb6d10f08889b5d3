"""Connections to PostgreSQL: made when needed, used by one operation at a time."""

from __future__ import annotations

import asyncio
import os
import select
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from goverse.aio.backoff import Backoff
from goverse.aio.runtime import Runtime
from goverse.config.settings import StorageSettings
from goverse.storage.api import StorageUnavailable
from goverse.storage.postgres.arrays import register
from goverse.storage.postgres.dialect import Dialect
from goverse.storage.postgres.failures import words

Connection = psycopg.AsyncConnection[tuple[Any, ...]]

MAX_WAITING = 1024


class Connections:
    """Up to ``size`` of them. One that broke is thrown away; nobody else notices.

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
        self._settings = settings
        self._parameters = _parameters(settings, dialect, lock_timeout_s) | {
            "application_name": name
        }
        self._free = asyncio.Semaphore(size)
        self._waiting = 0
        self._idle: list[Connection] = []
        self._used: dict[Connection, None] = {}
        self._backoff = Backoff(runtime.random)
        self._not_before = 0.0
        self._closed = False

    def __len__(self) -> int:
        return len(self._idle) + len(self._used)

    @asynccontextmanager
    async def use(self) -> AsyncIterator[Connection]:
        """A connection for one operation. Raises `StorageUnavailable` when there is none."""
        if self._waiting >= MAX_WAITING:
            raise StorageUnavailable(f"{MAX_WAITING} operations wait for a connection already")
        self._waiting += 1
        try:
            async with asyncio.timeout(self._settings.operation_timeout_s):
                await self._free.acquire()
        except TimeoutError:
            raise StorageUnavailable("every connection to PostgreSQL is busy") from None
        finally:
            self._waiting -= 1
        try:
            connection = await self._connected()
            self._used[connection] = None
            try:
                yield connection
            finally:
                del self._used[connection]
                if connection.closed or self._closed:
                    await _discard(connection)
                else:
                    self._idle.append(connection)
        finally:
            self._free.release()

    async def _connected(self) -> Connection:
        if self._closed:
            raise StorageUnavailable("this store is closed")
        while self._idle:
            connection = self._idle.pop()
            # The server says nothing to an idle session, except that it ends. To learn that from
            # a write would leave the write's outcome unknown.
            if not connection.closed and not _has_something_to_read(connection):
                return connection
            await _discard(connection)
        return await self._connect()

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        # Pauses between attempts belong here: who is told "unavailable" at once asks at once.
        await asyncio.sleep(max(0.0, self._not_before - loop.time()))
        try:
            async with asyncio.timeout(self._settings.connect_timeout_s):
                connection = await psycopg.AsyncConnection.connect(
                    **self._parameters, autocommit=True
                )
        except (psycopg.Error, OSError, TimeoutError) as error:
            self._not_before = loop.time() + self._backoff.next_s()
            said = words(error) if isinstance(error, psycopg.Error) else str(error) or "no answer"
            raise StorageUnavailable(f"no connection to PostgreSQL: {said}") from None
        self._backoff.reset()
        register(connection)
        return connection

    async def close(self) -> None:
        """Close what is idle; what is used is closed by whoever uses it."""
        self._closed = True
        idle, self._idle = self._idle, []
        for connection in idle:
            await _discard(connection)

    def abort_all(self) -> None:
        """Break what is used: whoever waits for an answer learns that none will come. No others
        are made from now on."""
        self._closed = True
        for connection in self._used:
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


async def _discard(connection: Connection) -> None:
    await connection.close()


def _has_something_to_read(connection: Connection) -> bool:
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN | select.POLLHUP | select.POLLERR)
    return bool(poll.poll(0))


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
