"""An object with a method that ends the process it runs in."""

from __future__ import annotations

import os

import goverse


class Poisoned(goverse.Object, durability="acknowledged"):
    value: int = 0

    @goverse.method
    async def add(self, amount: int) -> int:
        self.value += amount
        return self.value

    @goverse.method
    async def die(self) -> None:
        self.value += 1_000
        os._exit(86)
