"""Accounts whose methods can be the place where their process ends."""

from __future__ import annotations

import goverse
from tests.support.crashing_node import MARK, in_turn


class Account(goverse.Object, durability="acknowledged", reentrancy="allow"):
    balance: int = 0

    @goverse.method
    async def deposit(self, amount: int) -> list[str | int]:
        self.balance += amount
        in_turn()
        return [self.balance, MARK]

    @goverse.method
    async def transfer(self, to: str, amount: int) -> list[str | int]:
        self.balance -= amount
        goverse.issue(goverse.get(Account, to).deposit(amount))
        return [self.balance, MARK]

    @goverse.method
    async def deposit_in_parts(self, amount: int) -> list[str | int]:
        """A turn of its own object ends while this one is suspended."""
        self.balance += amount
        await goverse.get(Account, self.id).add(amount)
        in_turn()
        return [self.balance, MARK]

    @goverse.method
    async def add(self, amount: int) -> None:
        self.balance += amount

    @goverse.method(read_only=True)
    async def get(self) -> int:
        return self.balance
