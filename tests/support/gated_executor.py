"""A thread that writes, whose work can be held back, or its answers lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any


class GatedExecutor(Executor):
    """A `goverse.testing.conformance.store.WriteGate`."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._mode = ""
        self._held: list[Callable[[], Any]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        work = lambda: fn(*args, **kwargs)  # noqa: E731
        if self._mode == "hold":
            self._held.append(work)
            return Future()
        running = self._thread.submit(work)
        return Future() if self._mode == "lose" else running

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._thread.shutdown(wait, cancel_futures=cancel_futures)

    def lose_answers(self) -> None:
        self._mode = "lose"

    def hold(self) -> None:
        self._mode = "hold"

    async def release(self) -> None:
        for work in self._held:
            running = asyncio.wrap_future(self._thread.submit(work))
            await asyncio.wait([running])
            running.exception()
        self._held.clear()

    def heal(self) -> None:
        self._mode = ""
