"""Callers that type checkers must refuse, each at its line. Checked by test_typing.py.

After ``# E:`` stands the code of mypy, then the rule of pyright.
"""

from __future__ import annotations

import goverse


class Counter(goverse.Object):
    value: int = 0

    @goverse.method
    async def add(self, amount: int = 1) -> int:
        return amount

    @goverse.method  # E: type-var reportArgumentType
    def not_async(self) -> int:
        return 1

    @goverse.method(read_only="yes")  # E: arg-type,call-overload reportArgumentType,reportCallIssue
    async def wrong_option(self) -> int:
        return 1


class Other(goverse.Object):
    @goverse.method
    async def meet(self, counter: Counter) -> None: ...


async def call() -> None:
    counter = goverse.get(Counter, "a")
    await counter.add("5")  # E: arg-type reportArgumentType
    await counter.add(1, 2)  # E: call-arg reportCallIssue
    await counter.add(amout=1)  # E: call-arg reportCallIssue
    await counter.sub(1)  # E: attr-defined reportAttributeAccessIssue
    text: str = await counter.add(1)  # E: assignment reportAssignmentType
    print(text)
    counter.add(1)  # E: unused-coroutine reportUnusedCoroutine
    goverse.get(Counter, 5)  # E: call-overload reportArgumentType,reportCallIssue
    goverse.get(int, "a")  # E: call-overload,type-var reportArgumentType,reportCallIssue
    await goverse.get(Other, "o").meet(goverse.get(Other, "p"))  # E: arg-type reportArgumentType
    await goverse.get(Other, "o").meet("id")  # E: arg-type reportArgumentType
    goverse.options(counter, timeout_s="5s")  # E: arg-type reportArgumentType
    goverse.options(counter, timeout=5)  # E: call-arg reportCallIssue
    await goverse.create("Counter/a")  # E: arg-type reportArgumentType
    goverse.context().principal = "root"  # E: misc reportAttributeAccessIssue
