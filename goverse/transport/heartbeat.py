"""Knows whether the peer is alive: a cut cable sends no sign of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Heartbeat:
    """Sends a sign of life when nothing else was sent, and notices silence.

    :param send: queue a ping.
    :param on_silence: nothing was heard for ``timeout_s``; called with the reason, at most once.
    """

    def __init__(
        self,
        *,
        interval_s: float,
        timeout_s: float,
        send: Callable[[], None],
        on_silence: Callable[[str], None],
    ) -> None:
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._send = send
        self._on_silence = on_silence
        self._loop = asyncio.get_running_loop()
        self._heard = self._loop.time()
        self._has_sent = False
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    def start(self) -> None:
        self.heard()
        self._arm()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def heard(self) -> None:
        """Something arrived."""
        self._heard = self._loop.time()

    def sent(self) -> None:
        """Something was sent: no ping is needed for a while."""
        self._has_sent = True

    @property
    def silent_s(self) -> float:
        return self._loop.time() - self._heard

    def _arm(self) -> None:
        self._due = self._loop.time() + self._interval_s
        self._timer = self._loop.call_at(self._due, self._beat)

    def _beat(self) -> None:
        now = self._loop.time()
        late_s = now - self._due
        # Time in which this process stood still is no silence of the peer: what it sent meanwhile
        # has not been read yet. After a long stand, reading comes before the verdict.
        self._heard = min(now, self._heard + late_s)
        if late_s <= self._interval_s and now - self._heard > self._timeout_s:
            self._timer = None
            self._on_silence(f"nothing was heard for {self._timeout_s:g} s")
            return
        if not self._has_sent:
            self._send()
        self._has_sent = False
        self._arm()
