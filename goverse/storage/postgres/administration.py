"""The schema, whose store it is, and the fences: what is not about objects and calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from goverse.aio.runtime import Runtime
from goverse.config.settings import StorageSettings
from goverse.ids import NO_EPOCH, Epoch
from goverse.storage import checks, pages, stats
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
from goverse.storage.columns import NOW, finished_count, listed_call, micros
from goverse.storage.counts import Counts
from goverse.storage.halving import BatchRefused
from goverse.storage.listing import (
    START,
    CallPosition,
    FinishedCount,
    LedgerSize,
    ListedCall,
)
from goverse.storage.postgres import calls, schema
from goverse.storage.postgres.arrays import int8s, texts
from goverse.storage.postgres.connections import Connection, Connections
from goverse.storage.postgres.fences import RAISER, Fences
from goverse.storage.postgres.work import Rows, Work
from goverse.storage.rules import FENCE_PATIENCE_S, MAX_FENCE_GROUP, wrong_cluster
from goverse.storage.values import CallStatus


class PostgresAdministration(Store):
    """The half of `PostgresStore` that works with connections and not with batches."""

    def __init__(self, settings: StorageSettings, runtime: Runtime) -> None:
        limit_s = settings.operation_timeout_s
        self._counts = Counts()
        self._connections = Connections(settings, runtime, settings.max_connections)
        self._work = Work(self._connections, runtime, limit_s, self._counts)
        # Fences are raised beside everything else: a full house of commits must not keep a new
        # owner waiting, least of all commits that wait for its fence.
        self._control_connections = Connections(
            settings, runtime, 2, name=RAISER, lock_timeout_s=FENCE_PATIENCE_S
        )
        self._control = Work(self._control_connections, runtime, limit_s, self._counts)
        self._fences = Fences(self._control_connections, limit_s)

    async def schema_status(self) -> SchemaStatus:
        return await self._work.administer(schema.status)

    async def migrate(self) -> tuple[str, ...]:
        return await self._work.administer(schema.migrate, patient=True)

    async def check(self) -> None:
        await self._work.administer(schema.check)

    async def cluster_id(self) -> str:
        rows = await self._work.read("SELECT cluster_id FROM goverse_cluster")
        return rows[0][0] if rows else ""

    async def claim_cluster(self, cluster_id: str) -> None:
        checks.check_text("cluster id", cluster_id)

        async def claim(connection: Connection) -> str:
            await connection.execute(
                "INSERT INTO goverse_cluster (cluster_id) VALUES (%s) ON CONFLICT DO NOTHING",
                (cluster_id,),
            )
            cursor = await connection.execute("SELECT cluster_id FROM goverse_cluster")
            [stored] = await cursor.fetchone() or ("",)
            return str(stored)

        stored = await self._work.administer(claim)
        if stored != cluster_id:
            raise StoreRefused(wrong_cluster(stored, cluster_id))

    async def adopt(self, cluster_id: str) -> None:
        checks.check_text("cluster id", cluster_id)

        async def adopt(connection: Connection) -> None:
            async with connection.transaction():
                await connection.execute(
                    "INSERT INTO goverse_cluster (cluster_id) VALUES (%s) "
                    "ON CONFLICT (one) DO UPDATE SET cluster_id = excluded.cluster_id",
                    (cluster_id,),
                )
                await connection.execute(
                    "SELECT FROM goverse_fences WHERE opening > 0 ORDER BY slot FOR UPDATE"
                )
                await connection.execute(
                    "UPDATE goverse_fences SET incarnation = '', opening = opening + 1 "
                    "WHERE opening > 0"
                )

        await self._work.administer(adopt)

    async def highest_epoch(self) -> Epoch:
        rows = await self._work.read(
            "SELECT generation, revision FROM goverse_fences "
            "ORDER BY generation DESC, revision DESC LIMIT 1"
        )
        return Epoch(*rows[0]) if rows else NO_EPOCH

    async def census(self) -> Census:
        [row] = await self._work.read(calls.CENSUS)
        return Census(*row)

    async def live_calls(self) -> Sequence[LiveCalls]:
        return stats.live_calls(await self._work.read(calls.LIVE_CALLS))

    async def longest_queues(self, limit: int) -> Sequence[QueuedCalls]:
        checks.check_limit(limit)
        return stats.queued_calls(await self._work.read(calls.LONGEST_QUEUES, (limit,)))

    async def finished_calls(self) -> Sequence[FinishedCalls]:
        return stats.finished_calls(await self._work.read(stats.FINISHED))

    # ---- lists and cleanup

    async def now(self) -> float:
        [[micros]] = await self._work.read(f"SELECT {NOW}")
        return int(micros) / 1_000_000

    async def list_calls(
        self, status: CallStatus, *, after: CallPosition = START, limit: int = 1000
    ) -> Sequence[ListedCall]:
        checks.check_listing(after, limit)
        rows = await self._page(*pages.calls_page(status, after, limit))
        return [listed_call(row) for row in rows]

    async def list_outbox(
        self, *, parked: bool, after: CallPosition = START, limit: int = 1000
    ) -> Sequence[ListedCall]:
        checks.check_listing(after, limit)
        rows = await self._page(*pages.outbox_page(parked, after, limit))
        return [listed_call(row) for row in rows]

    async def count_finished(
        self,
        status: CallStatus,
        before: float,
        *,
        after: CallPosition = START,
        limit: int = MAX_PAGE,
    ) -> FinishedCount:
        checks.check_finished(status, before, after, limit)
        values = pages.count_values(status, before, after, limit)
        [row] = await self._page(pages.COUNT_FINISHED, values)
        return finished_count(row, limit)

    async def delete_finished(self, call_ids: Sequence[str], before: float) -> Sequence[str]:
        checks.check_deletion(call_ids, before)
        values = [texts(call_ids), int8s([micros(before)])]
        try:
            deleting = self._work.write(calls.DELETE_FINISHED, values)
            rows = await self._work.owned("delete finished", deleting)
        except BatchRefused as error:
            raise StorageUnavailable(f"PostgreSQL refuses the deletion: {error}") from error
        return [call_id for (call_id,) in rows]

    async def _page(self, statement: str, values: Sequence[Any]) -> Rows:
        # A plan that was made for a short ledger would sort a long one for each page.
        return await self._work.read(statement, values, prepare=False)

    async def ledger_size(self) -> LedgerSize:
        [row] = await self._work.read(calls.LEDGER_SIZE)
        return LedgerSize(*row)

    # ---- fences

    async def node_slot(self, node: str) -> int:
        checks.check_text("node", node)

        async def make(connection: Connection) -> int:
            await connection.execute(
                "INSERT INTO goverse_fences (slot, node) VALUES (nextval('goverse_node_slots'), %s)"
                " ON CONFLICT (node) DO NOTHING",
                (node,),
            )
            cursor = await connection.execute(
                "SELECT slot FROM goverse_fences WHERE node = %s", (node,)
            )
            [slot] = await cursor.fetchone() or (0,)
            return int(slot)

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
