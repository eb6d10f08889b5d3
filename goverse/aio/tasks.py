"""Owned, named tasks: nothing runs that nobody waits for at the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

log = logging.getLogger(__name__)


class Tasks:
    """The tasks of one component. ``close`` cancels them and says which did not end.

    A task that ends with an exception is logged with its name; if ``on_crash`` is given it is
    called with the exception too, so that a component can decide to stop its process.
    """

    def __init__(
        self, owner: str, *, on_crash: Callable[[str, BaseException], None] | None = None
    ) -> None:
        self._owner = owner
        self._on_crash = on_crash
        # A dict, not a set: iteration order is the order of birth, the same in every run.
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._closed = False

    def __len__(self) -> int:
        return len(self._tasks)

    def spawn(self, name: str, coro: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start ``coro`` as a task of this owner. Raises RuntimeError after ``close``."""
        if self._closed:
            coro.close()
            raise RuntimeError(f"{self._owner} is closed and starts no {name}")
        task = asyncio.get_running_loop().create_task(coro, name=f"{self._owner}:{name}")
        self._tasks[task] = None
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            return
        log.error("task %s ended with an exception", task.get_name(), exc_info=error)
        if self._on_crash is not None:
            self._on_crash(task.get_name(), error)

    async def close(self, *, timeout_s: float = 5.0) -> None:
        """Cancel every task and wait for all but the calling one; logs who is stuck."""
        self._closed = True
        current = asyncio.current_task()
        waiting = [task for task in self._tasks if task is not current]
        for task in waiting:
            task.cancel()
        if not waiting:
            return
        _, stuck = await asyncio.wait(waiting, timeout=timeout_s)
        if stuck:
            names = sorted(task.get_name() for task in stuck)
            log.error("%s closed with tasks that did not end: %s", self._owner, ", ".join(names))

    def snapshot(self) -> tuple[str, ...]:
        return tuple(task.get_name() for task in self._tasks)
