"""Callers that type checkers must accept. Not run: checked by test_typing.py."""

from __future__ import annotations

import dataclasses
from typing import assert_type

import goverse


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


class Counter(goverse.Object):
    value: int = 0
    points: list[Point] = []

    @goverse.method
    async def add(self, amount: int = 1, *, note: str = "") -> int:
        self.value += amount
        return self.value

    @goverse.method(read_only=True)
    async def where(self) -> list[Point]:
        return self.points

    @goverse.method(rollback=False, timeout_s=3)
    async def reset(self) -> None:
        self.value = 0

    async def on_activate(self) -> None:
        self.spawn(self.reset(), name="reset")
        timer = self.start_timer(1.0, self.reset, interval_s=5)
        timer.cancel()


class Teller(goverse.Object, reentrancy="allow"):
    best: Counter | None = None

    @goverse.method
    async def visit(self, counter: Counter, other: goverse.Object) -> Counter:
        await counter.add(2)
        assert_type(goverse.context().object_id.id, str)
        assert_type(goverse.context().remaining_s, float)
        assert_type(self.id, str)
        return counter


async def call() -> None:
    counter = goverse.get(Counter, "my-counter")
    assert_type(counter, Counter)
    assert_type(await counter.add(5), int)
    assert_type(await counter.add(amount=5, note="x"), int)
    assert_type(await counter.where(), list[Point])
    await counter.reset()
    assert_type(goverse.options(counter, timeout_s=5), Counter)
    assert_type(await goverse.options(counter, timeout_s=5).add(1), int)
    teller = goverse.get(Teller, "t")
    assert_type(await teller.visit(counter, teller), Counter)
    untyped = goverse.get("Counter", "a")
    await untyped.add(amount=5)
    await goverse.create(counter)
    await goverse.delete(counter, timeout_s=1.0)
    try:
        await counter.add(1)
    except goverse.ApplicationError as error:
        assert_type(error.executed, goverse.Executed)
    except TimeoutError:
        pass
