"""Raising fences, and ending the sessions of former owners that hold them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import psycopg

from goverse.ids import Epoch
from goverse.storage.api import HigherEpoch, StorageUnavailable
from goverse.storage.columns import integers
from goverse.storage.postgres.connections import Connections
from goverse.storage.postgres.dialect import Dialect
from goverse.storage.postgres.failures import AGAIN, LOCK_TIMEOUT, of_write
from goverse.storage.postgres.running import run
from goverse.storage.rules import FENCE_PATIENCE_S, reused_opening

log = logging.getLogger(__name__)

MAX_TRIES = 10
_POLL_S = 0.02

# The rows are locked by a CTE of their own and compared as they were then. The update finds them
# again by their key, in the version that was locked.
RAISE = """
WITH wanted AS MATERIALIZED (
    SELECT %s::int8 AS generation, %s::int8 AS revision, %s::text AS incarnation,
        %s::int8 AS opening
), locked AS MATERIALIZED (
    SELECT slot, generation, revision, incarnation, opening FROM goverse_fences
    WHERE slot = ANY (%s::int4[]) ORDER BY slot FOR UPDATE
), raised AS (
    UPDATE goverse_fences f SET
        generation = w.generation, revision = w.revision,
        incarnation = w.incarnation, opening = w.opening
    FROM locked l CROSS JOIN wanted w
    WHERE f.slot = l.slot AND (
        (l.generation, l.revision) < (w.generation, w.revision)
        OR ((l.generation, l.revision, l.incarnation) = (w.generation, w.revision, w.incarnation)
            AND l.opening < w.opening)
    )
    RETURNING f.slot
)
SELECT l.slot, l.generation, l.revision, l.incarnation, r.slot IS NOT NULL
FROM locked l LEFT JOIN raised r ON r.slot = l.slot
"""

#: How sessions that raise call themselves.
RAISER = "goverse raising"

# Whoever is in the way and waits for nobody: the head of the queue, not those queued with us.
# Another raiser is no former owner, unless it stands still far longer than it may wait for a lock.
END_BLOCKERS = f"""
SELECT a.pid, pg_terminate_backend(a.pid)
FROM unnest(pg_blocking_pids(%s)) AS b (pid) JOIN pg_stat_activity a ON a.pid = b.pid
WHERE cardinality(pg_blocking_pids(a.pid)) = 0 AND (
    a.application_name <> '{RAISER}'
    OR a.query_start < clock_timestamp() - interval '{4 * FENCE_PATIENCE_S} seconds'
)
"""


class Fences:
    """Raises fences for one process.

    :param ours: two connections, whose statements wait no longer than `FENCE_PATIENCE_S` for a
        lock: one raises, and one looks who is in the way.
    """

    def __init__(self, ours: Connections, dialect: Dialect, operation_timeout_s: float) -> None:
        self._ours = ours
        self._dialect = dialect
        self._limit_s = operation_timeout_s
        self._raising = asyncio.Lock()
        self.ended_sessions = 0

    async def raise_group(
        self, slots: Sequence[int], epoch: Epoch, incarnation: str, opening: int
    ) -> None:
        """Raise these at once, all that can be. Raises as `Store.raise_fence`."""
        values = (epoch.generation, epoch.revision, incarnation, opening, integers(slots))
        async with self._raising:
            rows = await self._rows(values)
        if len(rows) != len(slots):
            found = {row[0]: None for row in rows}
            raise ValueError(f"there is no slot {next(s for s in slots if s not in found)}")
        standing = []
        for slot, generation, revision, who, raised in rows:
            if raised:
                continue
            if (Epoch(generation, revision), who) == (epoch, incarnation):
                raise ValueError(reused_opening(slot, opening))
            standing.append((Epoch(generation, revision), -slot, who))
        if standing:
            found_epoch, slot, who = max(standing)
            raise HigherEpoch(-slot, found_epoch, who)

    async def _rows(self, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        for attempt in range(MAX_TRIES):
            async with self._ours.use() as connection:
                over = asyncio.Event()
                ending = None
                if attempt and self._dialect.ends_sessions:
                    # The first try only waited. Who is still in the way is stale by definition.
                    work = self._end_blockers(connection.info.backend_pid, over)
                    ending = asyncio.create_task(work, name="end blockers")
                try:
                    return await run(connection, RAISE, values, self._limit_s)
                except psycopg.Error as error:
                    meaning = of_write(error, self._dialect, broken=connection.closed)
                    if error.sqlstate not in (LOCK_TIMEOUT, *AGAIN):
                        raise meaning from error
                finally:
                    over.set()
                    if ending is not None:
                        # Not cancelled: who was ended is counted when the answer comes.
                        await asyncio.wait([ending])
        raise StorageUnavailable(
            f"the fences are held by sessions that could not be ended in {MAX_TRIES} tries of "
            f"{FENCE_PATIENCE_S} s"
        )

    async def _end_blockers(self, pid: int, over: asyncio.Event) -> None:
        """End whoever blocks the session ``pid``, until ``over``."""
        try:
            async with self._ours.use() as connection:
                while not over.is_set():
                    rows = await run(connection, END_BLOCKERS, (pid,), self._limit_s)
                    for blocker, ended in rows:
                        self.ended_sessions += bool(ended)
                        log.warning(
                            "ended the session %d of a former owner, which held a fence", blocker
                        )
                    try:
                        async with asyncio.timeout(_POLL_S):
                            await over.wait()
                    except TimeoutError:
                        pass
        except (psycopg.Error, StorageUnavailable) as error:
            # The next try looks again.
            log.warning("cannot end sessions that hold a fence: %s", error)
