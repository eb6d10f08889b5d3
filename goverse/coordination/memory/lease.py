"""A lease of a `MemoryStore`, renewed by a task of the process that holds it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from goverse.aio.backoff import Backoff
from goverse.aio.runtime import Runtime
from goverse.aio.tasks import Tasks
from goverse.coordination.api import CoordinatorUnavailable, Lease, LeaseSnapshot

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LeaseDoor:
    """How a lease reaches its store; both take the longest wait in seconds.

    :param renew: answers the TTL, 0 when the lease is over.
    :param revoke: ends it.
    """

    renew: Callable[[float], Awaitable[float]]
    revoke: Callable[[float], Awaitable[bool]]


class MemoryLease(Lease):
    """See `goverse.coordination.Lease`.

    The etcd lease renews from a thread. Here the store lives in the same process, so a thread
    could only outlive a hanging loop to renew at a store that hangs with it.
    """

    def __init__(
        self, number: int, ttl_s: float, sent_at: float, door: LeaseDoor, runtime: Runtime
    ) -> None:
        self._id = number
        self._ttl_s = ttl_s
        self._deadline = sent_at + ttl_s
        self._door = door
        self._runtime = runtime
        self._on_lost: list[Callable[[], None]] = []
        self._task: asyncio.Task[None] | None = None
        self.ended = False

    @property
    def id(self) -> int:
        return self._id

    @property
    def ttl_s(self) -> float:
        return self._ttl_s

    @property
    def deadline(self) -> float:
        return self._deadline

    def tick(self) -> None:
        """Nothing to say: the task that renews runs in the loop itself."""

    def on_lost(self, callback: Callable[[], None]) -> None:
        self._on_lost.append(callback)

    def start(self, tasks: Tasks) -> None:
        self._task = tasks.spawn(f"lease {self._id:x}", self._keep())

    async def _keep(self) -> None:
        interval_s = self._ttl_s / 5
        backoff = Backoff(self._runtime.random, max_s=max(0.1, min(1.0, interval_s)))
        pause_s = interval_s
        while True:
            await asyncio.sleep(pause_s)
            sent_at = self._runtime.clock.now()
            try:
                ttl_s = await self._door.renew(interval_s)
            except CoordinatorUnavailable:
                pause_s = backoff.next_s()
                continue
            if ttl_s == 0:
                self._lose()
                return
            # From the sending of this request: when it was answered says nothing.
            self._deadline = sent_at + ttl_s
            backoff.reset()
            pause_s = interval_s

    def _lose(self) -> None:
        log.warning("lease %x is over, says the coordinator", self._id)
        self._deadline = 0.0
        self.ended = True
        for callback in self._on_lost:
            callback()

    async def revoke(self) -> None:
        await self.abandon()
        try:
            await self._door.revoke(self._ttl_s)
        except CoordinatorUnavailable as error:
            log.warning("lease %x was not revoked and ends by itself: %s", self._id, error)

    async def abandon(self) -> None:
        self.ended = True
        self._deadline = 0.0
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()

    def snapshot(self) -> LeaseSnapshot:
        return LeaseSnapshot(self._id, self._ttl_s, self._deadline)
