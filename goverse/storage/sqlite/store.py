"""The `Store` on SQLite: for one process, with a file that is all of it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
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
from goverse.storage.rules import MAX_FENCE_GROUP
from goverse.storage.sqlite import fences, reading, schema
from goverse.storage.sqlite.batches import Batch
from goverse.storage.sqlite.threads import Threads, Transaction
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


class SqliteStore(Store):
    """Made by `goverse.storage.open`; the file is opened, or made, when it is first used.

    :param writer: where transactions that write run, one after the other; None: a thread.
    """

    def __init__(
        self, settings: StorageSettings, runtime: Runtime, writer: Executor | None = None
    ) -> None:
        self._path = path_of(settings.url)
        self._wall = runtime.clock.wall
        self._threads = Threads(self._path, settings.operation_timeout_s, writer)
        self._counts = Counts()
        self._committing = checks.InFlight()
        self._accepting = checks.InFlight()

    # ---- administration

    async def schema_status(self) -> SchemaStatus:
        return await self._read(schema.status)

    async def migrate(self) -> tuple[str, ...]:
        return await self._write(partial(schema.migrate, now=self._now()))

    async def check(self) -> None:
        await self._read(schema.check)

    async def cluster_id(self) -> str:
        return await self._read(fences.cluster_id)

    async def claim_cluster(self, cluster_id: str) -> None:
        checks.check_text("cluster id", cluster_id)
        await self._write(partial(fences.claim_cluster, mine=cluster_id))

    async def adopt(self, cluster_id: str) -> None:
        checks.check_text("cluster id", cluster_id)
        await self._write(partial(fences.adopt, mine=cluster_id))

    async def highest_epoch(self) -> Epoch:
        return await self._read(fences.highest_epoch)

    async def census(self) -> Census:
        return await self._read(reading.census)

    async def live_calls(self) -> Sequence[LiveCalls]:
        return await self._read(partial(reading.live_calls, now=self._now()))

    async def longest_queues(self, limit: int) -> Sequence[QueuedCalls]:
        checks.check_limit(limit)
        return await self._read(partial(reading.longest_queues, now=self._now(), limit=limit))

    async def finished_calls(self) -> Sequence[FinishedCalls]:
        return await self._read(reading.finished_calls)

    # ---- lists and cleanup

    async def now(self) -> float:
        return await self._read(lambda _: self._now() / 1_000_000)

    async def list_calls(
        self, status: CallStatus, *, after: CallPosition = START, limit: int = 1000
    ) -> Sequence[ListedCall]:
        checks.check_listing(after, limit)
        page = partial(reading.list_calls, status=status, after=after, limit=limit)
        return await self._read(page)

    async def list_outbox(
        self, *, parked: bool, after: CallPosition = START, limit: int = 1000
    ) -> Sequence[ListedCall]:
        checks.check_listing(after, limit)
        page = partial(reading.list_outbox, parked=parked, after=after, limit=limit)
        return await self._read(page)

    async def count_finished(
        self,
        status: CallStatus,
        before: float,
        *,
        after: CallPosition = START,
        limit: int = MAX_PAGE,
    ) -> FinishedCount:
        checks.check_finished(status, before, after, limit)
        count = partial(
            reading.count_finished, status=status, before=before, after=after, limit=limit
        )
        return await self._read(count)

    async def delete_finished(self, call_ids: Sequence[str], before: float) -> Sequence[str]:
        checks.check_deletion(call_ids, before)
        wanted = tuple(call_ids)
        return await self._in_batch(lambda tables: tables.delete_finished(wanted, before))

    async def ledger_size(self) -> LedgerSize:
        return await self._read(reading.ledger_size)

    # ---- fences

    async def node_slot(self, node: str) -> int:
        checks.check_text("node", node)
        return await self._write(partial(fences.node_slot, node=node))

    async def raise_fence(
        self, slots: Sequence[int], epoch: Epoch, incarnation: str, opening: int
    ) -> None:
        checks.check_raise(slots, epoch, incarnation, opening)
        ascending = sorted(dict.fromkeys(slots))
        for start in range(0, len(ascending), MAX_FENCE_GROUP):
            group = ascending[start : start + MAX_FENCE_GROUP]
            refusal = await self._write(
                partial(
                    fences.raise_group,
                    slots=group,
                    epoch=epoch,
                    incarnation=incarnation,
                    opening=opening,
                )
            )
            if refusal is not None:
                raise refusal

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

    async def _in_batch(self, work: Callable[[Batch], T]) -> T:
        def transaction(connection: sqlite3.Connection) -> T:
            return work(Batch(connection, self._now()))

        return await self._write(transaction)

    # ---- reading

    async def load(self, objects: Sequence[ObjectId]) -> Mapping[ObjectId, StoredObject]:
        checks.check_objects(objects)
        return await self._read(partial(reading.load, objects=tuple(objects)))

    async def get_calls(self, call_ids: Sequence[str]) -> Mapping[str, StoredCall]:
        checks.check_call_ids(call_ids)
        return await self._read(partial(reading.get_calls, call_ids=tuple(call_ids)))

    async def deliveries(self, call_ids: Sequence[str]) -> Mapping[str, ListedCall]:
        checks.check_call_ids(call_ids)
        return await self._read(partial(reading.deliveries, call_ids=tuple(call_ids)))

    async def pending_calls(
        self, slots: Sequence[int], *, after: int = 0, limit: int = 1000
    ) -> Sequence[StoredCall]:
        checks.check_page(slots, limit)
        page = partial(reading.pending_calls, slots=slots, after=after, limit=limit)
        return await self._read(page)

    async def parked_calls(
        self, slots: Sequence[int], *, after: str = "", limit: int = 1000
    ) -> Sequence[StoredCall]:
        checks.check_page(slots, limit)
        checks.check_text("after", after)
        page = partial(reading.parked_calls, slots=slots, after=after, limit=limit)
        return await self._read(page)

    async def delayed_calls(
        self,
        slots: Sequence[int],
        *,
        within_s: float,
        after: tuple[float, str] = (0.0, ""),
        limit: int = 1000,
    ) -> DelayedPage:
        checks.check_window(slots, within_s, after, limit)
        page = partial(
            reading.delayed_calls,
            slots=slots,
            now=self._now(),
            within=round(within_s * 1_000_000),
            after=(round(after[0] * 1_000_000), after[1]),
            limit=limit,
        )
        return await self._read(page)

    async def outbox(
        self, slots: Sequence[int], *, after: int = 0, limit: int = 1000, parked: bool = False
    ) -> Sequence[OutboxRow]:
        checks.check_page(slots, limit)
        page = partial(reading.outbox, slots=slots, after=after, limit=limit, parked=parked)
        return await self._read(page)

    # ---- the client itself

    def snapshot(self) -> StoreSnapshot:
        in_flight = len(self._committing) + len(self._accepting)
        return self._counts.snapshot(
            "sqlite", str(self._path), self._threads.connections, in_flight
        )

    async def close(self) -> None:
        await self._threads.close()

    def _now(self) -> int:
        return round(self._wall() * 1_000_000)

    async def _read(self, transaction: Transaction[T]) -> T:
        try:
            return await self._threads.read(transaction)
        except StorageUnavailable as error:
            self._counts.last_error = str(error)
            raise

    async def _write(self, transaction: Transaction[T]) -> T:
        try:
            return await self._threads.write(transaction)
        except (StorageUnavailable, OutcomeUnknown) as error:
            self._counts.last_error = str(error)
            self._counts.unknown += isinstance(error, OutcomeUnknown)
            raise


def path_of(url: str) -> Path:
    """The file that ``sqlite:///relative`` or ``sqlite:////absolute`` names. Raises ValueError."""
    scheme, _, rest = url.partition("://")
    if scheme != "sqlite" or not rest.startswith("/") or not rest[1:] or "\0" in rest:
        raise ValueError(
            f"storage.url is {url!r}; write sqlite:///relative/path or sqlite:////absolute/path"
        )
    return Path(rest[1:])
