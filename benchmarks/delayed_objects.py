"""What the benchmark of delayed calls calls: objects that write down when they were called."""

from __future__ import annotations

import time

import goverse


class Diary(goverse.Object, durability="acknowledged"):
    """
    :ivar entries: number of the call, and when its turn began, seconds since 1970.
    """

    entries: list[tuple[int, float]] = []
    ticks: int = 0

    @goverse.method
    async def write(self, number: int) -> None:
        self.entries.append((number, time.time()))

    @goverse.method
    async def tick(self) -> None:
        self.ticks += 1

    @goverse.method(read_only=True)
    async def read(self) -> list[tuple[int, float]]:
        return self.entries

    @goverse.method(read_only=True)
    async def ticked(self) -> int:
        return self.ticks
