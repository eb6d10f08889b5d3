import goverse


class Counter(goverse.Object):
    """A counter per id."""

    value: int = 0

    @goverse.method
    async def add(self, amount: int = 1) -> int:
        self.value += amount
        return self.value
