"""Operations that go on although whoever asked for them stops waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

from goverse.aio.tasks import Tasks
from goverse.storage.api import OutcomeUnknown, StorageUnavailable
from goverse.storage.counts import Counts

T = TypeVar("T")

CLOSE_S = 2.0
BROKEN_S = 1.0


class Breakable(Protocol):
    """The connections under the operations."""

    def abort_all(self) -> None: ...

    async def close(self) -> None: ...


class OwnedWork:
    """Each operation is a task of its own: who stops waiting breaks no connection.

    :param counts: learns of errors.
    """

    def __init__(self, name: str, connections: Breakable, counts: Counts) -> None:
        self._breakable = connections
        self._counts = counts
        self._tasks = Tasks(name)
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

    async def close(self) -> None:
        """Wait shortly for what is under way; then whoever waits is told that nobody knows."""
        self._closed = True
        if self._running:
            await asyncio.wait(list(self._running), timeout=CLOSE_S)
        self._breakable.abort_all()
        if self._running:
            # They learn of it from their sockets; a driver may answer a cancellation by a journey.
            await asyncio.wait(list(self._running), timeout=BROKEN_S)
        await self._tasks.close()
        await self._breakable.close()


async def _outcome(work: Coroutine[Any, Any, T]) -> tuple[T | None, Exception | None]:
    """Errors belong to whoever waits; if nobody does, they are no crash of a task."""
    try:
        return await work, None
    except Exception as error:
        return None, error
