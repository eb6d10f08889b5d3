"""Adaptive batches: what arrives while one is under way makes up the next."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from goverse.aio.tasks import Tasks

T = TypeVar("T")
R = TypeVar("R")


class BatcherFull(Exception):
    """As many items wait as may."""


class Batcher(Generic[T, R]):
    """Hands items to ``handle`` in batches, one batch at a time, in order of arrival.

    A single item is handled at once; nothing waits for a batch to fill.

    :param handle: returns one result for each item. What it raises is raised to each of them.
    """

    def __init__(
        self,
        name: str,
        handle: Callable[[Sequence[T]], Awaitable[Sequence[R]]],
        tasks: Tasks,
        *,
        max_items: int,
        max_waiting: int,
    ) -> None:
        self._name = name
        self._handle = handle
        self._tasks = tasks
        self._max_items = max_items
        self._max_waiting = max_waiting
        self._waiting: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._running = False

    def __len__(self) -> int:
        return len(self._waiting)

    async def submit(self, item: T) -> R:
        """The result for ``item``. Raises `BatcherFull`, or what the handler raised.

        Cancelled while it waits, an item is not handled; later, its result is dropped.
        """
        if len(self._waiting) >= self._max_waiting:
            raise BatcherFull(f"{self._name}: {len(self._waiting)} wait already")
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if not self._running:
            self._running = True
            self._tasks.spawn(self._name, self._run())
        return await future

    async def _run(self) -> None:
        try:
            while self._waiting:
                await self._one_batch()
        finally:
            self._running = False
            for _, future in self._waiting:  # only if this task was cancelled
                future.cancel()
            self._waiting.clear()

    async def _one_batch(self) -> None:
        batch: list[tuple[T, asyncio.Future[R]]] = []
        while self._waiting and len(batch) < self._max_items:
            item, future = self._waiting.popleft()
            if not future.done():
                batch.append((item, future))
        if not batch:
            return
        try:
            results = await self._handle([item for item, _ in batch])
        except Exception as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        except asyncio.CancelledError:
            for _, future in batch:
                future.cancel()
            raise
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)
