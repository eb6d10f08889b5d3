"""The schema, whose store it is, and the fences: what is not about objects and calls."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from goverse.aio.runtime import Runtime
from goverse.config.settings import StorageSettings
from goverse.ids import NO_EPOCH, NUM_SLOTS, Epoch
from goverse.storage import checks, stats
from goverse.storage.api import (
    MAX_PAGE,
    Census,
    FinishedCalls,
    LiveCalls,
    QueuedCalls,
    SchemaStatus,
    StorageUnavailable,
    Store,
    StoreRefused,
)
from goverse.storage.columns import finished_count, listed_call, micros
from goverse.storage.counts import Counts
from goverse.storage.halving import BatchRefused
from goverse.storage.listing import (
    START,
    CallPosition,
    FinishedCount,
    LedgerSize,
    ListedCall,
)
from goverse.storage.mysql import calls, reading, schema, sql
from goverse.storage.mysql.connections import Connections
from goverse.storage.mysql.fences import Fences
from goverse.storage.mysql.running import run
from goverse.storage.mysql.session import Session
from goverse.storage.mysql.work import Work
from goverse.storage.rules import FENCE_PATIENCE_S, MAX_FENCE_GROUP, wrong_cluster
from goverse.storage.values import CallStatus


class MysqlAdministration(Store):
    """The half of `MysqlStore` that works with sessions and not with batches."""

    def __init__(self, settings: StorageSettings, runtime: Runtime) -> None:
        limit_s = self._limit_s = settings.operation_timeout_s
        self._counts = Counts()
        self._connections = Connections(settings, runtime, settings.max_connections)
        self._work = Work(self._connections, runtime, limit_s, self._counts)
        # Fences are raised beside everything else: a full house of commits must not keep a new
        # owner waiting, least of all commits that wait for its fence.
        # Who raises waits at least until somebody in the way has been ended.
        raising_s = max(limit_s, 4 * FENCE_PATIENCE_S)
        patient = replace(settings, operation_timeout_s=raising_s)
        self._control_connections = Connections(patient, runtime, 2)
        self._control = Work(self._control_connections, runtime, raising_s, self._counts)
        self._fences = Fences(self._control_connections, runtime, raising_s)

    async def schema_status(self) -> SchemaStatus:
        return await self._work.administer(lambda session: schema.status(session, self._limit_s))

    async def migrate(self) -> tuple[str, ...]:
        return await self._work.administer(schema.migrate)

    async def check(self) -> None:
        await self._work.administer(lambda session: schema.check(session, self._limit_s))

    async def cluster_id(self) -> str:
        rows = await self._work.read("SELECT cluster_id FROM goverse_cluster")
        return rows[0][0].decode() if rows else ""

    async def claim_cluster(self, cluster_id: str) -> None:
        checks.check_text("cluster id", cluster_id)

        async def claim(session: Session) -> str:
            claiming = (
                f"INSERT INTO goverse_cluster (one, cluster_id) VALUES (1, {sql.text(cluster_id)}) "
                "ON DUPLICATE KEY UPDATE one = 1"
            )
            [_, found] = await run(
                session, [claiming, "SELECT cluster_id FROM goverse_cluster"], self._limit_s
            )
            return str(found.rows[0][0].decode())

        stored = await self._work.administer(claim)
        if stored != cluster_id:
            raise StoreRefused(wrong_cluster(stored, cluster_id))

    async def adopt(self, cluster_id: str) -> None:
        checks.check_text("cluster id", cluster_id)

        async def adopt(session: Session) -> None:
            await run(
                session,
                [
                    "START TRANSACTION",
                    "INSERT INTO goverse_cluster (one, cluster_id) "
                    f"VALUES (1, {sql.text(cluster_id)}) "
                    "ON DUPLICATE KEY UPDATE cluster_id = VALUES(cluster_id)",
                    "UPDATE goverse_fences FORCE INDEX (PRIMARY) SET incarnation = '', "
                    "opening = opening + 1 WHERE opening > 0 ORDER BY slot",
                    "COMMIT",
                ],
                self._limit_s,
            )

        await self._work.administer(adopt)

    async def highest_epoch(self) -> Epoch:
        rows = await self._work.read(
            "SELECT generation, revision FROM goverse_fences "
            "ORDER BY generation DESC, revision DESC LIMIT 1"
        )
        return Epoch(*rows[0]) if rows else NO_EPOCH

    async def census(self) -> Census:
        [row] = await self._work.read(reading.CENSUS)
        return Census(*row)

    async def live_calls(self) -> Sequence[LiveCalls]:
        return stats.live_calls(reading.all_texts(await self._work.read(reading.LIVE_CALLS)))

    async def longest_queues(self, limit: int) -> Sequence[QueuedCalls]:
        checks.check_limit(limit)
        rows = await self._work.read(reading.longest_queues(limit))
        return stats.queued_calls(reading.all_texts(rows))

    async def finished_calls(self) -> Sequence[FinishedCalls]:
        rows = await self._work.read(reading.FINISHED_CALLS)
        return stats.finished_calls(reading.all_texts(rows))

    # ---- lists and cleanup

    async def now(self) -> float:
        [[now]] = await self._work.read(f"SELECT {sql.NOW}")
        return int(now) / 1_000_000

    async def list_calls(
        self, status: CallStatus, *, after: CallPosition = START, limit: int = 1000
    ) -> Sequence[ListedCall]:
        checks.check_listing(after, limit)
        rows = await self._work.read(reading.calls_page(status, after, limit))
        return [listed_call(row) for row in reading.all_texts(rows)]

    async def list_outbox(
        self, *, parked: bool, after: CallPosition = START, limit: int = 1000
    ) -> Sequence[ListedCall]:
        checks.check_listing(after, limit)
        rows = await self._work.read(reading.outbox_page(parked, after, limit))
        return [listed_call(row) for row in reading.all_texts(rows)]

    async def count_finished(
        self,
        status: CallStatus,
        before: float,
        *,
        after: CallPosition = START,
        limit: int = MAX_PAGE,
    ) -> FinishedCount:
        checks.check_finished(status, before, after, limit)
        moment = micros(before) or 0
        rows = await self._work.read(reading.count_finished(status, moment, after, limit))
        [row] = reading.all_texts(rows)
        return finished_count(row, limit)

    async def delete_finished(self, call_ids: Sequence[str], before: float) -> Sequence[str]:
        checks.check_deletion(call_ids, before)
        if not call_ids:
            return []
        deleting = self._work.transact(calls.DeletionPlan(call_ids, before))
        try:
            return await self._work.owned("delete finished", deleting)
        except BatchRefused as error:
            raise StorageUnavailable(f"MariaDB refuses the deletion: {error}") from error

    async def ledger_size(self) -> LedgerSize:
        rows = await self._work.read(reading.LEDGER_SIZE)
        return LedgerSize(*rows[0]) if rows else LedgerSize(None, None)

    # ---- fences

    async def node_slot(self, node: str) -> int:
        checks.check_text("node", node)
        digest = sql.blob(hashlib.sha256(node.encode()).digest())

        async def make(session: Session) -> int:
            found: list[tuple[int]] = []
            looking = f"SELECT number FROM goverse_nodes WHERE digest = {digest}"
            making = (
                f"INSERT INTO goverse_nodes (digest, node) VALUES ({digest}, {sql.text(node)}) "
                "ON DUPLICATE KEY UPDATE number = number"
            )
            for script in ([looking], [making, looking]):
                found = list((await run(session, script, self._limit_s))[-1].rows)
                if found:
                    break
            slot = NUM_SLOTS - 1 + found[0][0]
            fence = (
                f"INSERT INTO goverse_fences (slot) VALUES ({slot}) "
                "ON DUPLICATE KEY UPDATE slot = slot"
            )
            # A row that is there and locked would be waited for.
            there = f"SELECT slot FROM goverse_fences WHERE slot = {slot}"
            if not (await run(session, [there], self._limit_s))[0].rows:
                await run(session, [fence], self._limit_s)
            return slot

        return await self._work.administer(make)

    async def raise_fence(
        self, slots: Sequence[int], epoch: Epoch, incarnation: str, opening: int
    ) -> None:
        checks.check_raise(slots, epoch, incarnation, opening)
        ascending = sorted(dict.fromkeys(slots))
        for start in range(0, len(ascending), MAX_FENCE_GROUP):
            group = ascending[start : start + MAX_FENCE_GROUP]
            raising = self._fences.raise_group(group, epoch, incarnation, opening)
            await self._control.owned("raise fences", raising)
