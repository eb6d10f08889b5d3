"""Where a watch's pump meets its consumer: a bounded buffer with an iterator's face."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from goverse.aio.clock import Clock
from goverse.aio.tasks import Tasks
from goverse.coordination.api import Changes, Snapshot, Watch, WatchSnapshot

Pump = Callable[["Feed"], Coroutine[Any, Any, None]]

MAX_BUFFERED_ITEMS = 1024


class Feed(Watch):
    """A `Watch` that a pump task fills.

    The pump is a task of its own, so that a consumer which gives up waiting loses nothing, and
    starts with the first ``anext``, so that a watch that nobody reads costs nothing. A consumer
    that falls behind stops the pump once the buffer is full.
    """

    def __init__(self, prefix: str, tasks: Tasks, clock: Clock, pump: Pump) -> None:
        self.prefix = prefix
        self._tasks = tasks
        self._clock = clock
        self._pump = pump
        self._task: asyncio.Task[None] | None = None
        self._items: deque[Snapshot | Changes] = deque()
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._closed = False
        self._error: BaseException | None = None
        self._contact = 0.0
        self._revision = 0
        self._snapshots = 0

    # ---- the pump's side

    async def put(self, item: Snapshot | Changes) -> None:
        """Append ``item``; waits while the buffer is full."""
        while len(self._items) >= MAX_BUFFERED_ITEMS and not self._closed:
            self._room.clear()
            await self._room.wait()
        self._items.append(item)
        self._revision = item.revision
        if isinstance(item, Snapshot):
            self._snapshots += 1
        self._filled.set()

    def heard(self) -> None:
        """The coordinator said something."""
        self._contact = self._clock.now()

    @property
    def full(self) -> bool:
        """The consumer is behind: silence on the watch says nothing about the coordinator."""
        return len(self._items) >= MAX_BUFFERED_ITEMS

    async def _run(self) -> None:
        try:
            await self._pump(self)
        except BaseException as error:
            self._error = error
            raise
        finally:
            self._closed = True
            self._filled.set()

    # ---- the consumer's side

    def __aiter__(self) -> AsyncIterator[Snapshot | Changes]:
        return self

    async def __anext__(self) -> Snapshot | Changes:
        if self._task is None and not self._closed:
            self._task = self._tasks.spawn(f"watch {self.prefix}", self._run())
        while not self._items:
            if self._closed:
                if isinstance(self._error, Exception):
                    raise self._error
                raise StopAsyncIteration
            self._filled.clear()
            await self._filled.wait()
        item = self._items.popleft()
        self._room.set()
        return item

    async def aclose(self) -> None:
        """End the watch; a waiting ``anext`` ends with StopAsyncIteration."""
        self._closed = True
        self._items.clear()
        self._filled.set()
        self._room.set()
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])

    @property
    def contact(self) -> float:
        return self._contact

    @property
    def closed(self) -> bool:
        return self._closed

    def snapshot(self) -> WatchSnapshot:
        return WatchSnapshot(
            self.prefix,
            self._revision,
            self._contact,
            max(0, self._snapshots - 1),
            len(self._items),
        )
