"""A path to the in-memory store on which writes can be held up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class GatedChannel:
    """Carries requests; when told so, it loses their answers or holds them back."""

    def __init__(self) -> None:
        self._mode = ""
        self._held: list[Callable[[], object]] = []

    async def request(self, operation: Callable[[], T]) -> T:
        await asyncio.sleep(0)
        if self._mode == "hold":
            self._held.append(operation)
            await asyncio.Event().wait()
        answer = operation()
        if self._mode == "lose":
            await asyncio.Event().wait()
        return answer

    def lose_answers(self) -> None:
        self._mode = "lose"

    def hold(self) -> None:
        self._mode = "hold"

    async def release(self) -> None:
        for operation in self._held:
            try:
                operation()
            except Exception:
                pass  # its client has given up; the answer has nowhere to go
        self._held.clear()

    def heal(self) -> None:
        self._mode = ""
