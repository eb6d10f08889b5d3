"""One process's client of a `MemoryTables`: checks and deadlines over a channel."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from goverse.ids import Epoch, ObjectId
from goverse.storage import checks
from goverse.storage.api import (
    MAX_PAGE,
    Census,
    FinishedCalls,
    LiveCalls,
    OutcomeUnknown,
    QueuedCalls,
    SchemaStatus,
    StorageUnavailable,
    Store,
    StoreSnapshot,
)
from goverse.storage.counts import Counts
from goverse.storage.listing import (
    START,
    CallPosition,
    FinishedCount,
    LedgerSize,
    ListedCall,
)
from goverse.storage.memory.channel import Channel
from goverse.storage.memory.tables import MemoryTables
from goverse.storage.rules import MAX_FENCE_GROUP
from goverse.storage.values import (
    Acceptance,
    AcceptResult,
    CallStatus,
    CallStep,
    CommitResult,
    DelayedPage,
    DueStep,
    ObjectCommit,
    OutboxChange,
    OutboxRow,
    StepResult,
    StoredCall,
    StoredObject,
)

T = TypeVar("T")

SCHEMA = 1  # nothing to migrate: the tables are made by the program that reads them


class MemoryClient(Store):
    """A `Store`; made by `MemoryStore.connect`."""

    def __init__(
        self, tables: MemoryTables, channel: Channel, *, operation_timeout_s: float
    ) -> None:
        self._tables = tables
        self._channel = channel
        self._operation_timeout_s = operation_timeout_s
        self._committing = checks.InFlight()
        self._accepting = checks.InFlight()
        self._closed = False
        self._counts = Counts()

    # ---- administration

    async def schema_status(self) -> SchemaStatus:
        return SchemaStatus(SCHEMA, SCHEMA, ())

    async def migrate(self) -> tuple[str, ...]:
        return ()

    async def cluster_id(self) -> str:
        return await self._read(lambda: self._tables.cluster_id)

    async def adopt(self, cluster_id: str) -> None:
        await self._write(lambda: self._tables.adopt(cluster_id))

    async def highest_epoch(self) -> Epoch:
        return await self._read(self._tables.highest_epoch)

    async def census(self) -> Census:
        return await self._read(self._tables.census)

    async def live_calls(self) -> Sequence[LiveCalls]:
        return await self._read(self._tables.live_calls_by_type)

    async def longest_queues(self, limit: int) -> Sequence[QueuedCalls]:
        checks.check_limit(limit)
        return await self._read(lambda: self._tables.longest_queues(limit))

    async def finished_calls(self) -> Sequence[FinishedCalls]:
        return await self._read(self._tables.finished_calls)

    # ---- lists and cleanup

    async def now(self) -> float:
        return await self._read(self._tables.now)

    async def list_calls(
        self, status: CallStatus, *, after: CallPosition = START, limit: int = 1000
    ) -> Sequence[ListedCall]:
        checks.check_listing(after, limit)
        return await self._read(lambda: self._tables.listing.calls(status, after, limit))

    async def list_outbox(
        self, *, parked: bool, after: CallPosition = START, limit: int = 1000
    ) -> Sequence[ListedCall]:
        checks.check_listing(after, limit)
        return await self._read(lambda: self._tables.listing.outbox(parked, after, limit))

    async def count_finished(
        self,
        status: CallStatus,
        before: float,
        *,
        after: CallPosition = START,
        limit: int = MAX_PAGE,
    ) -> FinishedCount:
        checks.check_finished(status, before, after, limit)
        return await self._read(lambda: self._tables.listing.count(status, before, after, limit))

    async def delete_finished(self, call_ids: Sequence[str], before: float) -> Sequence[str]:
        checks.check_deletion(call_ids, before)
        wanted = tuple(call_ids)
        return await self._write(lambda: self._tables.listing.delete(wanted, before))

    async def ledger_size(self) -> LedgerSize:
        return await self._read(lambda: LedgerSize(None, None))

    # ---- fences

    async def check(self) -> None:
        await self._read(lambda: None)

    async def claim_cluster(self, cluster_id: str) -> None:
        await self._write(lambda: self._tables.claim_cluster(cluster_id))

    async def node_slot(self, node: str) -> int:
        return await self._write(lambda: self._tables.node_slot(node))

    async def raise_fence(
        self, slots: Sequence[int], epoch: Epoch, incarnation: str, opening: int
    ) -> None:
        checks.check_raise(slots, epoch, incarnation, opening)
        ascending = sorted(dict.fromkeys(slots))
        for start in range(0, len(ascending), MAX_FENCE_GROUP):
            group = ascending[start : start + MAX_FENCE_GROUP]
            raise_group = partial(self._tables.raise_fence, group, epoch, incarnation, opening)
            await self._write(raise_group)

    # ---- writing

    async def commit(self, batch: Sequence[ObjectCommit]) -> Sequence[CommitResult]:
        checks.check_commits(batch)
        wanted = tuple(batch)
        with self._committing.holding(commit.object for commit in wanted):
            results = await self._write(lambda: self._tables.commit(wanted))
        self._counts.committed(results)
        return results

    async def accept(self, calls: Sequence[Acceptance]) -> Sequence[AcceptResult]:
        checks.check_acceptances(calls)
        wanted = tuple(calls)
        with self._accepting.holding(acceptance.call.object for acceptance in wanted):
            results = await self._write(lambda: self._tables.accept(wanted))
        self._counts.accepted(results)
        return results

    async def change_calls(self, steps: Sequence[CallStep]) -> Sequence[StepResult]:
        checks.check_steps(steps)
        wanted = tuple(steps)
        results = await self._write(lambda: self._tables.change_calls(wanted))
        self._counts.refused(results)
        return results

    async def make_due(self, steps: Sequence[DueStep]) -> Sequence[StepResult]:
        checks.check_due(steps)
        wanted = tuple(steps)
        results = await self._write(lambda: self._tables.make_due(wanted))
        self._counts.refused(results)
        return results

    async def change_outbox(self, changes: Sequence[OutboxChange]) -> Sequence[StepResult]:
        checks.check_steps(changes)
        wanted = tuple(changes)
        results = await self._write(lambda: self._tables.change_outbox(wanted))
        self._counts.refused(results)
        return results

    # ---- reading

    async def load(self, objects: Sequence[ObjectId]) -> Mapping[ObjectId, StoredObject]:
        checks.check_objects(objects)
        wanted = tuple(objects)
        return await self._read(lambda: self._tables.load(wanted))

    async def get_calls(self, call_ids: Sequence[str]) -> Mapping[str, StoredCall]:
        checks.check_call_ids(call_ids)
        wanted = tuple(call_ids)
        return await self._read(lambda: self._tables.get_calls(wanted))

    async def deliveries(self, call_ids: Sequence[str]) -> Mapping[str, ListedCall]:
        checks.check_call_ids(call_ids)
        wanted = tuple(call_ids)
        return await self._read(lambda: self._tables.listing.deliveries(wanted))

    async def pending_calls(
        self, slots: Sequence[int], *, after: int = 0, limit: int = 1000
    ) -> Sequence[StoredCall]:
        checks.check_page(slots, limit)
        found = await self._read(lambda: self._tables.live_calls(slots, CallStatus.PENDING))
        ahead = [call for call in found if call.seq > after]
        return sorted(ahead, key=lambda call: call.seq)[:limit]

    async def parked_calls(
        self, slots: Sequence[int], *, after: str = "", limit: int = 1000
    ) -> Sequence[StoredCall]:
        checks.check_page(slots, limit)
        found = await self._read(lambda: self._tables.live_calls(slots, CallStatus.PARKED))
        # By bytes, as databases do it; Python compares code points, which is the same in UTF-8.
        ahead = [call for call in found if call.call.call_id > after]
        return sorted(ahead, key=lambda call: call.call.call_id)[:limit]

    async def delayed_calls(
        self,
        slots: Sequence[int],
        *,
        within_s: float,
        after: tuple[float, str] = (0.0, ""),
        limit: int = 1000,
    ) -> DelayedPage:
        checks.check_window(slots, within_s, after, limit)
        now, found = await self._read(lambda: self._tables.delayed_calls(slots, within_s))
        calls = sorted((call.timing.run_at, call.call_id, call) for call in found)
        ahead = [call for run_at, call_id, call in calls if (run_at, call_id) > after]
        return DelayedPage(now, tuple(ahead[:limit]))

    async def outbox(
        self, slots: Sequence[int], *, after: int = 0, limit: int = 1000, parked: bool = False
    ) -> Sequence[OutboxRow]:
        checks.check_page(slots, limit)
        found = await self._read(lambda: self._tables.outbox(slots, after, parked))
        return sorted(found, key=lambda row: row.position)[:limit]

    def snapshot(self) -> StoreSnapshot:
        in_flight = len(self._committing) + len(self._accepting)
        return self._counts.snapshot("memory", "memory", 1, in_flight)

    async def close(self) -> None:
        self._closed = True

    # ---- the way there

    async def _read(self, operation: Callable[[], T]) -> T:
        try:
            return await self._request(operation)
        except TimeoutError:
            raise self._noted(StorageUnavailable("no answer from the store")) from None

    async def _write(self, operation: Callable[[], T]) -> T:
        try:
            return await self._request(operation)
        except TimeoutError:
            self._counts.unknown += 1
            raise self._noted(OutcomeUnknown("no answer from the store")) from None

    async def _request(self, operation: Callable[[], T]) -> T:
        if self._closed:
            raise StorageUnavailable("this store is closed")
        async with asyncio.timeout(self._operation_timeout_s):
            return await self._channel.request(operation)

    def _noted(self, error: Exception) -> Exception:
        self._counts.last_error = str(error)
        return error
