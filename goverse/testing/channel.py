"""The way from a simulated process to the in-memory coordinator or store, with its faults."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import TypeVar

from goverse.coordination.api import CoordinatorUnavailable
from goverse.storage.api import StorageUnavailable
from goverse.testing.faults import COORDINATOR, STORE, Faults

T = TypeVar("T")


class FaultyChannel:
    """A `goverse.coordination.memory.Channel`, or one of `goverse.storage.memory`, of a process.

    A request can come late or never, and so can its answer: then the operation was done and the
    process does not know. The client's own deadlines end the wait.

    :param process: whose requests these are, for `Faults`.
    :param record: is told of every request that reached the store, for the trace.
    :param server: who is asked: `COORDINATOR`, or `STORE`.
    """

    def __init__(
        self,
        faults: Faults,
        process: str,
        *,
        record: Callable[[str], None] = lambda line: None,
        server: str = COORDINATOR,
    ) -> None:
        self._faults = faults
        self._process = process
        self._record = record
        self._server = server
        self._refused = StorageUnavailable if server == STORE else CoordinatorUnavailable

    async def request(self, operation: Callable[[], T]) -> T:
        """Do ``operation`` at the store and return its result. Raises what it raises, and
        `CoordinatorUnavailable` or `StorageUnavailable` at once where the server's port is
        closed."""
        if self._faults.refuses(self._server):
            raise self._refused("connection refused")
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def serve() -> None:
            if self._faults.refuses(self._server):
                return
            # In a context of its own: the store is no part of the process that asks.
            outcome = Context().run(_attempt, operation)
            self._record(f"served {self._process}")
            self._faults.carry(self._server, self._process, lambda: _settle(answer, outcome))

        self._faults.carry(self._process, self._server, serve)
        return await answer


def _attempt(operation: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return operation(), None
    except Exception as error:
        return None, error


def _settle(answer: asyncio.Future[T], outcome: tuple[T | None, Exception | None]) -> None:
    """Bring the answer home, unless nobody waits for it any more."""
    result, error = outcome
    if answer.done():
        return
    if error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(result)  # type: ignore[arg-type]
