"""What the benchmarks of durable state call. Nodes that host these need a store."""

from __future__ import annotations

import random

import goverse


class Counter(goverse.Object, durability="acknowledged"):
    """A counter per id, as `benchmarks.objects.Small` is without durability."""

    value: int = 0

    @goverse.method
    async def add(self, amount: int = 1) -> int:
        self.value += amount
        return self.value

    @goverse.method(read_only=True)
    async def get_value(self) -> int:
        return self.value


class Large(goverse.Object, durability="acknowledged"):
    """A state of any size, written whole by every call."""

    content: bytes = b""
    calls: int = 0

    @goverse.method
    async def fill(self, size: int) -> None:
        # What PostgreSQL could compress would not be what it is said to be.
        self.content = random.Random(size).randbytes(size)

    @goverse.method
    async def touch(self) -> int:
        self.calls += 1
        return self.calls
