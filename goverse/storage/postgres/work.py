"""How operations get a connection, and how their errors become ours."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import psycopg

from goverse.aio.backoff import Backoff
from goverse.aio.runtime import Runtime
from goverse.aio.tasks import Tasks
from goverse.storage.api import OutcomeUnknown, StorageUnavailable
from goverse.storage.counts import Counts
from goverse.storage.postgres.arrays import Array
from goverse.storage.postgres.connections import Connection, Connections
from goverse.storage.postgres.dialect import Dialect
from goverse.storage.postgres.failures import Again, of_harmless, of_write
from goverse.storage.postgres.running import bounded, run, run_batch

T = TypeVar("T")
Rows = list[tuple[Any, ...]]

CLOSE_S = 2.0
BROKEN_S = 1.0


class Work:
    """Carries out statements. Each is a task of its own: who stops waiting breaks no connection.

    :param counts: learns of errors.
    """

    def __init__(
        self,
        connections: Connections,
        dialect: Dialect,
        runtime: Runtime,
        limit_s: float,
        counts: Counts,
    ) -> None:
        self._connections = connections
        self._dialect = dialect
        self._runtime = runtime
        self._limit_s = limit_s
        self._counts = counts
        self._tasks = Tasks("postgres store")
        self._running: dict[asyncio.Task[Any], None] = {}
        self._closed = False

    async def owned(self, name: str, work: Coroutine[Any, Any, T]) -> T:
        """The result of ``work``, which goes on if the caller goes away."""
        if self._closed:
            work.close()
            raise StorageUnavailable("this store is closed")
        task = self._tasks.spawn(name, _outcome(work))
        self._running[task] = None
        task.add_done_callback(self._running.pop)
        result, error = await asyncio.shield(task)
        if error is not None:
            if isinstance(error, StorageUnavailable | OutcomeUnknown):
                self._counts.last_error = str(error)
            self._counts.unknown += isinstance(error, OutcomeUnknown)
            raise error
        return result  # type: ignore[no-any-return]

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

    async def close(self) -> None:
        """Wait shortly for what is under way; then whoever waits is told that nobody knows."""
        self._closed = True
        if self._running:
            await asyncio.wait(list(self._running), timeout=CLOSE_S)
        self._connections.abort_all()
        if self._running:
            # They learn of it from their sockets; psycopg answers a cancellation by a journey.
            await asyncio.wait(list(self._running), timeout=BROKEN_S)
        await self._tasks.close()
        await self._connections.close()


async def _outcome(work: Coroutine[Any, Any, T]) -> tuple[T | None, Exception | None]:
    """Errors belong to whoever waits; if nobody does, they are no crash of a task."""
    try:
        return await work, None
    except Exception as error:
        return None, error
