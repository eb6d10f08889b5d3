"""A counter as `tests.support.tally` has it, in a database."""

from __future__ import annotations

import os

import goverse
from tests.support.tally import turn


class KeptTally(goverse.Object, durability="acknowledged"):
    value: int = 0

    @goverse.method(timeout_s=300)
    async def add(self, token: str, work_s: float = 0.0) -> list[int]:
        await turn(token, work_s)
        self.value += 1
        return [self.value, os.getpid()]

    @goverse.method(read_only=True)
    async def read(self) -> int:
        return self.value
