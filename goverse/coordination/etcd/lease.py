"""A lease on etcd as the event loop sees it."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable

from goverse.coordination.api import CoordinatorUnavailable, Lease, LeaseSnapshot
from goverse.coordination.etcd.keeper import Keeper

log = logging.getLogger(__name__)

THREAD_END_S = 2.0


class EtcdLease(Lease):
    """See `goverse.coordination.Lease`; a `Keeper` renews it in a thread.

    :param end: revokes a lease at etcd, given its id and the longest wait in seconds.
    """

    def __init__(
        self, number: int, keeper: Keeper, end: Callable[[int, float], Awaitable[None]]
    ) -> None:
        self._id = number
        self._keeper = keeper
        self._end = end
        self._on_lost: list[Callable[[], None]] = []
        self._thread_ended = asyncio.Event()
        self.ended = False

    @property
    def id(self) -> int:
        return self._id

    @property
    def ttl_s(self) -> float:
        return self._keeper.ttl_s

    @property
    def deadline(self) -> float:
        # Checked first: an answer may still arrive in the thread after the lease was given up.
        return 0.0 if self.ended else self._keeper.deadline

    def tick(self) -> None:
        self._keeper.tick()

    def on_lost(self, callback: Callable[[], None]) -> None:
        self._on_lost.append(callback)

    def start(self) -> None:
        """Start the thread. It is a daemon: a process never waits for it to end."""
        loop = asyncio.get_running_loop()
        threading.Thread(
            target=self._keeper.run,
            args=(
                lambda: _in_loop(loop, self._lose),
                lambda: _in_loop(loop, self._thread_ended.set),
            ),
            name=f"lease {self._id:x}",
            daemon=True,
        ).start()

    def _lose(self) -> None:
        if self.ended:
            return
        self.ended = True
        for callback in self._on_lost:
            callback()

    async def revoke(self) -> None:
        await self.abandon()
        try:
            await self._end(self._id, self.ttl_s)
        except TimeoutError:
            log.warning("lease %x was not revoked: no answer; it ends by itself", self._id)
        except CoordinatorUnavailable as error:
            log.info("lease %x was not revoked: %s", self._id, error)

    async def abandon(self) -> None:
        self.ended = True
        self._keeper.stop()

    async def wait_thread_ended(self) -> None:
        try:
            async with asyncio.timeout(THREAD_END_S):
                await self._thread_ended.wait()
        except TimeoutError:
            log.error("the thread of lease %x does not end", self._id)

    def snapshot(self) -> LeaseSnapshot:
        return LeaseSnapshot(self._id, self.ttl_s, self.deadline)


def _in_loop(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    try:
        loop.call_soon_threadsafe(callback)
    except RuntimeError:
        pass  # the loop is closed: the process ends and nobody wants to know
