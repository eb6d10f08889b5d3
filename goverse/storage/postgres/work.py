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
from goverse.storage.postgres.dialect import Dialect
from goverse.storage.postgres.failures import Again, of_harmless, of_write
from goverse.storage.postgres.running import bounded, run, run_batch

T = TypeVar("T")
Rows = list[tuple[Any, ...]]


class Work(OwnedWork):
    """Carries out statements."""

    def __init__(
        self,
        connections: Connections,
        dialect: Dialect,
        runtime: Runtime,
        limit_s: float,
        counts: Counts,
    ) -> None:
        super().__init__("postgres store", connections, counts)
        self._connections = connections
        self._dialect = dialect
        self._runtime = runtime
        self._limit_s = limit_s

    async def write(self, statement: bytes, columns: Sequence[Array]) -> Rows:
        """The rows of a statement that writes a batch.

        Raises `BatchRefused`, `StorageUnavailable`, `OutcomeUnknown`.
        """
        words = self._dialect.written(statement)
        return await self._tried(
            lambda connection: run_batch(connection, words, columns, self._limit_s),
            lambda error, broken: of_write(error, self._dialect, broken=broken),
        )

    async def read(
        self, statement: str, values: Sequence[Any] = (), *, prepare: bool = True
    ) -> Rows:
        """The rows of a statement that only reads. Raises `StorageUnavailable`.

        :param prepare: plan it once; else each time, for the tables as they are.
        """
        reading = self._tried(
            lambda connection: run(connection, statement, values, self._limit_s, prepare),
            lambda error, _: of_harmless(error, "be read"),
        )
        return await self.owned("read", reading)

    async def administer(
        self, work: Callable[[Connection], Coroutine[Any, Any, T]], *, patient: bool = False
    ) -> T:
        """Whatever ``work`` returns; for what is safe to repeat. Raises `StorageUnavailable`.

        :param patient: it may take as long as it takes, such as building an index.
        """
        limit_s = None if patient else self._limit_s
        administering = self._tried(
            lambda connection: bounded(connection, work(connection), limit_s),
            lambda error, _: of_harmless(error, "do this"),
        )
        return await self.owned("administer", administering)

    async def _tried(
        self,
        work: Callable[[Connection], Coroutine[Any, Any, T]],
        meaning: Callable[[psycopg.Error, bool], Exception],
    ) -> T:
        """The result of ``work``, which is done again, whole, if others are why it was aborted:
        deadlocks and serialization failures.

        :param meaning: of an error, and of whether it took the connection along.
        """
        backoff = Backoff(self._runtime.random, min_s=0.005, max_s=0.1)
        tries = self._dialect.max_tries
        for attempt in range(tries):
            async with self._connections.use() as connection:
                try:
                    return await work(connection)
                except psycopg.Error as error:
                    meant = meaning(error, connection.closed)
                    if not isinstance(meant, Again):
                        raise meant from error
                    last = str(meant)
            if attempt < tries - 1:
                await asyncio.sleep(backoff.next_s())
        raise StorageUnavailable(f"aborted {tries} times: {last}")
