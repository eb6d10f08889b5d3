"""A store whose operations are measured, whatever keeps the data."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

from goverse.errors import Fenced
from goverse.ids import Epoch, ObjectId
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
    StoreRefused,
    StoreSnapshot,
)
from goverse.storage.listing import (
    START,
    CallPosition,
    FinishedCount,
    LedgerSize,
    ListedCall,
)
from goverse.storage.values import (
    FENCED,
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


class StoreObserver(Protocol):
    """Told of every operation, by its name in the interface."""

    def ended(self, operation: str, status: str, seconds: float) -> None:
        """``status``: ok, fenced, unavailable, unknown, refused, cancelled, error."""
        ...

    def batch(self, operation: str, items: int) -> None:
        """A batch was handed to the store."""
        ...

    def fenced(self, operation: str, items: int) -> None:
        """A fence has refused so many items: another owner, or a later opening, has the slot."""
        ...


class MeasuredStore(Store):
    """Does what ``store`` does."""

    def __init__(self, store: Store, observer: StoreObserver) -> None:
        self._store = store
        self._observer = observer

    async def _measured(self, operation: str, work: Awaitable[T]) -> T:
        now = asyncio.get_running_loop().time
        started, status = now(), "ok"
        try:
            return await work
        except BaseException as error:
            status = _status_of(error)
            if isinstance(error, Fenced):
                self._observer.fenced(operation, 1)
            raise
        finally:
            self._observer.ended(operation, status, now() - started)

    def _count_fenced(
        self, operation: str, results: Iterable[CommitResult | AcceptResult | StepResult]
    ) -> None:
        fenced = sum(1 for result in results if result.verdict is FENCED)
        if fenced:
            self._observer.fenced(operation, fenced)

    # ---- batches

    async def commit(self, batch: Sequence[ObjectCommit]) -> Sequence[CommitResult]:
        self._observer.batch("commit", len(batch))
        results = await self._measured("commit", self._store.commit(batch))
        self._count_fenced("commit", results)
        return results

    async def accept(self, calls: Sequence[Acceptance]) -> Sequence[AcceptResult]:
        self._observer.batch("accept", len(calls))
        results = await self._measured("accept", self._store.accept(calls))
        self._count_fenced("accept", results)
        return results

    async def change_calls(self, steps: Sequence[CallStep]) -> Sequence[StepResult]:
        self._observer.batch("change_calls", len(steps))
        results = await self._measured("change_calls", self._store.change_calls(steps))
        self._count_fenced("change_calls", results)
        return results

    async def make_due(self, steps: Sequence[DueStep]) -> Sequence[StepResult]:
        self._observer.batch("make_due", len(steps))
        results = await self._measured("make_due", self._store.make_due(steps))
        self._count_fenced("make_due", results)
        return results

    async def change_outbox(self, changes: Sequence[OutboxChange]) -> Sequence[StepResult]:
        self._observer.batch("change_outbox", len(changes))
        results = await self._measured("change_outbox", self._store.change_outbox(changes))
        self._count_fenced("change_outbox", results)
        return results

    async def load(self, objects: Sequence[ObjectId]) -> Mapping[ObjectId, StoredObject]:
        self._observer.batch("load", len(objects))
        return await self._measured("load", self._store.load(objects))

    async def get_calls(self, call_ids: Sequence[str]) -> Mapping[str, StoredCall]:
        self._observer.batch("get_calls", len(call_ids))
        return await self._measured("get_calls", self._store.get_calls(call_ids))

    async def deliveries(self, call_ids: Sequence[str]) -> Mapping[str, ListedCall]:
        self._observer.batch("deliveries", len(call_ids))
        return await self._measured("deliveries", self._store.deliveries(call_ids))

    # ---- fences and pages

    async def raise_fence(
        self, slots: Sequence[int], epoch: Epoch, incarnation: str, opening: int
    ) -> None:
        self._observer.batch("raise_fence", len(slots))
        raising = self._store.raise_fence(slots, epoch, incarnation, opening)
        await self._measured("raise_fence", raising)

    async def pending_calls(
        self, slots: Sequence[int], *, after: int = 0, limit: int = 1000
    ) -> Sequence[StoredCall]:
        page = self._store.pending_calls(slots, after=after, limit=limit)
        return await self._measured("pending_calls", page)

    async def parked_calls(
        self, slots: Sequence[int], *, after: str = "", limit: int = 1000
    ) -> Sequence[StoredCall]:
        page = self._store.parked_calls(slots, after=after, limit=limit)
        return await self._measured("parked_calls", page)

    async def delayed_calls(
        self,
        slots: Sequence[int],
        *,
        within_s: float,
        after: tuple[float, str] = (0.0, ""),
        limit: int = 1000,
    ) -> DelayedPage:
        page = self._store.delayed_calls(slots, within_s=within_s, after=after, limit=limit)
        return await self._measured("delayed_calls", page)

    async def outbox(
        self, slots: Sequence[int], *, after: int = 0, limit: int = 1000, parked: bool = False
    ) -> Sequence[OutboxRow]:
        page = self._store.outbox(slots, after=after, limit=limit, parked=parked)
        return await self._measured("outbox", page)

    # ---- administration

    async def check(self) -> None:
        await self._measured("check", self._store.check())

    async def claim_cluster(self, cluster_id: str) -> None:
        await self._measured("claim_cluster", self._store.claim_cluster(cluster_id))

    async def node_slot(self, node: str) -> int:
        return await self._measured("node_slot", self._store.node_slot(node))

    async def schema_status(self) -> SchemaStatus:
        return await self._measured("schema_status", self._store.schema_status())

    async def migrate(self) -> tuple[str, ...]:
        return await self._measured("migrate", self._store.migrate())

    async def cluster_id(self) -> str:
        return await self._measured("cluster_id", self._store.cluster_id())

    async def adopt(self, cluster_id: str) -> None:
        await self._measured("adopt", self._store.adopt(cluster_id))

    async def highest_epoch(self) -> Epoch:
        return await self._measured("highest_epoch", self._store.highest_epoch())

    async def census(self) -> Census:
        return await self._measured("census", self._store.census())

    async def live_calls(self) -> Sequence[LiveCalls]:
        return await self._measured("live_calls", self._store.live_calls())

    async def longest_queues(self, limit: int) -> Sequence[QueuedCalls]:
        return await self._measured("longest_queues", self._store.longest_queues(limit))

    async def finished_calls(self) -> Sequence[FinishedCalls]:
        return await self._measured("finished_calls", self._store.finished_calls())

    # ---- lists and cleanup

    async def now(self) -> float:
        return await self._measured("now", self._store.now())

    async def list_calls(
        self, status: CallStatus, *, after: CallPosition = START, limit: int = 1000
    ) -> Sequence[ListedCall]:
        page = self._store.list_calls(status, after=after, limit=limit)
        return await self._measured("list_calls", page)

    async def list_outbox(
        self, *, parked: bool, after: CallPosition = START, limit: int = 1000
    ) -> Sequence[ListedCall]:
        page = self._store.list_outbox(parked=parked, after=after, limit=limit)
        return await self._measured("list_outbox", page)

    async def count_finished(
        self,
        status: CallStatus,
        before: float,
        *,
        after: CallPosition = START,
        limit: int = MAX_PAGE,
    ) -> FinishedCount:
        page = self._store.count_finished(status, before, after=after, limit=limit)
        return await self._measured("count_finished", page)

    async def delete_finished(self, call_ids: Sequence[str], before: float) -> Sequence[str]:
        self._observer.batch("delete_finished", len(call_ids))
        deleting = self._store.delete_finished(call_ids, before)
        return await self._measured("delete_finished", deleting)

    async def ledger_size(self) -> LedgerSize:
        return await self._measured("ledger_size", self._store.ledger_size())

    # ---- the client

    def snapshot(self) -> StoreSnapshot:
        return self._store.snapshot()

    async def close(self) -> None:
        await self._store.close()


def _status_of(error: BaseException) -> str:
    if isinstance(error, StorageUnavailable):
        return "unavailable"
    if isinstance(error, OutcomeUnknown):
        return "unknown"
    if isinstance(error, Fenced):
        return "fenced"
    if isinstance(error, StoreRefused):
        return "refused"
    if isinstance(error, asyncio.CancelledError):
        return "cancelled"
    return "error"
