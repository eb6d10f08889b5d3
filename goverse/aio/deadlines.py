"""Many deadlines, one timer: expiry in steps instead of one loop timer per call."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

T = TypeVar("T")

Handle = tuple[int, int]


class Deadlines:
    """Calls back once a deadline has passed, late by at most ``step_s``.

    A loop timer costs a heap operation to arm and leaves a tombstone when it is cancelled; at
    tens of thousands of calls a second with 30 s deadlines that is a million dead timers. Here
    a deadline is an entry in the bucket of its step, gone when it is cancelled.
    """

    def __init__(self, *, step_s: float = 0.02) -> None:
        self._step_s = step_s
        self._buckets: dict[int, dict[int, Callable[[], None]]] = {}
        self._steps: list[int] = []  # a heap of the keys of the buckets
        self._next_token = 0
        self._timer: asyncio.TimerHandle | None = None
        self._armed = 0
        self._closed = False

    def add(self, deadline: float, callback: Callable[[], None]) -> Handle:
        """Arrange for ``callback`` at ``deadline`` (running loop's ``time()``, seconds)."""
        step = int(deadline / self._step_s) + 1
        self._next_token = token = self._next_token + 1
        bucket = self._buckets.get(step)
        if bucket is None:
            bucket = self._buckets[step] = {}
            heapq.heappush(self._steps, step)
            if self._timer is None or step < self._armed:
                self._arm(step)
        bucket[token] = callback
        return step, token

    def cancel(self, handle: Handle) -> None:
        """Forget a deadline; harmless if it has passed. An empty bucket waits for its timer."""
        bucket = self._buckets.get(handle[0])
        if bucket is not None:
            bucket.pop(handle[1], None)

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))

    def close(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._buckets.clear()
        self._steps.clear()

    def _arm(self, step: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed = step
        loop = asyncio.get_running_loop()
        self._timer = loop.call_at(step * self._step_s, self._fire)

    def _fire(self) -> None:
        self._timer = None
        now_step = int(asyncio.get_running_loop().time() / self._step_s + 1e-6)
        due = []
        while self._steps and self._steps[0] <= now_step:
            due.append(heapq.heappop(self._steps))
        for step in due:  # a callback may cancel what is due later
            for callback in self._buckets.pop(step, {}).values():
                callback()
        if self._steps and not self._closed:
            self._arm(self._steps[0])


class Reminders(Generic[T]):
    """Deadlines of many things that wait long: each costs an entry, and no object of its own.

    :param due: called with each thing once its time has come, late by at most ``step_s`` and a
        little.
    """

    def __init__(self, due: Callable[[T], None], *, step_s: float) -> None:
        self._due = due
        self._step_s = step_s
        self._steps: dict[int, dict[T, None]] = {}
        self._deadlines = Deadlines()

    def add(self, deadline: float, thing: T) -> dict[T, None]:
        """Remind of ``thing`` at ``deadline``; what is returned is for `cancel`."""
        number = int(deadline / self._step_s) + 1
        step = self._steps.get(number)
        if step is None:
            step = self._steps[number] = {}
            self._deadlines.add(number * self._step_s, partial(self._fire, number))
        step[thing] = None
        return step

    def cancel(self, step: dict[T, None], thing: T) -> None:
        """Forget ``thing``; harmless if its time has come."""
        step.pop(thing, None)

    def __len__(self) -> int:
        return sum(map(len, self._steps.values()))

    def close(self) -> None:
        self._deadlines.close()
        self._steps.clear()

    def _fire(self, number: int) -> None:
        step = self._steps.pop(number)
        for thing in list(step):
            if thing in step:  # what was due before it may have cancelled it
                self._due(thing)
