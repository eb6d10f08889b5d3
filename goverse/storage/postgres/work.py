"""How operations get a connection, and how their errors become ours."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import psycopg

from goverse.aio.backoff import Backoff
from goverse.aio.runtime import Runtime
from goverse.storage.api import StorageUnavailable
from goverse.storage.counts import Counts
from goverse.storage.owned import OwnedWork
from goverse.storage.postgres.arrays import Array
from goverse.storage.postgres.connections import Connection, Connections
from goverse.storage.postgres.failures import Again, of_read, of_write, words
from goverse.storage.postgres.running import bounded, run, run_batch

T = TypeVar("T")
Rows = list[tuple[Any, ...]]

MAX_TRIES = 5


class Work(OwnedWork):
    """Carries out statements."""

    def __init__(
        self, connections: Connections, runtime: Runtime, limit_s: float, counts: Counts
    ) -> None:
        super().__init__("postgres store", connections, counts)
        self._connections = connections
        self._runtime = runtime
        self._limit_s = limit_s

    async def write(self, statement: bytes, columns: Sequence[Array]) -> Rows:
        """The rows of a statement that writes a batch, sent again after deadlocks.

        Raises `BatchRefused`, `StorageUnavailable`, `OutcomeUnknown`.
        """
        backoff = Backoff(self._runtime.random, min_s=0.005, max_s=0.1)
        for attempt in range(MAX_TRIES):
            async with self._connections.use() as connection:
                try:
                    return await run_batch(connection, statement, columns, self._limit_s)
                except psycopg.Error as error:
                    meaning = of_write(error, broken=connection.closed)
                    if not isinstance(meaning, Again):
                        raise meaning from error
                    last = str(meaning)
            if attempt < MAX_TRIES - 1:
                await asyncio.sleep(backoff.next_s())
        raise StorageUnavailable(f"aborted {MAX_TRIES} times: {last}")

    async def read(
        self, statement: str, values: Sequence[Any] = (), *, prepare: bool = True
    ) -> Rows:
        """The rows of a statement that only reads. Raises `StorageUnavailable`.

        :param prepare: plan it once; else each time, for the tables as they are.
        """
        return await self.owned("read", self._read(statement, values, prepare))

    async def _read(self, statement: str, values: Sequence[Any], prepare: bool) -> Rows:
        async with self._connections.use() as connection:
            try:
                return await run(connection, statement, values, self._limit_s, prepare)
            except psycopg.Error as error:
                raise of_read(error) from error

    async def administer(
        self, work: Callable[[Connection], Coroutine[Any, Any, T]], *, patient: bool = False
    ) -> T:
        """Whatever ``work`` returns; for what is safe to repeat. Raises `StorageUnavailable`.

        :param patient: it may take as long as it takes, such as building an index.
        """
        limit_s = None if patient else self._limit_s
        return await self.owned("administer", self._administer(work, limit_s))

    async def _administer(
        self, work: Callable[[Connection], Coroutine[Any, Any, T]], limit_s: float | None
    ) -> T:
        async with self._connections.use() as connection:
            try:
                return await bounded(connection, work(connection), limit_s)
            except psycopg.Error as error:
                raise StorageUnavailable(f"PostgreSQL: {words(error)}") from error
