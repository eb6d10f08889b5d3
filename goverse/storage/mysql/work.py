"""How operations get a session, and how their errors become ours."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeVar

from asyncmy.errors import MySQLError

from goverse.aio.backoff import Backoff
from goverse.aio.runtime import Runtime
from goverse.ids import Epoch
from goverse.storage.api import StorageUnavailable, StoreRefused
from goverse.storage.counts import Counts
from goverse.storage.halving import BatchRefused
from goverse.storage.mysql import sql
from goverse.storage.mysql.connections import Connections
from goverse.storage.mysql.failures import Again, Raced, of_read, words
from goverse.storage.mysql.running import FenceFell, Plan, run, transact
from goverse.storage.mysql.session import Answer, Session
from goverse.storage.owned import OwnedWork
from goverse.storage.values import Fence

T = TypeVar("T")
Result = TypeVar("Result")

MAX_TRIES = 5


class Fenced(Protocol):
    """What states a fence."""

    @property
    def fence(self) -> Fence: ...


Item = TypeVar("Item", bound=Fenced)


class Work(OwnedWork):
    """Carries out plans and statements."""

    def __init__(
        self, connections: Connections, runtime: Runtime, limit_s: float, counts: Counts
    ) -> None:
        super().__init__("mysql store", connections, counts)
        self._connections = connections
        self._runtime = runtime
        self._limit_s = limit_s

    async def write(
        self,
        batch: Sequence[Item],
        plan: Callable[[Sequence[Item]], Plan[Result]],
        fenced: Callable[[Item], Result],
    ) -> list[Result]:
        """The results of ``batch``, sent again after deadlocks.

        :param fenced: the result of an item whose fence fell.

        Raises `BatchRefused`, `StorageUnavailable`, `OutcomeUnknown`.
        """
        results: dict[int, Result] = {}
        left = list(range(len(batch)))
        for _ in range(MAX_TRIES):
            if not left:
                break
            try:
                done = await self.transact(plan([batch[place] for place in left]))
            except FenceFell:
                # Once a fence fell it never stands again; who stood beside it is sent alone.
                standing = await self._standing([batch[place].fence for place in left])
                for place in left:
                    if batch[place].fence not in standing:
                        results[place] = fenced(batch[place])
                left = [place for place in left if place not in results]
            else:
                results.update(zip(left, done, strict=True))
                left = []
        if left:
            raise StorageUnavailable(f"fences fell {MAX_TRIES} times while a batch was sent")
        return [results[place] for place in range(len(batch))]

    async def transact(self, plan: Plan[Result]) -> Sequence[Result]:
        """As `running.transact`, again after deadlocks."""
        backoff = Backoff(self._runtime.random, min_s=0.005, max_s=0.1)
        for attempt in range(MAX_TRIES):
            async with self._connections.use() as session:
                try:
                    return await transact(session, plan, self._limit_s)
                except Again as error:
                    last = error
            if attempt < MAX_TRIES - 1:
                await asyncio.sleep(backoff.next_s())
        if isinstance(last, Raced):
            # It is there each time one looks, or it is what was sent that has it twice.
            raise BatchRefused(str(last))
        raise StorageUnavailable(f"aborted {MAX_TRIES} times: {last}")

    async def _standing(self, fences: Sequence[Fence]) -> set[Fence]:
        looking = (
            "SELECT slot, generation, revision, opening FROM goverse_fences "
            f"WHERE slot IN {sql.numbers(fence.slot for fence in fences)}"
        )
        [found] = await self._read((looking,))
        return {
            Fence(slot, Epoch(generation, revision), opening)
            for slot, generation, revision, opening in found.rows
        }

    async def read(self, statement: str) -> Sequence[tuple[Any, ...]]:
        """The rows of a statement that only reads. Raises `StorageUnavailable`."""
        [answer] = await self.read_all(statement)
        return answer.rows

    async def read_all(self, *statements: str) -> Sequence[Answer]:
        """The same for several on one journey, each with a view of its own."""
        return await self.owned("read", self._read(statements))

    async def _read(self, statements: Sequence[str]) -> Sequence[Answer]:
        async with self._connections.use() as session:
            try:
                return await run(session, statements, self._limit_s)
            except MySQLError as error:
                raise of_read(error) from error

    async def administer(self, work: Callable[[Session], Coroutine[Any, Any, T]]) -> T:
        """Whatever ``work`` returns; for what is safe to repeat. Raises `StorageUnavailable`.

        It states its own limits."""
        return await self.owned("administer", self._administer(work))

    async def _administer(self, work: Callable[[Session], Coroutine[Any, Any, T]]) -> T:
        async with self._connections.use() as session:
            try:
                return await work(session)
            except StoreRefused:
                raise
            except BaseException as error:
                # It may stand in the middle of a transaction.
                session.abort()
                if isinstance(error, MySQLError):
                    raise StorageUnavailable(f"MariaDB: {words(error)}") from error
                raise
