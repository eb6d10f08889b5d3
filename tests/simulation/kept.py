"""Durable objects of the simulation: registers, counters, and a counter that may forget a little.

Every method takes a token, which tells a call from every other one and goes on to what it issues,
and ``another``, by which a call differs from one that would otherwise be the same.
"""

from __future__ import annotations

import goverse
from tests.support.virtual import elapse


class Cell(goverse.Object, durability="acknowledged"):
    """A register."""

    value: int = 0
    notes: dict[str, str] = {}

    @goverse.method
    async def write(self, token: str, value: int, another: bool = False) -> None:
        self.value = value

    @goverse.method
    async def swap(self, token: str, expected: int, value: int, another: bool = False) -> bool:
        """Write ``value`` if the expected one is there, taking its time."""
        await elapse(0.01)
        if self.value != expected:
            return False
        self.notes["last"] = token
        self.value = value
        return True

    @goverse.method(read_only=True)
    async def read(self, token: str, another: bool = False) -> int:
        return self.value


class Tally(goverse.Object, durability="acknowledged"):
    """A counter; what it passes on comes to another one through the outbox."""

    total: int = 0

    @goverse.method
    async def add(self, token: str, amount: int, another: bool = False) -> int:
        self.total += amount
        return self.total

    @goverse.method
    async def pass_on(
        self, token: str, amount: int, to: str, wait_s: float = 0.0, another: bool = False
    ) -> int:
        """Add here, and have the other one add the same."""
        self.total += amount
        goverse.issue(goverse.get(Tally, to).add(token=f">{token}", amount=amount))
        if wait_s:
            await elapse(wait_s)
        return self.total

    @goverse.method
    async def decline(self, token: str, amount: int, to: str, another: bool = False) -> int:
        """Nothing of it must be seen by anybody."""
        self.total += amount
        goverse.issue(goverse.get(Tally, to).add(token=f">{token}", amount=amount))
        await elapse(0.005)
        raise goverse.ApplicationError("declined", token)

    @goverse.method(read_only=True)
    async def get(self, token: str, another: bool = False) -> int:
        return self.total


class Often(goverse.Object, durability="interval", commit_interval_s=0.5):
    """Committed now and then, when it ends in order, and at once with a reliable call."""

    total: int = 0

    async def on_deactivate(self) -> None:
        self.total += 0

    @goverse.method
    async def add(self, token: str, amount: int, another: bool = False) -> int:
        self.total += amount
        return self.total

    @goverse.method(read_only=True)
    async def get(self, token: str, another: bool = False) -> int:
        return self.total
