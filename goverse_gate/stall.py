"""Gives up on a client that reads nothing of what was sent to it; a slow reader is not one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class StallTimer:
    """Runs while a connection's writing is paused.

    :param unsent: bytes that the client has yet to read.
    :param give_up: called when ``timeout_s`` have passed in which it read none.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        timeout_s: float,
        unsent: Callable[[], int],
        give_up: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._timeout_s = timeout_s
        self._unsent = unsent
        self._give_up = give_up
        self._timer: asyncio.TimerHandle | None = None
        self._left = 0

    def start(self) -> None:
        if self._timer is None:
            self._left = self._unsent()
            self._timer = self._loop.call_later(self._timeout_s, self._look)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        left = self._unsent()
        if left >= self._left:
            self._give_up()
        else:
            self.start()
