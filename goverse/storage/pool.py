"""Connections to a database server: made when needed, used by one operation at a time."""

from __future__ import annotations

import asyncio
import select
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

from goverse.aio.backoff import Backoff
from goverse.aio.runtime import Runtime
from goverse.config.settings import StorageSettings
from goverse.storage.api import StorageUnavailable

C = TypeVar("C")

MAX_WAITING = 1024


class ConnectError(Exception):
    """No connection was made; says why, without secrets."""


class Pool(ABC, Generic[C]):
    """Up to ``size`` connections. One that broke is thrown away; nobody else notices.

    :param database: what people call the server's kind.
    """

    def __init__(
        self, settings: StorageSettings, runtime: Runtime, size: int, *, database: str
    ) -> None:
        self._settings = settings
        self._database = database
        self._free = asyncio.Semaphore(size)
        self._waiting = 0
        self._idle: list[C] = []
        self._used: dict[C, None] = {}
        self._backoff = Backoff(runtime.random)
        self._not_before = 0.0
        self._closed = False

    @abstractmethod
    async def _open(self) -> C:
        """A new connection. Raises `ConnectError`, OSError."""

    @abstractmethod
    def _is_open(self, connection: C) -> bool: ...

    @abstractmethod
    def _fileno(self, connection: C) -> int:
        """Of its socket, while it is open."""

    @abstractmethod
    async def _discard(self, connection: C) -> None:
        """Close it, whatever state it is in. Raises nothing."""

    @abstractmethod
    def _abort(self, connection: C) -> None:
        """Break it under whoever waits for an answer, who is woken with an error."""

    def __len__(self) -> int:
        return len(self._idle) + len(self._used)

    @asynccontextmanager
    async def use(self) -> AsyncIterator[C]:
        """A connection for one operation. Raises `StorageUnavailable` when there is none."""
        if self._waiting >= MAX_WAITING:
            raise StorageUnavailable(f"{MAX_WAITING} operations wait for a connection already")
        self._waiting += 1
        try:
            async with asyncio.timeout(self._settings.operation_timeout_s):
                await self._free.acquire()
        except TimeoutError:
            raise StorageUnavailable(f"every connection to {self._database} is busy") from None
        finally:
            self._waiting -= 1
        try:
            connection = await self._connected()
            self._used[connection] = None
            try:
                yield connection
            finally:
                del self._used[connection]
                if not self._is_open(connection) or self._closed:
                    await self._discard(connection)
                else:
                    self._idle.append(connection)
        finally:
            self._free.release()

    async def _connected(self) -> C:
        if self._closed:
            raise StorageUnavailable("this store is closed")
        while self._idle:
            connection = self._idle.pop()
            # The server says nothing to an idle session, except that it ends. To learn that from
            # a write would leave the write's outcome unknown.
            if self._is_open(connection) and not _has_something_to_read(self._fileno(connection)):
                return connection
            await self._discard(connection)
        return await self._connect()

    async def _connect(self) -> C:
        loop = asyncio.get_running_loop()
        # Pauses between attempts belong here: who is told "unavailable" at once asks at once.
        await asyncio.sleep(max(0.0, self._not_before - loop.time()))
        try:
            async with asyncio.timeout(self._settings.connect_timeout_s):
                connection = await self._open()
        except (ConnectError, OSError, TimeoutError) as error:
            self._not_before = loop.time() + self._backoff.next_s()
            said = str(error) or "no answer"
            raise StorageUnavailable(f"no connection to {self._database}: {said}") from None
        self._backoff.reset()
        return connection

    async def close(self) -> None:
        """Close what is idle; what is used is closed by whoever uses it."""
        self._closed = True
        idle, self._idle = self._idle, []
        for connection in idle:
            await self._discard(connection)

    def abort_all(self) -> None:
        """Break what is used: whoever waits for an answer learns that none will come. No others
        are made from now on."""
        self._closed = True
        for connection in self._used:
            self._abort(connection)


def _has_something_to_read(fileno: int) -> bool:
    poll = select.poll()
    poll.register(fileno, select.POLLIN | select.POLLHUP | select.POLLERR)
    return bool(poll.poll(0))
