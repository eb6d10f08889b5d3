"""The store's clock, as far as a node knows it."""

from __future__ import annotations

import asyncio

from goverse.aio.runtime import Runtime


class StoreClock:
    """Counts on from when the store last told its time; until then it is this machine's.

    The loop's clock does not jump, so that between two times of the store this does not either. It
    decides when the store is asked, and what a delay is counted from; what is due, the store says.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._offset_s: float | None = None
        self._heard_at = 0.0

    def now(self) -> float:
        """Seconds since 1970."""
        return self.at(asyncio.get_running_loop().time())

    def at(self, moment: float) -> float:
        """The same, for a moment of the running loop's clock."""
        if self._offset_s is None:
            self._offset_s = self._runtime.clock.wall() - asyncio.get_running_loop().time()
        return moment + self._offset_s

    def heard(self, now: float, asked_at: float) -> None:
        """The store has told ``now``, since it was asked at ``asked_at`` of the loop's clock."""
        self._heard_at = asyncio.get_running_loop().time()
        self._offset_s = now - (asked_at + self._heard_at) / 2

    def not_yet(self, moment: float, asked_at: float) -> None:
        """The store has said that ``moment`` had not come, after it was asked at ``asked_at``."""
        self._offset_s = min(self.at(0.0), moment - asked_at)

    def age_s(self) -> float:
        """Seconds since the store told its time."""
        return asyncio.get_running_loop().time() - self._heard_at
