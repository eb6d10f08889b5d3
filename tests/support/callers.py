"""Callers that go on until they are told to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, Self


class Callers:
    """Tasks from the entry of ``async with`` until `stop`, each of which looks at `stopping`.

    They end with the block, whatever ends it: callers of a closed client would never let go.
    """

    def __init__(self) -> None:
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def calls(self) -> Iterable[Coroutine[Any, Any, None]]:
        """The body of each caller."""
        raise NotImplementedError

    @property
    def stopping(self) -> bool:
        return self._stopping.is_set()

    async def __aenter__(self) -> Self:
        self._tasks += [asyncio.create_task(call) for call in self.calls()]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def stop(self) -> None:
        """Return once every caller has made its last call."""
        self._stopping.set()
        await asyncio.gather(*self._tasks)
