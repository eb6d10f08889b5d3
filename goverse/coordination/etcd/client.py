"""The Coordinator on etcd: operations, their deadlines and which of them are repeated."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from aetcd import rpc

from goverse.aio.backoff import Backoff
from goverse.aio.runtime import Runtime
from goverse.aio.tasks import Tasks
from goverse.config.settings import EtcdSettings
from goverse.coordination.api import (
    Compare,
    Coordinator,
    CoordinatorSnapshot,
    CoordinatorUnavailable,
    Delete,
    KeyValue,
    Put,
    Snapshot,
    TransactionTooLarge,
    TxnResult,
)
from goverse.coordination.checks import check_prefix, check_transaction
from goverse.coordination.etcd import codec
from goverse.coordination.etcd.connection import Connection
from goverse.coordination.etcd.endpoints import Endpoints
from goverse.coordination.etcd.failures import LEASE_NOT_FOUND, Fate, RequestFailed
from goverse.coordination.etcd.keeper import Keeper
from goverse.coordination.etcd.lease import EtcdLease
from goverse.coordination.etcd.lineage import Lineage
from goverse.coordination.etcd.renewal import EtcdRenewal
from goverse.coordination.etcd.watch import WatchPump
from goverse.coordination.feed import Feed

T = TypeVar("T")

READ_ATTEMPT_S = 2.0  # a read is repeated after this, doubling
MAX_READ_ATTEMPT_S = 8.0  # a large listing takes tens of milliseconds; silence means a loss
TICK_S = 0.2
_TOO_LARGE = (
    "etcdserver: too many operations in txn request",
    "etcdserver: request is too large",
)

Ask = Callable[[Connection, float], Awaitable[T]]


class EtcdCoordinator(Coordinator):
    """A `Coordinator`; connects when it is first used."""

    def __init__(
        self, settings: EtcdSettings, runtime: Runtime, *, loop_stall_limit_s: float = 10.0
    ) -> None:
        self._settings = settings
        self._runtime = runtime
        self._loop_stall_limit_s = loop_stall_limit_s
        self._tasks = Tasks("etcd")
        self._endpoints = Endpoints(settings, runtime, self._tasks)
        self._lineage = Lineage()
        self._watches: list[Feed] = []
        self._leases: list[EtcdLease] = []
        self._ticker: asyncio.Task[None] | None = None

    async def get(self, key: str) -> KeyValue | None:
        answer = await self._repeat(self._range(rpc.RangeRequest(key=key.encode())))
        return codec.key_value(answer.kvs[0]) if answer.kvs else None

    async def list(self, prefix: str) -> Snapshot:
        check_prefix(prefix)
        request = rpc.RangeRequest(key=prefix.encode(), range_end=codec.prefix_end(prefix))
        return codec.snapshot(await self._repeat(self._range(request)))

    async def transact(
        self, compares: Sequence[Compare], operations: Sequence[Put | Delete]
    ) -> TxnResult:
        check_transaction(compares, operations)
        request = codec.transaction(compares, operations, codec.own_key(self._settings))
        try:
            answer = await self._within_deadline(self._send_once(request))
        except RequestFailed as error:
            if error.text.startswith(LEASE_NOT_FOUND):
                return TxnResult(False, await self._revision())
            if error.text.startswith(_TOO_LARGE):
                raise TransactionTooLarge(error.text) from None
            raise CoordinatorUnavailable(
                f"transaction: {error.text} ({error.fate.value})"
            ) from None
        self._lineage.advance(answer.header)
        return TxnResult(answer.succeeded, answer.header.revision)

    async def _send_once(self, request: Any) -> Any:
        backoff = Backoff(self._runtime.random)
        while True:
            connection = await self._endpoints.connection()
            try:
                return await connection.ask(
                    connection.kv.Txn, request, self._settings.operation_timeout_s
                )
            except RequestFailed as error:
                # Once etcd may have it, it is never sent again: compares guard against most
                # repetitions, but a caller that learns "failed" must not have written.
                if error.fate is not Fate.NOT_TAKEN:
                    raise
            await asyncio.sleep(backoff.next_s())

    async def _revision(self) -> int:
        request = rpc.RangeRequest(key=codec.own_key(self._settings), count_only=True)
        answer = await self._repeat(self._range(request))
        revision: int = answer.header.revision
        return revision

    def watch(self, prefix: str) -> Feed:
        check_prefix(prefix)
        pump = WatchPump(self._endpoints, self._lineage, self._tasks, self._runtime)
        feed = Feed(prefix, self._tasks, self._runtime.clock, pump.run)
        self._watches = [known for known in self._watches if not known.closed]
        self._watches.append(feed)
        return feed

    async def grant(self, ttl_s: float) -> EtcdLease:
        request = rpc.LeaseGrantRequest(TTL=math.ceil(ttl_s))

        async def ask(connection: Connection, limit_s: float) -> tuple[float, Any]:
            sent_at = self._runtime.clock.now()
            return sent_at, await connection.ask(connection.leases.LeaseGrant, request, limit_s)

        # A grant whose answer is lost leaves a lease without keys, which ends by itself.
        sent_at, answer = await self._repeat(ask)
        renewal = EtcdRenewal(answer.ID, self._settings, self._runtime)
        keeper = Keeper(renewal, answer.TTL, sent_at, self._runtime, self._loop_stall_limit_s)
        lease = EtcdLease(answer.ID, keeper, self._end_lease)
        self._leases = [known for known in self._leases if not known.ended]
        self._leases.append(lease)
        if self._ticker is None:
            self._ticker = self._tasks.spawn("ticker", self._tick())
        lease.start()
        return lease

    async def _end_lease(self, lease: int, limit_s: float) -> None:
        request = rpc.LeaseRevokeRequest(ID=lease)
        async with asyncio.timeout(limit_s):
            await self._ask_until_answered(
                lambda connection, left_s: connection.ask(
                    connection.leases.LeaseRevoke, request, left_s
                )
            )

    async def _tick(self) -> None:
        """Tell the leases' threads that the loop is alive."""
        while True:
            for lease in self._leases:
                lease.tick()
            await asyncio.sleep(min(TICK_S, self._loop_stall_limit_s / 5))

    def _range(self, request: Any) -> Ask[Any]:
        async def ask(connection: Connection, limit_s: float) -> Any:
            mark = self._lineage.mark()
            answer = await connection.ask(connection.kv.Range, request, limit_s)
            self._lineage.check(answer.header, mark)
            return answer

        return ask

    async def _repeat(self, ask: Ask[T]) -> T:
        """Ask until there is an answer: only for what may be carried out more than once."""
        return await self._within_deadline(self._ask_until_answered(ask))

    async def _ask_until_answered(self, ask: Ask[T]) -> T:
        backoff = Backoff(self._runtime.random)
        limit_s = READ_ATTEMPT_S
        while True:
            connection = await self._endpoints.connection()
            try:
                return await ask(connection, limit_s)
            except RequestFailed as error:
                if error.fate is Fate.REFUSED:
                    raise CoordinatorUnavailable(f"etcd refuses: {error.text}") from None
                self._endpoints.last_error = f"{connection.address}: {error.text}"
            limit_s = min(limit_s * 2, MAX_READ_ATTEMPT_S)
            await asyncio.sleep(backoff.next_s())

    async def _within_deadline(self, operation: Awaitable[T]) -> T:
        limit_s = self._settings.operation_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                return await operation
        except TimeoutError:
            before = self._endpoints.last_error
            text = f"no answer from etcd within {limit_s:.1f} s" + (before and f"; {before}")
            self._endpoints.last_error = before or text
            raise CoordinatorUnavailable(text) from None

    def snapshot(self) -> CoordinatorSnapshot:
        return CoordinatorSnapshot(
            backend="etcd",
            endpoint=self._endpoints.address,
            last_error=self._endpoints.last_error,
            watches=tuple(feed.snapshot() for feed in self._watches if not feed.closed),
            leases=tuple(lease.snapshot() for lease in self._leases if not lease.ended),
        )

    async def close(self) -> None:
        for lease in self._leases:
            await lease.abandon()
        await self._endpoints.close()
        await self._tasks.close()
        for lease in self._leases:
            await lease.wait_thread_ended()
