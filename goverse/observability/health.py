"""Is this process alive? Measured from outside the event loop, which is what may hang."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HealthReport:
    """What `/healthz` answers.

    :param loop_lag_s: how long the event loop is overdue, in seconds.
    """

    healthy: bool
    loop_lag_s: float

    def __str__(self) -> str:
        if self.healthy:
            return "ok"
        return f"the event loop has been stuck for {self.loop_lag_s:.1f} s"


@dataclass(frozen=True)
class Readiness:
    """What `/ready` answers. Computed anew for each question, so that it can never latch.

    :param reasons: what is missing; empty if and only if ready.
    :param text: how far it is, like ``claimed 2040/2048``.
    """

    ready: bool
    reasons: tuple[str, ...] = ()
    text: str = ""

    def __str__(self) -> str:
        lines = ["ready" if self.ready else "not ready", *(f"- {why}" for why in self.reasons)]
        return "\n".join([*lines, self.text] if self.text else lines)


class LoopWatchdog:
    """Notices that the event loop hangs, from a thread, and logs once where it hangs.

    The loop leaves the time at every beat. Whoever asks compares that with the clock; nothing is
    asked of the loop, so that the answer comes also when it is stuck.

    :param stuck_after_s: how long the loop may be overdue and still be called healthy.
    :param now: a clock that runs while the loop does not, readable from every thread.
    """

    def __init__(
        self,
        *,
        stuck_after_s: float = 5.0,
        beat_s: float = 0.25,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stuck_after_s = stuck_after_s
        self._beat_s = beat_s
        self._now = now
        self._last = now()
        self._timer: asyncio.TimerHandle | None = None
        self._loop_thread = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._reported = False

    def start(self) -> None:
        """Begin to watch the running loop."""
        self._loop_thread = threading.get_ident()
        self._beat()
        self._thread = threading.Thread(target=self._watch, name="goverse-watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def lag_s(self) -> float:
        """How long the loop is overdue; callable from every thread."""
        return max(0.0, self._now() - self._last - self._beat_s)

    def report(self) -> HealthReport:
        """Callable from every thread."""
        lag_s = self.lag_s()
        return HealthReport(lag_s < self._stuck_after_s, lag_s)

    def look(self) -> None:
        """Log where the loop hangs if it does, once until it runs again."""
        report = self.report()
        if report.healthy:
            if self._reported:
                log.warning("the event loop runs again")
            self._reported = False
        elif not self._reported:
            self._reported = True
            frame = sys._current_frames().get(self._loop_thread)
            where = "".join(traceback.format_stack(frame)) if frame else "unknown"
            log.handle(
                log.makeRecord(
                    log.name, logging.ERROR, __file__, 0, "%s", (report,), None, sinfo=where
                )
            )

    def _beat(self) -> None:
        self._last = self._now()
        self._timer = asyncio.get_running_loop().call_later(self._beat_s, self._beat)

    def _watch(self) -> None:
        while not self._stop.wait(self._beat_s * 4):
            self.look()
