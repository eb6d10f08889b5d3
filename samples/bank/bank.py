"""Accounts that send each other money, and an auditor who proves that none is lost or made."""

from __future__ import annotations

import goverse

AUDITOR = "main"


class Auditor(goverse.Object, durability="acknowledged"):
    """Hears of everything that accounts do, exactly once, and so knows what each must have."""

    paid_in: int = 0
    expected: dict[str, int] = {}

    @goverse.method
    async def note_deposit(self, account: str, amount: int) -> None:
        self.paid_in += amount
        self.expected[account] = self.expected.get(account, 0) + amount

    @goverse.method
    async def note_transfer(self, source: str, target: str, amount: int) -> None:
        self.expected[source] = self.expected.get(source, 0) - amount
        self.expected[target] = self.expected.get(target, 0) + amount

    @goverse.method(read_only=True)
    async def audit(self) -> dict[str, int]:
        """What each account has beyond what it should have: empty when all transfers have
        arrived. Money that is on its way shows as a debt and a claim of the same amount."""
        differences = {}
        for account, expected in self.expected.items():
            balance = await goverse.get(Account, account).get_balance()
            if balance != expected:
                differences[account] = balance - expected
        return differences

    @goverse.method(read_only=True)
    async def get_paid_in(self) -> int:
        return self.paid_in


class Account(goverse.Object, durability="acknowledged"):
    """An account; its id is its number."""

    balance: int = 0

    @goverse.method
    async def deposit(self, amount: int) -> int:
        """Pay in from outside the bank; the new balance."""
        if amount <= 0:
            raise goverse.ApplicationError("bad_amount", "an amount is above 0")
        self.balance += amount
        goverse.issue(goverse.get(Auditor, AUDITOR).note_deposit(self.id, amount))
        return self.balance

    @goverse.method
    async def transfer(self, to: str, amount: int) -> int:
        """Send ``amount`` to the account ``to``; the new balance of this one.

        The debit and the two calls are committed together, or not at all.
        """
        if amount <= 0:
            raise goverse.ApplicationError("bad_amount", "an amount is above 0")
        if to == self.id:
            raise goverse.ApplicationError("same_account", "that is this account")
        if amount > self.balance:
            details = {"missing": amount - self.balance}
            raise goverse.ApplicationError("no_money", "the balance is too low", details)
        self.balance -= amount
        goverse.issue(goverse.get(Account, to).receive(amount))
        goverse.issue(goverse.get(Auditor, AUDITOR).note_transfer(self.id, to, amount))
        return self.balance

    @goverse.method
    async def receive(self, amount: int) -> None:
        """What another account has sent."""
        self.balance += amount

    @goverse.method(read_only=True)
    async def get_balance(self) -> int:
        return self.balance
