"""Deadlines of the calls on a link: one timer, and nothing to take back when a call ends in time.

Almost every call ends long before its deadline, so ending must cost nothing. The table of calls
is all there is; a timer waits for the earliest deadline that was seen, and when it fires the table
is walked and the next one found. With one deadline for all calls that is a walk every so many
seconds; at worst, a walk every ``STEP_S``.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from typing import Generic, Protocol, TypeVar

STEP_S = 0.01
"""How late a deadline may be noticed."""


class Expiring(Protocol):
    deadline: float


Entry = TypeVar("Entry", bound=Expiring)


class Expiry(Generic[Entry]):
    """Calls ``expire(entry)`` for every entry of ``table`` whose deadline has passed.

    Whoever adds an entry says so: ``if deadline < expiry.next: expiry.expect(deadline)``.
    """

    def __init__(self, table: Mapping[int, Entry], expire: Callable[[Entry], None]) -> None:
        self._table = table
        self._expire = expire
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False
        self.next = math.inf
        """No entry's deadline is earlier than this."""

    def expect(self, deadline: float) -> None:
        self.next = deadline
        if self._timer is not None:
            self._timer.cancel()
        # Walks are never closer together than a step, however many deadlines there are.
        when = max(deadline, self._loop.time()) + STEP_S
        self._timer = self._loop.call_at(when, self._look)

    def stop(self) -> None:
        self._stopped = True
        self.next = -math.inf  # nothing is earlier: `expect` will not be called again
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        now = self._loop.time()
        earliest = math.inf
        for entry in tuple(self._table.values()):
            if entry.deadline <= now:
                self._expire(entry)
            elif entry.deadline < earliest:
                earliest = entry.deadline
        if self._stopped:  # an expired entry may have ended the link
            return
        self.next = math.inf
        if earliest < math.inf:
            self.expect(earliest)
