"""Callers that go on for the whole of a run, and every call that they made.

Each object has one caller, so that a call that waits delays only the objects of its caller.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

import goverse.client
from benchmarks.cluster import balanced
from benchmarks.objects import Placed
from goverse.client import Client
from goverse.errors import GoverseError
from goverse.testing.processes import ProcessCluster

CALLERS = 128
OBJECTS = 2_048
#: Seconds between two calls of a caller: most of the machine is left to what is measured.
PAUSE_S = (0.02, 0.06)
AROUND_S = 1.0
_ERRORS_KEPT = 20


class Made(NamedTuple):
    """One call.

    :param began, ended: as `time.monotonic`.
    :param pid: of the process that answered; 0: the call failed.
    """

    began: float
    ended: float
    pid: int

    @property
    def waited_s(self) -> float:
        return self.ended - self.began


class Steady:
    """What callers have seen so far.

    :ivar calls: by object, in order. :ivar errors: the last few, in words.
    """

    def __init__(self, client: Client) -> None:
        self.calls: list[list[Made]] = [[] for _ in range(OBJECTS)]
        self.errors: deque[str] = deque(maxlen=_ERRORS_KEPT)
        self._objects = [client.get(Placed, f"placed-{number}") for number in range(OBJECTS)]

    async def call(self, number: int) -> Made:
        """Call an object now, and remember that."""
        began = time.monotonic()
        try:
            pid = await self._objects[number].where()
        except GoverseError as error:
            pid = 0
            self.errors.append(f"placed-{number}: {error.code}: {error}")
        made = Made(began, time.monotonic(), pid)
        self.calls[number].append(made)
        return made

    async def call_until_answered(self, number: int) -> Made:
        while not (made := await self.call(number)).pid:
            pass
        return made

    def between(
        self, since: float, until: float, objects: Iterable[int] = range(OBJECTS)
    ) -> list[Made]:
        """Calls of ``objects`` that were under way at some moment between those two."""
        return [call for number in objects for call in _between(self.calls[number], since, until)]

    def moved(self, since: float, until: float) -> tuple[int, list[Made]]:
        """How many objects changed their process between those moments, and their calls from
        `AROUND_S` before the last answer of the one to `AROUND_S` after the first of the other."""
        moved: list[list[Made]] = []
        for made in self.calls:
            changes = [
                (before, after)
                for before, after in _changes(made)
                if after.ended > since and after.began < until
            ]
            if changes:
                low, high = changes[0][0].began - AROUND_S, changes[-1][1].ended + AROUND_S
                moved.append(_between(made, low, high))
        return len(moved), list(itertools.chain.from_iterable(moved))


def _between(made: Sequence[Made], since: float, until: float) -> list[Made]:
    return [call for call in made if call.ended > since and call.began < until]


def _changes(made: Sequence[Made]) -> Iterator[tuple[Made, Made]]:
    """The calls of one object before and after it changed its process."""
    for before, after in itertools.pairwise(call for call in made if call.pid):
        if before.pid != after.pid:
            yield before, after


def failed(made: Iterable[Made]) -> int:
    return sum(not call.pid for call in made)


def p99_s(made: Sequence[Made]) -> float:
    """The 99th percentile of the seconds that these calls took. Raises ValueError for fewer than
    two."""
    return statistics.quantiles((call.waited_s for call in made), n=100)[98]


def longest_s(made: Iterable[Made]) -> float:
    return max((call.waited_s for call in made), default=0.0)


@asynccontextmanager
async def serving(
    cluster: ProcessCluster, nodes: Sequence[str], **environment: str
) -> AsyncIterator[Steady]:
    """Start ``nodes`` and a gate, and call until the block is left; when it is entered, all is
    balanced and every object has been called once."""
    for name in nodes:
        await cluster.start_node(name, **environment)
    gate = await cluster.start_gate("gate")
    await cluster.wait_ready()
    await balanced(cluster, nodes)
    async with goverse.client.connect(gate.address) as client:
        seen = Steady(client)
        tasks = [asyncio.create_task(_caller(seen, number)) for number in range(CALLERS)]
        try:
            while not all(seen.calls):
                if seen.errors:
                    raise RuntimeError(f"calls fail before anything happened: {seen.errors[0]}")
                await asyncio.sleep(0.05)
            yield seen
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _caller(seen: Steady, number: int) -> None:
    chance = random.Random(number)
    while True:
        for each in range(number, OBJECTS, CALLERS):
            await seen.call(each)
            await asyncio.sleep(chance.uniform(*PAUSE_S))
