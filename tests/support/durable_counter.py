"""A durable counter, clients that add to it, and what they may conclude from the answers."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any

import goverse
import goverse.client
from goverse.errors import Executed, GoverseError, Unavailable
from tests.support.callers import Callers
from tests.support.eventually import eventually

READ_S = 30.0


class DurableCounter(goverse.Object, durability="acknowledged"):
    value: int = 0

    @goverse.method
    async def add(self) -> list[int]:
        """The value, and the process that counted."""
        self.value += 1
        return [self.value, os.getpid()]

    @goverse.method(read_only=True)
    async def get(self) -> list[int]:
        return [self.value, os.getpid()]


@dataclass
class Told:
    """All that callers were told of one counter."""

    values: list[int] = field(default_factory=list)
    unknown: int = 0
    not_executed: int = 0
    errors: list[str] = field(default_factory=list)
    pid: int = 0
    answered_at: float = 0.0

    def check(self, final: int) -> None:
        """Raises AssertionError if an acknowledged addition is missing, or one counted twice."""
        answered = len(self.values)
        assert len(set(self.values)) == answered, "two additions had one result"
        assert answered <= final <= answered + self.unknown, (
            f"{answered} answered, {self.unknown} unknown, {final} counted: {self.errors[-5:]}"
        )
        assert not self.values or max(self.values) <= final


class Load(Callers):
    """Callers that add, several to a counter."""

    def __init__(self, client: goverse.client.Client, *, counters: int, callers: int) -> None:
        super().__init__()
        self._client = client
        self._callers = callers
        self.told = {f"c{number}": Told() for number in range(counters)}
        self.slowest_s = 0.0

    def calls(self) -> Iterable[Coroutine[Any, Any, None]]:
        names = list(self.told)
        return [self._call(names[number % len(names)]) for number in range(self._callers)]

    async def _call(self, name: str) -> None:
        counter, told = self._client.get(DurableCounter, name), self.told[name]
        while not self.stopping:
            began = time.monotonic()
            try:
                value, told.pid = await counter.add()
                told.values.append(value)
                told.answered_at = began
            except GoverseError as error:
                told.errors.append(f"{error.code}: {error}")
                told.unknown += error.executed is Executed.UNKNOWN
                told.not_executed += error.executed is Executed.NO
                assert error.executed is not Executed.YES, error
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)

    @property
    def answered(self) -> int:
        return sum(len(told.values) for told in self.told.values())

    @property
    def unknown(self) -> int:
        return sum(told.unknown for told in self.told.values())

    def on(self, pid: int) -> list[str]:
        """Counters whose last answer came from that process."""
        return [name for name, told in self.told.items() if told.pid == pid]

    def all_answered_after(self, moment: float) -> bool:
        """Whether every counter has answered a call that began after that."""
        return all(told.answered_at > moment for told in self.told.values())

    async def check(self) -> None:
        """Ask every counter, and compare."""
        for name, told in self.told.items():
            final, _ = await eventually(functools.partial(self._read, name), READ_S)
            told.check(final)

    async def _read(self, name: str) -> list[int] | None:
        """None: the read was lost on its way, as its shard still moves. It may be repeated."""
        try:
            return await self._client.get(DurableCounter, name).get()
        except Unavailable:
            return None
