"""One process's client of a `MemoryStore`: deadlines, retries and renewals over a channel."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

from goverse.aio.backoff import Backoff
from goverse.aio.runtime import Runtime
from goverse.aio.tasks import Tasks
from goverse.coordination.api import (
    Compare,
    Coordinator,
    CoordinatorSnapshot,
    CoordinatorUnavailable,
    Delete,
    KeyValue,
    Put,
    Snapshot,
    TxnResult,
)
from goverse.coordination.checks import check_prefix, check_transaction
from goverse.coordination.feed import Feed
from goverse.coordination.memory.channel import Channel, DirectChannel
from goverse.coordination.memory.lease import LeaseDoor, MemoryLease
from goverse.coordination.memory.store import MemoryStore
from goverse.coordination.memory.watch import WatchPump

T = TypeVar("T")

READ_ATTEMPT_S = 2.0  # a read is repeated after this, doubling
MAX_READ_ATTEMPT_S = 3.0  # but never later: who waits longer comes back later after an outage
WRITE_ATTEMPT_S = 3.0  # a write without an answer is reported after this


class MemoryCoordinator(Coordinator):
    """A `Coordinator`; made by `MemoryStore.connect`."""

    def __init__(
        self,
        store: MemoryStore,
        runtime: Runtime,
        channel: Channel | None = None,
        *,
        operation_timeout_s: float = 60.0,
    ) -> None:
        self._store = store
        self._runtime = runtime
        self._channel: Channel = channel or DirectChannel()
        self._operation_timeout_s = operation_timeout_s
        self._tasks = Tasks("memory coordinator")
        self._watches: list[Feed] = []
        self._leases: list[MemoryLease] = []
        self._last_error = ""
        self._closed = False

    async def get(self, key: str) -> KeyValue | None:
        return await self._repeat(lambda: self._store.get(key))

    async def list(self, prefix: str) -> Snapshot:
        check_prefix(prefix)
        return await self._repeat(lambda: self._store.list(prefix))

    async def transact(
        self, compares: Sequence[Compare], operations: Sequence[Put | Delete]
    ) -> TxnResult:
        check_transaction(compares, operations)
        asked, wanted = tuple(compares), tuple(operations)
        limit_s = min(WRITE_ATTEMPT_S, self._operation_timeout_s)
        return await self._attempt(lambda: self._store.transact(asked, wanted), limit_s)

    async def grant(self, ttl_s: float) -> MemoryLease:
        # A grant whose answer is lost leaves a lease without keys, which ends by itself.
        sent_at = 0.0

        def sending() -> None:
            nonlocal sent_at
            sent_at = self._runtime.clock.now()

        number = await self._repeat(lambda: self._store.grant(ttl_s), sending)
        door = LeaseDoor(
            renew=lambda limit_s: self._attempt(lambda: self._store.renew(number), limit_s),
            revoke=lambda limit_s: self._attempt(lambda: self._store.revoke(number), limit_s),
        )
        lease = MemoryLease(number, ttl_s, sent_at, door, self._runtime)
        self._leases = [known for known in self._leases if not known.ended]
        self._leases.append(lease)
        lease.start(self._tasks)
        return lease

    def watch(self, prefix: str) -> Feed:
        check_prefix(prefix)
        pump = WatchPump(self._store, self._attempt, Backoff(self._runtime.random))
        feed = Feed(prefix, self._tasks, self._runtime.clock, pump.run)
        self._watches = [known for known in self._watches if not known.closed]
        self._watches.append(feed)
        return feed

    def snapshot(self) -> CoordinatorSnapshot:
        return CoordinatorSnapshot(
            backend="memory",
            endpoint="" if self._closed else "memory",
            last_error=self._last_error,
            watches=tuple(feed.snapshot() for feed in self._watches if not feed.closed),
            leases=tuple(lease.snapshot() for lease in self._leases if not lease.ended),
        )

    async def close(self) -> None:
        self._closed = True
        for lease in self._leases:
            await lease.abandon()
        await self._tasks.close()

    async def _attempt(self, operation: Callable[[], T], limit_s: float) -> T:
        """Ask once. Raises `CoordinatorUnavailable`: it may have been carried out or not."""
        if self._closed:
            raise CoordinatorUnavailable("this client is closed")
        try:
            async with asyncio.timeout(limit_s):
                return await self._channel.request(operation)
        except TimeoutError:
            self._last_error = f"no answer within {limit_s:.1f} s"
            raise CoordinatorUnavailable(self._last_error) from None
        except CoordinatorUnavailable as error:
            self._last_error = str(error)
            raise

    async def _repeat(
        self, operation: Callable[[], T], sending: Callable[[], None] = lambda: None
    ) -> T:
        """Ask until there is an answer: only for what may be carried out more than once."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._operation_timeout_s
        backoff = Backoff(self._runtime.random)
        limit_s = READ_ATTEMPT_S
        while True:
            sending()
            try:
                return await self._attempt(operation, min(limit_s, deadline - loop.time()))
            except CoordinatorUnavailable:
                pause_s = backoff.next_s()
                if self._closed or loop.time() + pause_s >= deadline:
                    raise
                await asyncio.sleep(pause_s)
                limit_s = min(limit_s * 2, MAX_READ_ATTEMPT_S)
