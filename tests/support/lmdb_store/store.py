"""The client: checks, limits and counts around transactions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import TypeVar

from goverse.aio.runtime import Runtime
from goverse.config.settings import StorageSettings
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
    StoreRefused,
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
from goverse.storage.migrations import require_current
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
from tests.support.lmdb_store import reading, writing
from tests.support.lmdb_store.environment import Transactions
from tests.support.lmdb_store.tables import Tables
from tests.support.lmdb_store.writing import Batch

T = TypeVar("T")

SCHEMA = 1
_MIGRATIONS = ("0001_initial",)


class LmdbStore(Store):
    """``lmdb:////path/to/file``; the file is opened, or made, when it is first used.

    :param writer: where transactions that write run, one after the other; None: a thread.
    """

    def __init__(
        self, settings: StorageSettings, runtime: Runtime, writer: Executor | None = None
    ) -> None:
        path = settings.url.removeprefix("lmdb:///")
        if not path or path == settings.url:
            raise ValueError("storage.url must be like lmdb:////absolute/path or lmdb:///path")
        self._path = Path(path)
        self._clock = runtime.clock
        self._transactions = Transactions(self._path, settings.operation_timeout_s, writer)
        self._counts = Counts()
        self._committing = checks.InFlight()
        self._accepting = checks.InFlight()

    def _now(self) -> float:
        """Times are kept, compared and listed to the microsecond."""
        return round(self._clock.wall() * 1_000_000) / 1_000_000

    async def _write(self, work: Callable[[Tables], T]) -> T:
        try:
            return await self._transactions.write(work)
        except (StorageUnavailable, OutcomeUnknown) as error:
            self._counts.unknown += isinstance(error, OutcomeUnknown)
            self._counts.last_error = str(error)
            raise

    async def _read(self, work: Callable[[Tables], T]) -> T:
        try:
            return await self._transactions.read(work)
        except StorageUnavailable as error:
            self._counts.last_error = str(error)
            raise

    async def _in_batch(self, work: Callable[[Batch], T]) -> T:
        return await self._write(lambda tables: work(Batch(tables, self._now())))

    # ---- schema and cluster

    async def schema_status(self) -> SchemaStatus:
        version = await self._read(lambda tables: tables.meta("schema", 0))
        return SchemaStatus(version, SCHEMA, _MIGRATIONS[version:])

    async def migrate(self) -> tuple[str, ...]:
        def apply(tables: Tables) -> tuple[str, ...]:
            version = tables.meta("schema", 0)
            if version > SCHEMA:
                require_current(SchemaStatus(version, SCHEMA, ()))
            tables.set_meta("schema", SCHEMA)
            return _MIGRATIONS[version:]

        return await self._write(apply)

    async def check(self) -> None:
        require_current(await self.schema_status())
        if not self._path.is_file():
            raise StoreRefused(f"{self._path} is no file")

    async def cluster_id(self) -> str:
        return await self._read(lambda tables: tables.meta("cluster", ""))

    async def claim_cluster(self, cluster_id: str) -> None:
        checks.check_text("cluster id", cluster_id)
        await self._write(lambda tables: writing.claim_cluster(tables, cluster_id))

    async def adopt(self, cluster_id: str) -> None:
        checks.check_text("cluster id", cluster_id)
        await self._write(lambda tables: writing.adopt(tables, cluster_id))

    # ---- fences

    async def node_slot(self, node: str) -> int:
        checks.check_text("node", node)
        return await self._write(lambda tables: writing.node_slot(tables, node))

    async def raise_fence(
        self, slots: Sequence[int], epoch: Epoch, incarnation: str, opening: int
    ) -> None:
        checks.check_raise(slots, epoch, incarnation, opening)
        ascending = sorted(dict.fromkeys(slots))
        for start in range(0, len(ascending), MAX_FENCE_GROUP):
            group = ascending[start : start + MAX_FENCE_GROUP]
            refusal = await self._write(
                lambda tables, group=group: writing.raise_fences(  # type: ignore[misc]
                    tables, group, epoch, incarnation, opening
                )
            )
            if refusal is not None:
                raise refusal

    async def highest_epoch(self) -> Epoch:
        return await self._read(reading.highest_epoch)

    # ---- writing

    async def commit(self, batch: Sequence[ObjectCommit]) -> Sequence[CommitResult]:
        checks.check_commits(batch)
        wanted = tuple(batch)
        with self._committing.holding(commit.object for commit in wanted):
            results = await self._in_batch(lambda tables: tables.commit(wanted))
        self._counts.committed(results)
        return results

    async def accept(self, calls: Sequence[Acceptance]) -> Sequence[AcceptResult]:
        checks.check_acceptances(calls)
        wanted = tuple(calls)
        with self._accepting.holding(acceptance.call.object for acceptance in wanted):
            results = await self._in_batch(lambda tables: tables.accept(wanted))
        self._counts.accepted(results)
        return results

    async def change_calls(self, steps: Sequence[CallStep]) -> Sequence[StepResult]:
        checks.check_steps(steps)
        wanted = tuple(steps)
        results = await self._in_batch(lambda tables: tables.change_calls(wanted))
        self._counts.refused(results)
        return results

    async def make_due(self, steps: Sequence[DueStep]) -> Sequence[StepResult]:
        checks.check_due(steps)
        wanted = tuple(steps)
        results = await self._in_batch(lambda tables: tables.make_due(wanted))
        self._counts.refused(results)
        return results

    async def change_outbox(self, changes: Sequence[OutboxChange]) -> Sequence[StepResult]:
        checks.check_steps(changes)
        wanted = tuple(changes)
        results = await self._in_batch(lambda tables: tables.change_outbox(wanted))
        self._counts.refused(results)
        return results

    # ---- reading

    async def load(self, objects: Sequence[ObjectId]) -> Mapping[ObjectId, StoredObject]:
        checks.check_objects(objects)
        wanted = tuple(objects)
        return await self._read(lambda tables: reading.load(tables, wanted))

    async def get_calls(self, call_ids: Sequence[str]) -> Mapping[str, StoredCall]:
        checks.check_call_ids(call_ids)
        wanted = tuple(call_ids)
        return await self._read(lambda tables: reading.get_calls(tables, wanted))

    async def deliveries(self, call_ids: Sequence[str]) -> Mapping[str, ListedCall]:
        checks.check_call_ids(call_ids)
        wanted = tuple(call_ids)
        return await self._read(lambda tables: reading.deliveries(tables, wanted))

    async def pending_calls(
        self, slots: Sequence[int], *, after: int = 0, limit: int = 1000
    ) -> Sequence[StoredCall]:
        checks.check_page(slots, limit)
        return await self._read(lambda tables: reading.pending_calls(tables, slots, after, limit))

    async def parked_calls(
        self, slots: Sequence[int], *, after: str = "", limit: int = 1000
    ) -> Sequence[StoredCall]:
        checks.check_page(slots, limit)
        checks.check_text("after", after)
        return await self._read(lambda tables: reading.parked_calls(tables, slots, after, limit))

    async def delayed_calls(
        self,
        slots: Sequence[int],
        *,
        within_s: float,
        after: tuple[float, str] = (0.0, ""),
        limit: int = 1000,
    ) -> DelayedPage:
        checks.check_window(slots, within_s, after, limit)
        now = self._now()
        found = await self._read(
            lambda tables: reading.delayed_calls(tables, slots, now + within_s, after, limit)
        )
        return DelayedPage(now, tuple(found))

    async def outbox(
        self, slots: Sequence[int], *, after: int = 0, limit: int = 1000, parked: bool = False
    ) -> Sequence[OutboxRow]:
        checks.check_page(slots, limit)
        return await self._read(lambda tables: reading.outbox(tables, slots, after, limit, parked))

    # ---- for operators

    async def now(self) -> float:
        return self._now()

    async def list_calls(
        self, status: CallStatus, *, after: CallPosition = START, limit: int = 1000
    ) -> Sequence[ListedCall]:
        checks.check_listing(after, limit)
        return await self._read(lambda tables: reading.list_calls(tables, status, after, limit))

    async def list_outbox(
        self, *, parked: bool, after: CallPosition = START, limit: int = 1000
    ) -> Sequence[ListedCall]:
        checks.check_listing(after, limit)
        return await self._read(lambda tables: reading.list_outbox(tables, parked, after, limit))

    async def count_finished(
        self,
        status: CallStatus,
        before: float,
        *,
        after: CallPosition = START,
        limit: int = MAX_PAGE,
    ) -> FinishedCount:
        checks.check_finished(status, before, after, limit)
        return await self._read(
            lambda tables: reading.count_finished(tables, status, before, after, limit)
        )

    async def delete_finished(self, call_ids: Sequence[str], before: float) -> Sequence[str]:
        checks.check_deletion(call_ids, before)
        wanted = tuple(call_ids)
        return await self._in_batch(lambda tables: tables.delete_finished(wanted, before))

    async def ledger_size(self) -> LedgerSize:
        return LedgerSize(self._path.stat().st_size if self._path.exists() else None, None)

    async def census(self) -> Census:
        return await self._read(reading.census)

    async def live_calls(self) -> Sequence[LiveCalls]:
        return await self._read(lambda tables: reading.live_calls(tables, self._now()))

    async def longest_queues(self, limit: int) -> Sequence[QueuedCalls]:
        checks.check_limit(limit)
        return await self._read(lambda tables: reading.longest_queues(tables, self._now(), limit))

    async def finished_calls(self) -> Sequence[FinishedCalls]:
        return await self._read(reading.finished_calls)

    # ---- the client itself

    def snapshot(self) -> StoreSnapshot:
        in_flight = len(self._committing) + len(self._accepting)
        return self._counts.snapshot("lmdb", str(self._path), 1, in_flight)

    async def close(self) -> None:
        await self._transactions.close()
