"""Clocks. Time is an argument: whoever needs one is given one."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Protocol


class Clock(Protocol):
    """Seconds that never go back and also count while the machine is suspended."""

    def now(self) -> float: ...

    def wall(self) -> float:
        """Seconds since 1970, for people. Never used to decide anything."""
        ...


class SystemClock:
    """The boot-time clock where the system has one, otherwise the monotonic one.

    A monotonic clock stands still while a machine is suspended, and a lease would then be
    believed after the coordinator has ended it.
    """

    def __init__(self) -> None:
        clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
        # No method: a lease is looked at several times per call.
        self.now: Callable[[], float] = partial(time.clock_gettime, clock)

    def wall(self) -> float:
        return time.time()
