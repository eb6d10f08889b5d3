import goverse


class Account(goverse.Object, durability="acknowledged"):
    """What was answered is still there after a crash."""

    balance: int = 0

    @goverse.method
    async def deposit(self, amount: int) -> int:
        self.balance += amount
        return self.balance

    @goverse.method
    async def withdraw(self, amount: int) -> int:
        if amount > self.balance:
            raise goverse.ApplicationError("insufficient_funds", f"the balance is {self.balance}")
        self.balance -= amount
        return self.balance
