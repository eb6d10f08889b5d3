"""The thread that renews one lease, and what it knows of it."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable

from goverse.aio.backoff import Backoff
from goverse.aio.runtime import Runtime
from goverse.coordination.etcd.renewal import Renewal, RenewalFailed

log = logging.getLogger(__name__)


class Keeper:
    """Renews every fifth of the TTL, one question at a time.

    It is a thread so that a method that blocks the event loop for a moment does not cost the
    process its lease. It stops when the loop has not ticked for ``stall_limit_s``, so that a
    process whose loop hangs for ever does lose it; if the ticks return while the lease still
    lives, so does the renewing.

    ``deadline`` and the last tick are shared with the event loop without a lock: each is one float
    with one writer.
    """

    def __init__(
        self,
        renewal: Renewal,
        ttl_s: float,
        sent_at: float,
        runtime: Runtime,
        stall_limit_s: float,
    ) -> None:
        self._renewal = renewal
        self._clock = runtime.clock
        self._stall_limit_s = stall_limit_s
        self._interval_s = ttl_s / 5
        # A generator of the thread's own: the loop's is not shared with it.
        source = random.Random(runtime.random.getrandbits(64))
        # Failures must not make it wait longer and longer: the next renewal is never later than
        # it would have been after a success.
        longest_s = max(0.02, min(1.0, self._interval_s))
        self._backoff = Backoff(source, min_s=min(0.1, longest_s), max_s=longest_s)
        self._stopped = threading.Event()
        self._stalled = False
        self.lease = renewal.lease
        self.ttl_s = float(ttl_s)
        self.deadline = sent_at + ttl_s
        self._ticked = self._clock.now()

    def tick(self) -> None:
        self._ticked = self._clock.now()

    def run(self, on_over: Callable[[], None], on_end: Callable[[], None]) -> None:
        """The thread's main function.

        :param on_over: called in this thread when the coordinator says that the lease is over.
        :param on_end: called in this thread when it ends, for whatever reason.
        """
        try:
            pause_s = self._interval_s
            while not self._stopped.wait(pause_s):
                pause_s = self._round(on_over)
        except Exception:
            # Nobody renews any more, and the deadline says so.
            log.exception("the thread of lease %x ended", self.lease)
        finally:
            self._renewal.close()
            on_end()

    def _round(self, on_over: Callable[[], None]) -> float:
        """Renew once. Returns the pause before the next time."""
        sent_at = self._clock.now()
        stalled_s = sent_at - self._ticked
        if stalled_s > self._stall_limit_s:
            if not self._stalled:
                log.error(
                    "lease %x is not renewed: the event loop has not run for %.1f s",
                    self.lease,
                    stalled_s,
                )
            self._stalled = True
            return self._interval_s / 2
        self._stalled = False
        try:
            ttl_s = self._renewal.ask(self._interval_s)
        except RenewalFailed as error:
            if not self._stopped.is_set():
                left_s = self.deadline - self._clock.now()
                log.warning("lease %x not renewed, %.1f s left: %s", self.lease, left_s, error)
            return self._backoff.next_s()
        if ttl_s == 0:
            log.error("lease %x is over, says the coordinator", self.lease)
            self.deadline = 0.0
            self._stopped.set()
            on_over()
            return 0.0
        # From the sending of this question: when the answer came says nothing.
        self.deadline = sent_at + ttl_s
        self._backoff.reset()
        return self._interval_s

    def stop(self) -> None:
        """From any thread: renew no more. Returns at once."""
        self._stopped.set()
        self._renewal.interrupt()
