"""Callers of tallies, and what they may conclude from the answers. Each object has one caller."""

from __future__ import annotations

import asyncio
import functools
import itertools
import random
import time
from collections import Counter
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import goverse.client
from goverse.errors import Executed, GoverseError, Unavailable
from tests.support.callers import Callers
from tests.support.eventually import eventually
from tests.support.kept_tally import KeptTally
from tests.support.tally import Tally

READ_S = 30.0
#: Between two calls of a caller.
PAUSE_S = (0.03, 0.09)
_CLASSES: dict[str, Any] = {"volatile": Tally, "crowded": Tally, "durable": KeptTally}


@dataclass(frozen=True, slots=True)
class Added:
    """One call. Times are those of `time.monotonic`.

    :param value, pid: 0 if it failed. :param executed: what the error said, else yes.
    """

    token: str
    began: float
    ended: float
    value: int = 0
    pid: int = 0
    executed: Executed = Executed.YES
    error: str = ""


@dataclass
class Called:
    """All calls of one object, in order."""

    kind: str
    name: str
    calls: list[Added] = field(default_factory=list)

    def backs(self) -> Iterator[tuple[float, float, str]]:
        """Where the value is not what the calls since the last answer make of it: from when to
        when that must have happened, and in words."""
        before, low, high = 0.0, 0, 0
        for call in self.calls:
            if call.value:
                if not low < call.value <= high + 1:
                    text = f"{self.name} ({self.kind}) is {call.value} after {low} to {high}"
                    yield before, call.ended, f"{text}; pid {call.pid}"
                before, low, high = call.began, call.value, call.value
            elif call.executed is not Executed.NO:
                high += 1


@dataclass(frozen=True)
class Afresh:
    """From when to when volatile objects may have begun afresh.

    :param at_most: how often that was counted; None: nodes have died, and what they counted.
    """

    since: float
    until: float
    at_most: int | None = None


class Tallying(Callers):
    """Callers that add; each object has one."""

    def __init__(
        self,
        clients: Sequence[goverse.client.Client],
        *,
        volatile: int,
        durable: int = 0,
        pause_s: tuple[float, float] = PAUSE_S,
        prefix: str = "",
    ) -> None:
        super().__init__()
        self.clients = clients
        names = [("volatile", f"{prefix}v{n}") for n in range(volatile)]
        names += [("durable", f"{prefix}d{n}") for n in range(durable)]
        self.called = [Called(kind, name) for kind, name in names]
        self._pause_s = pause_s
        self._numbers = itertools.count(1)
        self.in_flight = 0

    def calls(self) -> Iterable[Coroutine[Any, Any, None]]:
        return [self._go_on(number, called) for number, called in enumerate(self.called)]

    async def _go_on(self, number: int, called: Called) -> None:
        chance = random.Random(number)
        while not self.stopping:
            await self.call(called, self.clients[number % len(self.clients)])
            await asyncio.sleep(chance.uniform(*self._pause_s))

    async def call(
        self,
        called: Called,
        client: goverse.client.Client,
        *,
        work_s: float = 0.0,
        busy_s: float = 0.0,
    ) -> Added:
        """Add once, whatever comes of it."""
        token = f"{called.name}:{next(self._numbers)}"
        counter = client.get(_CLASSES[called.kind], called.name)
        given: dict[str, Any] = {"busy_s": busy_s} if busy_s else {}
        began = time.monotonic()
        self.in_flight += 1
        try:
            value, pid = await counter.add(token, work_s, **given)
            made = Added(token, began, time.monotonic(), value, pid)
        except GoverseError as error:
            text = f"{error.code}: {error}"
            made = Added(token, began, time.monotonic(), 0, 0, error.executed, text)
        finally:
            self.in_flight -= 1
        called.calls.append(made)
        return made

    def beside(self, name: str, *, kind: str = "volatile") -> Called:
        """An object that only who asked for it calls; it is judged with the others.

        :param kind: ``crowded`` for a volatile one with several calls at a time: their answers
            come in no order.
        """
        called = Called(kind, name)
        self.called.append(called)
        return called

    # -- what they know -----------------------------------------------------------------------

    def silent_since(self, moment: float) -> list[str]:
        """Objects with a steady caller that have not answered a call that began after that."""
        steady = self.called[: len(self._tasks)]
        return [
            called.name
            for called in steady
            if not any(
                call.value and call.began > moment
                for call in itertools.takewhile(lambda c: c.ended > moment, called.calls[::-1])
            )
        ]

    def failed(self, since: float = 0.0) -> list[Added]:
        """Calls that failed after that moment."""
        return [
            call
            for called in self.called
            for call in itertools.takewhile(lambda c: c.ended > since, called.calls[::-1])
            if not call.value
        ]

    def longest_s(self, since: float = 0.0) -> float:
        return max(
            (
                call.ended - call.began
                for called in self.called
                for call in called.calls
                if call.ended > since
            ),
            default=0.0,
        )

    def violations(self, turns: Counter[str], afresh: Iterable[Afresh]) -> Iterator[str]:
        """What contradicts the promises.

        :param turns: see `tests.support.tally.turns`.
        """
        windows = list(afresh)
        excused: Counter[Afresh] = Counter()
        for called in self.called:
            for call in called.calls:
                times = turns[call.token]
                if times > 1:
                    yield f"{call.token} was executed {times} times: {call}"
                if call.value and not times:
                    yield f"{call.token} was answered and never executed: {call}"
                if times and call.executed is Executed.NO:
                    yield f"{call.token} was executed, and its caller told that it was not: {call}"
            for since, until, text in called.backs() if called.kind != "crowded" else ():
                found = [w for w in windows if since < w.until and until > w.since]
                if called.kind != "volatile" or not found:
                    yield text
                else:
                    excused[found[0]] += 1
        for window, times in excused.items():
            if window.at_most is not None and times > window.at_most:
                yield f"{times} objects began afresh, and {window.at_most} were counted"

    async def lost(self) -> list[str]:
        """Durable objects whose state is not what their callers were told."""
        found = []
        for called in self.called:
            if called.kind != "durable":
                continue
            (value,) = await eventually(functools.partial(self._read, called.name), READ_S)
            answered = sum(call.value > 0 for call in called.calls)
            unknown = sum(
                not call.value and call.executed is not Executed.NO for call in called.calls
            )
            if not answered <= value <= answered + unknown:
                found.append(f"{called.name}: {value}, {answered} answered, {unknown} unknown")
        return found

    async def _read(self, name: str) -> tuple[int] | None:
        """None: the read was lost on its way, as its shard still moves. It may be repeated."""
        try:
            return (await self.clients[0].get(KeptTally, name).read(),)
        except Unavailable:
            return None
