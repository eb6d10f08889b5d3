"""Saying something once in a while, however often there is reason to."""

from __future__ import annotations

import asyncio


class Seldom:
    """::

        if self._tell.due():
            log.warning("one of %d waits: %s", waiting, error)

    :param every_s: seconds between two times.
    """

    def __init__(self, every_s: float = 1.0) -> None:
        self._every_s = every_s
        self._next_at = 0.0

    def due(self) -> bool:
        """Whether it is time; if so, the next is ``every_s`` later."""
        now = asyncio.get_running_loop().time()
        if now < self._next_at:
            return False
        self._next_at = now + self._every_s
        return True
