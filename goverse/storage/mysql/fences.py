"""Raising fences, and ending the sessions of former owners that hold them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from asyncmy.errors import MySQLError

from goverse.aio.backoff import Backoff
from goverse.aio.runtime import Runtime
from goverse.ids import Epoch
from goverse.storage.api import HigherEpoch, StorageUnavailable
from goverse.storage.mysql import sql
from goverse.storage.mysql.connections import Connections
from goverse.storage.mysql.failures import AGAIN, LOCK_TIMEOUTS, is_lost, number, of_write, words
from goverse.storage.mysql.running import run
from goverse.storage.mysql.session import Answer
from goverse.storage.rules import FENCE_PATIENCE_S, reused_opening

log = logging.getLogger(__name__)

MAX_TRIES = 5

# The tables of locks are refreshed only when nobody asked for 0.1 s, on the whole server: many who
# look at once must leave pauses.
_MIN_PAUSE_S = 0.15
_MAX_PAUSE_S = 1.0

#: How statements that raise begin; sessions are told apart by what they do.
RAISING = "UPDATE /* goverse raising */"
_NO_SUCH_SESSION = 1094


def raising(slots: Sequence[int], epoch: Epoch, incarnation: str, opening: int) -> list[str]:
    """One statement that is a transaction, so that no raiser stands still between two; and a look
    at what stands afterwards."""
    who = sql.text(incarnation)
    which = f"slot IN {sql.numbers(slots)}"
    generation, revision = epoch
    return [
        f"{RAISING} goverse_fences FORCE INDEX (PRIMARY) SET generation = {generation}, "
        f"revision = {revision}, incarnation = {who}, opening = {opening} WHERE {which} AND ("
        f"generation < {generation} OR generation = {generation} AND (revision < {revision} "
        f"OR revision = {revision} AND incarnation = {who} AND opening < {opening})) ORDER BY slot",
        "SELECT slot, generation, revision, incarnation, opening FROM goverse_fences "
        f"WHERE {which}",
    ]


def blockers(session: int) -> str:
    """Whoever is in the way of ``session`` and waits for nobody: the head of the queue, not those
    queued with it. Another raiser is no former owner, unless it stands still far longer than its
    statement may take. A session that only read has no number here, and nothing tells it from
    others: none of ours holds a fence like that."""
    return (
        "SELECT DISTINCT b.trx_mysql_thread_id FROM information_schema.innodb_trx r "
        "JOIN information_schema.innodb_lock_waits w ON w.requesting_trx_id = r.trx_id "
        "JOIN information_schema.innodb_trx b ON b.trx_id = w.blocking_trx_id "
        f"WHERE r.trx_mysql_thread_id = {session} AND b.trx_id <> 0 "
        "AND b.trx_state <> 'LOCK WAIT' AND (b.trx_query IS NULL "
        f"OR b.trx_query NOT LIKE '{RAISING}%' "
        f"OR b.trx_started < NOW(6) - INTERVAL {4 * FENCE_PATIENCE_S} SECOND)"
    )


class Fences:
    """Raises fences for one process.

    :param ours: two sessions: one raises, and one looks who is in the way.
    """

    def __init__(self, ours: Connections, runtime: Runtime, operation_timeout_s: float) -> None:
        self._ours = ours
        self._runtime = runtime
        self._limit_s = operation_timeout_s
        self._raising = asyncio.Lock()
        self.ended_sessions = 0

    async def raise_group(
        self, slots: Sequence[int], epoch: Epoch, incarnation: str, opening: int
    ) -> None:
        """Raise these at once, all that can be. Raises as `Store.raise_fence`."""
        async with self._raising:
            raised, found = await self._answers(raising(slots, epoch, incarnation, opening))
        if len(found.rows) != len(slots):
            there = {row[0]: None for row in found.rows}
            raise ValueError(f"there is no slot {next(s for s in slots if s not in there)}")
        mine, standing = [], []
        for slot, generation, revision, who, stands in found.rows:
            if (generation, revision, who) == (*epoch, incarnation.encode()):
                mine.append((stands, slot))
            else:
                standing.append((Epoch(generation, revision), -slot, who.decode()))
        # What this statement did not change was mine before; somebody may have outranked the rest.
        later = [slot for stands, slot in mine if stands != opening]
        if later or len(mine) > raised.affected:
            raise ValueError(reused_opening(later[0] if later else mine[0][1], opening))
        higher = [fence for fence in standing if fence[0] >= epoch]
        if higher:
            found_epoch, slot, who = max(higher)
            raise HigherEpoch(-slot, found_epoch, who)

    async def _answers(self, statements: Sequence[str]) -> list[Answer]:
        for _ in range(MAX_TRIES):
            async with self._ours.use() as session:
                answers: list[Answer] = []
                over = asyncio.Event()
                ending = asyncio.create_task(self._end_blockers(session.id, over), name="blockers")
                try:
                    return await run(session, statements, self._limit_s, answers)
                except MySQLError as error:
                    if number(error) in LOCK_TIMEOUTS and not answers:
                        break
                    if number(error) in AGAIN and not answers:
                        continue
                    lost = session.closed or is_lost(error)
                    # The first answer says that the fences are raised, whatever became of the look.
                    raise of_write(error, lost=lost, committing=bool(answers)) from error
                finally:
                    over.set()
                    # Not cancelled: who was ended is counted when the answer comes.
                    await asyncio.wait([ending])
        raise StorageUnavailable(
            "the fences are held by sessions that could not be ended: nodes must connect as the "
            "same user, or one that may end the sessions of others"
        )

    async def _end_blockers(self, session_id: int, over: asyncio.Event) -> None:
        """After some patience, end whoever blocks the session, until ``over``."""
        if await _is_set(over, FENCE_PATIENCE_S):
            return
        # Whoever waits this long is blocked by somebody who is stale by definition.
        ended: dict[int, None] = {}
        pauses = Backoff(self._runtime.random, min_s=_MIN_PAUSE_S, max_s=_MAX_PAUSE_S)
        try:
            async with self._ours.use() as session:
                while True:
                    [found] = await run(session, [blockers(session_id)], self._limit_s)
                    for [blocker] in found.rows:
                        if blocker in ended:
                            continue
                        try:
                            await run(session, [f"KILL CONNECTION {blocker}"], self._limit_s)
                        except MySQLError as error:
                            if number(error) != _NO_SUCH_SESSION:
                                raise
                            continue
                        ended[blocker] = None
                        self.ended_sessions += 1
                        log.warning(
                            "ended the session %d of a former owner, which held a fence", blocker
                        )
                    if await _is_set(over, _MIN_PAUSE_S + pauses.next_s()):
                        return
        except MySQLError as error:
            log.warning("cannot end sessions that hold a fence: %s", words(error))
        except StorageUnavailable as error:
            log.warning("cannot end sessions that hold a fence: %s", error)


async def _is_set(event: asyncio.Event, within_s: float) -> bool:
    try:
        async with asyncio.timeout(within_s):
            return await event.wait()
    except TimeoutError:
        return False
