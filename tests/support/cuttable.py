"""A path to a `MemoryStore` that can be cut."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class CuttableChannel:
    """Loses requests, or their answers, while it is cut."""

    def __init__(self) -> None:
        self._whole = asyncio.Event()
        self._whole.set()

    async def request(self, operation: Callable[[], T]) -> T:
        await asyncio.sleep(0)
        if not self._whole.is_set():
            await asyncio.Event().wait()
        answer = operation()
        await asyncio.sleep(0)
        if not self._whole.is_set():
            await asyncio.Event().wait()
        return answer

    def cut(self) -> None:
        self._whole.clear()

    def heal(self) -> None:
        self._whole.set()
